// Disks that are full, worn out, over quota or read-only, and processes that are killed, at every single system call of
// a save: what is opened afterwards is the old content or the new one, whole, and the next save leaves nothing over.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

#include "traced.h"

namespace {

namespace fs = std::filesystem;
using faults::Ending;
using faults::Fault;
using faults::Outcome;
using faults::Place;
using nlohmann::json;
using Tree = std::map<std::string, std::string>;

xh_runtime* Runtime() {
  static xh_runtime* runtime = faults::OpenRuntime();
  return runtime;
}

Outcome RunOf(const char* kind, const json& recipe) { return faults::RunJob(Runtime(), kind, recipe); }

Outcome Verify(const std::string& path) {
  xh_checkpoint* checkpoint = nullptr;
  Outcome outcome = faults::Take(xh_checkpoint_open(Runtime(), path.c_str(), nullptr, 0, &checkpoint));
  if (outcome.code == 0) outcome = faults::Take(xh_checkpoint_verify(checkpoint));
  xh_checkpoint_free(checkpoint);
  return outcome;
}

// A save over what a save before it wrote.
struct Saving {
  const char* kind;
  json old_recipe, new_recipe;  // without "output"
  std::string name;             // of the output in its place
};

json With(json recipe, const std::string& output) {
  recipe["output"] = output;
  recipe["replace"] = true;
  return recipe;
}

struct Contents {
  Tree before, after;
};

Contents ContentsOf(const Saving& saving) {
  Place place;
  EXPECT_EQ(RunOf(saving.kind, With(saving.old_recipe, place / saving.name)).code, 0);
  Contents contents{faults::ReadTree(place / saving.name), {}};
  EXPECT_EQ(RunOf(saving.kind, With(saving.new_recipe, place / saving.name)).code, 0);
  contents.after = faults::ReadTree(place / saving.name);
  EXPECT_FALSE(contents.before == contents.after);
  return contents;
}

// Which calls fail: every one. Under a sanitizer, where a process takes long to start, every fifth.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kStride = 5;
#else
constexpr int64_t kStride = 1;
#endif

// One save that meets the fault. False when it ended before.
bool SaveOnce(const Saving& saving, const Contents& contents, const Fault& fault) {
  Place place;
  const std::string target = place / saving.name;
  EXPECT_EQ(RunOf(saving.kind, With(saving.old_recipe, target)).code, 0);
  const json recipe = With(saving.new_recipe, target);
  const Ending ending = faults::RunWithFault(place.path(), fault, [&] { return RunOf(saving.kind, recipe); });
  const std::string at = std::string(saving.kind) + ", call " + std::to_string(fault.call) + " (" + ending.call + ") " +
                         (fault.reason != 0 ? std::strerror(fault.reason)
                          : fault.after     ? "killed after"
                                            : "killed");
  const Tree found = faults::ReadTree(target);
  const bool is_new = found == contents.after;
  EXPECT_TRUE(is_new || found == contents.before) << at << ": neither the old nor the new content";
  if (saving.kind != std::string("export")) {
    EXPECT_EQ(Verify(target).message, "") << at;
  }
  EXPECT_EQ(ending.killed, ending.reached && fault.reason == 0) << at;
  if (!ending.killed && ending.outcome.code == 0) {
    EXPECT_TRUE(is_new) << at << ": success, and the old content";
  }
  if (!ending.killed && ending.outcome.code != 0) {
    const std::string& message = ending.outcome.message;
    EXPECT_EQ(ending.outcome.code, XH_IO) << at << ": " << message;
    EXPECT_NE(message.find(place.path()), std::string::npos) << at << ": " << message;
    EXPECT_NE(message.find(std::strerror(fault.reason)), std::string::npos) << at << ": " << message;
    EXPECT_EQ(is_new, message.find("is in place") != std::string::npos) << at << ": " << message;
  }
  EXPECT_EQ(RunOf(saving.kind, recipe).code, 0) << at;
  EXPECT_TRUE(faults::ReadTree(target) == contents.after) << at << ": the next save";
  EXPECT_EQ(faults::Names(place.path()), std::vector<std::string>{saving.name}) << at << ": something is left over";
  return ending.reached;
}

void SaveWithEveryFault(const Saving& saving) {
  const Contents contents = ContentsOf(saving);
  int64_t last = 0;
  for (const Fault& kind : {Fault{0, ENOSPC, false}, Fault{0, EIO, false}, Fault{0, EDQUOT, false},
                            Fault{0, EROFS, false}, Fault{0, 0, false}, Fault{0, 0, true}}) {
    Fault fault = kind;
    do fault.call += kStride;
    while (SaveOnce(saving, contents, fault) && !testing::Test::HasFailure());
    last = std::max(last, fault.call - 1);
  }
  EXPECT_GT(last, 12) << "calls of a save";
}

TEST(StorageTest, ACheckpointIsTheOldOneOrTheNewOne) {
  SaveWithEveryFault({"import",
                      {{"model", faults::SmallTeacher()}, {"dtype", "f32"}},
                      {{"model", faults::SmallTeacher()}, {"dtype", "bf16"}},
                      "a.xhy"});
}

TEST(StorageTest, AnExportIsTheOldOneOrTheNewOne) {
  SaveWithEveryFault({"export",
                      {{"model", faults::SmallTeacher()}, {"dtype", "f32"}},
                      {{"model", faults::SmallTeacher()}, {"dtype", "bf16"}, {"shard_size", 100000}},
                      "a"});
}

// ---- training ----

class TrainingStorageTest : public testing::Test {
 protected:
  void SetUp() override { faults::WriteRows(place_ / "data.jsonl"); }

  json Recipe(const std::string& output) const {
    json recipe = faults::TrainingRecipe(place_, output);
    recipe["stages"] = {{{"stage", "align"}, {"steps", 3}, {"warmup", 1}}};
    return recipe;
  }

  // A run that meets the fault, and the same recipe again. False when the run ended before.
  bool RunOnce(const Fault& fault, const Tree& student) {
    const std::string output = place_ / "out";
    const Ending ending = faults::RunWithFault(output, fault, [&] { return RunOf("distill", Recipe("out")); });
    const std::string at = "call " + std::to_string(fault.call) + " (" + ending.call + ")";
    EXPECT_EQ(ending.killed, ending.reached && fault.reason == 0) << at;
    if (!ending.killed && ending.outcome.code != 0) {
      EXPECT_EQ(ending.outcome.code, XH_IO) << at << ": " << ending.outcome.message;
      EXPECT_NE(ending.outcome.message.find(output), std::string::npos) << at << ": " << ending.outcome.message;
      EXPECT_NE(ending.outcome.message.find(std::strerror(fault.reason)), std::string::npos)
          << at << ": " << ending.outcome.message;
    }
    const Outcome resumed = RunOf("distill", Recipe("out"));
    EXPECT_EQ(resumed.message, "") << at;
    EXPECT_TRUE(faults::ReadTree(output + "/student.xhy") == student) << at << ": the student differs";
    for (const std::string& name : faults::Names(output)) {
      EXPECT_EQ(name.find(".tmp"), std::string::npos) << at << ": " << name;
    }
    EXPECT_EQ(Lines(output + "/metrics.jsonl"), 3) << at;
    fs::remove_all(output);
    return ending.reached;
  }

  static int64_t Lines(const std::string& path) {
    const std::string text = faults::ReadText(path);
    return std::count(text.begin(), text.end(), '\n');
  }

  Place place_;
};

TEST_F(TrainingStorageTest, ARunGoesOnAfterAFailureOfAnyCall) {
  ASSERT_EQ(RunOf("distill", Recipe("undisturbed")).message, "");
  const Tree student = faults::ReadTree(place_ / "undisturbed/student.xhy");
  for (const int reason : {ENOSPC, 0}) {
    Fault fault{0, reason, false};
    do fault.call += kStride;
    while (RunOnce(fault, student) && !HasFailure());
    EXPECT_GT(fault.call, 40) << "calls of a run";
  }
}

TEST_F(TrainingStorageTest, ARunWhoseDirectoryVanishesSaysSo) {
  const std::string output = place_ / "out";
  xh_job* job = nullptr;
  ASSERT_EQ(faults::Take(xh_job_open(Runtime(), "distill", Recipe("out").dump().c_str(), &job)).code, 0);
  const char* event = nullptr;
  int32_t finished = 0;
  for (int i = 0; i < 3; ++i) ASSERT_EQ(faults::Take(xh_job_next(job, &event, &finished)).code, 0);
  fs::remove_all(output);
  Outcome outcome;
  while (outcome.code == 0 && finished == 0) outcome = faults::Take(xh_job_next(job, &event, &finished));
  EXPECT_EQ(outcome.code, XH_NOT_FOUND) << outcome.message;
  EXPECT_NE(outcome.message.find(output), std::string::npos) << outcome.message;
  EXPECT_EQ(faults::Take(xh_job_next(job, &event, &finished)).code, XH_INVALID_STATE) << "the job is over";
  xh_job_free(job);
}

TEST_F(TrainingStorageTest, AReadOnlyDirectoryIsNamed) {
  ASSERT_EQ(chmod(place_.path().c_str(), 0555), 0);
  const std::vector<std::pair<const char*, json>> saves = {
      {"distill", Recipe("out")},
      {"import", {{"model", faults::SmallTeacher()}, {"output", place_ / "a.xhy"}}},
      {"export", {{"model", faults::SmallTeacher()}, {"output", place_ / "a"}}}};
  for (const auto& [kind, recipe] : saves) {
    faults::Child child([&, kind = kind, recipe = recipe] {
      if (geteuid() == 0 && setuid(65534) != 0) return Outcome{XH_INTERNAL, "setuid", ""};  // nothing binds root
      return RunOf(kind, recipe);
    });
    const Outcome outcome = child.Wait().outcome;
    EXPECT_EQ(outcome.code, XH_IO) << kind << ": " << outcome.message;
    EXPECT_NE(outcome.message.find(place_.path()), std::string::npos) << kind << ": " << outcome.message;
    EXPECT_NE(outcome.message.find("Permission denied"), std::string::npos) << kind << ": " << outcome.message;
  }
  ASSERT_EQ(chmod(place_.path().c_str(), 0755), 0);
}

// ---- two processes and one place ----

TEST(TwoProcessesTest, OfTwoThatReplaceOneCheckpointTheLastOneStays) {
  const Saving saving{"import",
                      {{"model", faults::SmallTeacher()}, {"dtype", "f32"}},
                      {{"model", faults::SmallTeacher()}, {"dtype", "bf16"}},
                      "a.xhy"};
  const Contents contents = ContentsOf(saving);
  Place place;
  const std::string target = place / saving.name;
  for (int round = 0; round < 20; ++round) {
    faults::Child first([&] { return RunOf("import", With(saving.old_recipe, target)); });
    faults::Child second([&] { return RunOf("import", With(saving.new_recipe, target)); });
    for (const Ending& ending : {first.Wait(), second.Wait()}) {
      EXPECT_FALSE(ending.killed);
      // On the first round there may be nothing to replace when both begin.
      EXPECT_TRUE(ending.outcome.code == 0 || ending.outcome.code == XH_INVALID_STATE) << ending.outcome.message;
    }
    const Tree found = faults::ReadTree(target);
    EXPECT_TRUE(found == contents.before || found == contents.after);
    EXPECT_EQ(faults::Names(place.path()), std::vector<std::string>{saving.name});
  }
}

TEST(TwoProcessesTest, OfTwoThatMakeOneCheckpointOneGetsOneError) {
  for (int round = 0; round < 20; ++round) {
    Place place;
    const json recipe = {{"model", faults::SmallTeacher()}, {"output", place / "a.xhy"}};
    faults::Child first([&] { return RunOf("import", recipe); });
    faults::Child second([&] { return RunOf("import", recipe); });
    std::vector<Outcome> failed;
    for (const Ending& ending : {first.Wait(), second.Wait()}) {
      if (ending.outcome.code != 0) failed.push_back(ending.outcome);
    }
    ASSERT_EQ(failed.size(), 1u);
    EXPECT_EQ(failed[0].code, XH_INVALID_STATE) << failed[0].message;
    EXPECT_NE(failed[0].message.find(place / "a.xhy"), std::string::npos) << failed[0].message;
    EXPECT_EQ(Verify(place / "a.xhy").message, "");
    EXPECT_EQ(faults::Names(place.path()), std::vector<std::string>{"a.xhy"});
  }
}

TEST(TwoProcessesTest, ARunIsOfOneProcess) {
  Place place;
  faults::WriteRows(place / "data.jsonl");
  const std::string recipe = faults::TrainingRecipe(place, "out").dump();
  xh_job* job = nullptr;
  ASSERT_EQ(faults::Take(xh_job_open(Runtime(), "distill", recipe.c_str(), &job)).code, 0);
  const char* event = nullptr;
  int32_t finished = 0;
  ASSERT_EQ(faults::Take(xh_job_next(job, &event, &finished)).code, 0);
  faults::Child second([&] { return RunOf("distill", json::parse(recipe)); });
  const Outcome refused = second.Wait().outcome;
  EXPECT_EQ(refused.code, XH_INVALID_STATE) << refused.message;
  EXPECT_NE(refused.message.find((place / "out") + " is in use by another run"), std::string::npos) << refused.message;
  while (finished == 0) ASSERT_EQ(faults::Take(xh_job_next(job, &event, &finished)).code, 0);
  xh_job_free(job);
}

}  // namespace
