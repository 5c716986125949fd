// Whole runs: events and files, resuming exactly after a cancel and after SIGKILL, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <random>
#include <sstream>
#include <thread>

#include "core/checkpoint/reader.h"
#include "core/train/distill_job.h"
#include "core/train/run_directory.h"
#include "tests/train/tiny.h"

namespace xh {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using tiny::Distil;
using tiny::TempDir;

std::string Message(const Status& status) { return std::string(status.message()); }

class RunTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir();
    const Status written = tiny::WriteTeacher(*dir_ / "teacher.xhy");
    ASSERT_TRUE(written.ok()) << written;
    tiny::WriteRows(*dir_ / "data.jsonl", 100, 5);
    const Status run = Distil(Recipe("undisturbed"), &events_);
    ASSERT_TRUE(run.ok()) << run;
  }
  static void TearDownTestSuite() { delete dir_; }
  void TearDown() override { fs::remove_all(*dir_ / "out"); }

  static json Recipe(const std::string& output = "out") { return tiny::RecipeIn(*dir_, output); }
  static std::map<std::string, std::string> Student(const std::string& output) {
    return tiny::ReadTree(*dir_ / (output + "/student.xhy"));
  }
  // The lines of metrics.jsonl without what a clock says.
  static std::vector<json> Metrics(const std::string& output) {
    std::istringstream file(tiny::ReadText(*dir_ / (output + "/metrics.jsonl")));
    std::vector<json> lines;
    for (std::string line; std::getline(file, line);) {
      lines.push_back(json::parse(line));
      for (const char* timing : {"step_seconds", "tokens_per_second", "eta_seconds"}) {
        EXPECT_EQ(lines.back().erase(timing), 1u);
      }
    }
    return lines;
  }
  void ExpectAsUndisturbed() {
    EXPECT_TRUE(Student("out") == Student("undisturbed")) << "the student differs";
    EXPECT_EQ(Metrics("out"), Metrics("undisturbed"));
  }

  static TempDir* dir_;
  static std::vector<json> events_;
};
TempDir* RunTest::dir_ = nullptr;
std::vector<json> RunTest::events_;

TEST_F(RunTest, EventsTellThePlanEveryStepEverySaveAndTheEnd) {
  std::vector<std::string> kinds;
  for (const json& event : events_) kinds.push_back(event["kind"]);
  EXPECT_THAT(kinds, ElementsAre("data", "plan", "step", "step", "saved", "step", "step", "stage_done", "step", "step",
                                 "saved", "step", "step", "saved", "step", "step", "stage_done", "done"));
  EXPECT_EQ(events_[0]["done"], events_[0]["total"]);
  const json& plan = events_[1];
  EXPECT_EQ(plan["total_steps"], 10);
  EXPECT_EQ(plan["tokens_per_step"], 128);
  EXPECT_EQ(plan["stages"][0]["stage"], "align");
  EXPECT_LT(plan["stages"][0]["trained_parameters"], plan["stages"][1]["trained_parameters"]);
  EXPECT_EQ(plan["stages"][1]["trained_parameters"], plan["parameters"]);
  EXPECT_GT(plan["memory_bytes"], 0);
  const json& step = events_[3];
  EXPECT_EQ(step["stage"], "align");
  EXPECT_EQ(step["step"], 2);
  EXPECT_EQ(step["layers"].size(), 2u);
  for (const char* number : {"loss", "learning_rate", "gradient_norm", "tokens_per_second", "relative_loss"}) {
    EXPECT_GT(step[number].get<double>(), 0) << number;
  }
  EXPECT_EQ(step["eta_seconds"].get<double>() > 0, true);
  EXPECT_TRUE(events_[8].contains("kl"));
  EXPECT_EQ(Metrics("undisturbed").size(), 10u);
}

TEST_F(RunTest, TheStudentHoldsItsHistoryAndNoTrainingState) {
  auto reader = CheckpointReader::Open(*dir_ / "undisturbed/student.xhy");
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_TRUE((*reader)->Verify().ok());
  for (const TensorEntry& tensor : (*reader)->tensors()) EXPECT_EQ(tensor.name.find('/'), std::string::npos);
  const json history = json::parse((*reader)->metadata().at("history"));
  ASSERT_EQ(history.size(), 2u);
  EXPECT_EQ(history[0]["stage"], "align");
  EXPECT_EQ(history[1]["stage"], "distill");
  EXPECT_EQ(history[1]["options"]["kl"], "renormalized");
  EXPECT_EQ(history[1]["data"][0]["sha256"].get<std::string>().size(), 64u);
  EXPECT_EQ(history[1]["steps"], 6);
  EXPECT_EQ(history[1]["metrics"]["loss"], events_[15]["loss"]);
  EXPECT_EQ((*reader)->layers().size(), 2u);
}

TEST_F(RunTest, TheLastTrainingCheckpointStaysAlone) {
  auto directory = RunDirectory::Open(*dir_ / "undisturbed");
  ASSERT_TRUE(directory.ok());
  EXPECT_THAT(*(*directory)->CheckpointSteps(), ElementsAre(10));
}

TEST_F(RunTest, ASecondRunOfAFinishedRecipeChangesNothing) {
  const auto before = Student("undisturbed");
  std::vector<json> events;
  ASSERT_TRUE(Distil(Recipe("undisturbed"), &events).ok());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[1]["total_step"], 10);
  EXPECT_EQ(events[2]["kind"], "done");
  EXPECT_TRUE(Student("undisturbed") == before);
  EXPECT_EQ(Metrics("undisturbed").size(), 10u);
}

// Runs until `pieces` calls of Next are done, then cancels.
Status CancelAfter(const json& recipe, int pieces, int32_t threads = 1) {
  XH_ASSIGN_OR_RETURN(const std::shared_ptr<Runtime> runtime, tiny::OpenRuntime(threads));
  XH_ASSIGN_OR_RETURN(const std::unique_ptr<Job> job, OpenDistillJob(runtime, recipe));
  json event;
  for (int i = 0; i < pieces; ++i) XH_RETURN_IF_ERROR(job->Next(&event).status());
  job->Cancel();
  return job->Next(&event).status();
}

TEST_F(RunTest, ACancelledRunGoesOnAsIfItHadNeverStopped) {
  for (int pieces : {1, 2, 5, 6, 8, 15}) {
    fs::remove_all(*dir_ / "out");
    const Status cancelled = CancelAfter(Recipe(), pieces);
    ASSERT_EQ(CodeOf(cancelled), XH_CANCELLED) << cancelled;
    EXPECT_THAT(Message(cancelled), HasSubstr(pieces > 1 ? "run the same recipe" : "cancelled")) << pieces;
    const Status resumed = Distil(Recipe());
    ASSERT_TRUE(resumed.ok()) << resumed;
    ExpectAsUndisturbed();
  }
}

TEST_F(RunTest, ARunOnTwoThreadsResumesExactlyToo) {
  ASSERT_TRUE(Distil(Recipe("threads"), nullptr, 2).ok());
  ASSERT_EQ(CodeOf(CancelAfter(Recipe(), 8, 2)), XH_CANCELLED);
  ASSERT_TRUE(Distil(Recipe(), nullptr, 2).ok());
  EXPECT_TRUE(Student("out") == Student("threads"));
}

// Starts the driver and kills it after `lines` of its output and some microseconds more. False when it had finished.
bool StartAndKill(const std::string& recipe, int lines, int microseconds) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    close(ends[0]);
    close(ends[1]);
    execl(XH_TRAIN_DRIVER, XH_TRAIN_DRIVER, recipe.c_str(), nullptr);
    _exit(127);
  }
  close(ends[1]);
  char letter;
  while (lines > 0 && read(ends[0], &letter, 1) == 1) lines -= letter == '\n' ? 1 : 0;
  std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  close(ends[0]);
  EXPECT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0) << "the driver failed";
  return WIFSIGNALED(status);
}

TEST_F(RunTest, ARunKilledAtAnyPointEndsWithTheSameStudentBitForBit) {
  tiny::WriteText(*dir_ / "recipe.json", Recipe().dump());
  std::mt19937 random(20);
  int kills = 0;
  for (int round = 0; round < 4; ++round) {
    fs::remove_all(*dir_ / "out");
    for (int attempt = 0; attempt < 3; ++attempt) {
      const int lines = static_cast<int>(random() % 7), microseconds = static_cast<int>(random() % 20000);
      kills += StartAndKill(*dir_ / "recipe.json", lines, microseconds) ? 1 : 0;
    }
    const Status resumed = Distil(Recipe());
    ASSERT_TRUE(resumed.ok()) << resumed;
    ExpectAsUndisturbed();
    for (const auto& entry : fs::directory_iterator(*dir_ / "out")) {
      EXPECT_EQ(entry.path().filename().string().find(".tmp"), std::string::npos) << entry.path();
    }
  }
  EXPECT_GT(kills, 6);
}

TEST_F(RunTest, ADamagedNewestCheckpointIsPassedOver) {
  json recipe = Recipe();
  recipe["keep"] = 2;
  ASSERT_EQ(CodeOf(CancelAfter(recipe, 9)), XH_CANCELLED);
  auto directory = RunDirectory::Open(*dir_ / "out");
  ASSERT_TRUE(directory.ok());
  const std::vector<int64_t> steps = *(*directory)->CheckpointSteps();
  ASSERT_EQ(steps.size(), 2u);
  const std::string shard = (*directory)->CheckpointPath(steps[0]) + "/tensors-00000.bin";
  directory->reset();
  std::string bytes = tiny::ReadText(shard);
  bytes[bytes.size() / 2] ^= 1;
  tiny::WriteText(shard, bytes);
  ASSERT_TRUE(Distil(recipe).ok());
  ExpectAsUndisturbed();
}

TEST_F(RunTest, WithoutAReadableCheckpointTheRunStopsRatherThanBeginAnew) {
  ASSERT_EQ(CodeOf(CancelAfter(Recipe(), 4)), XH_CANCELLED);
  tiny::WriteText(*dir_ / "out/step-00000002.xhy/manifest.xhy", "nothing");
  EXPECT_THAT(Message(Distil(Recipe())), HasSubstr("no training checkpoint can be read"));
}

TEST_F(RunTest, AnotherRecipeInTheSameOutputIsRefusedByItsFirstDifference) {
  json recipe = Recipe("undisturbed");
  recipe["seed"] = 4;
  const Status other = Distil(recipe);
  EXPECT_EQ(CodeOf(other), XH_INVALID_STATE);
  EXPECT_THAT(Message(other), HasSubstr("\"seed\" is 4, was 3"));
  recipe = Recipe("undisturbed");
  recipe["resume"] = "no";
  EXPECT_THAT(Message(Distil(recipe)), HasSubstr("already holds a run"));
}

TEST_F(RunTest, DataThatChangedSinceIsAnotherRun) {
  json recipe = Recipe();
  tiny::WriteRows(*dir_ / "other.jsonl", 50, 8);
  recipe["data"] = *dir_ / "other.jsonl";
  ASSERT_EQ(CodeOf(CancelAfter(recipe, 3)), XH_CANCELLED);
  tiny::WriteRows(*dir_ / "other.jsonl", 50, 9);
  EXPECT_THAT(Message(Distil(recipe)), HasSubstr("data[0].sha256"));
}

TEST_F(RunTest, TwoRunsInOneOutputAreRefused) {
  auto first = RunDirectory::Open(*dir_ / "out");
  ASSERT_TRUE(first.ok()) << first.status();
  const Status second = Distil(Recipe());
  EXPECT_EQ(CodeOf(second), XH_INVALID_STATE);
  EXPECT_THAT(Message(second), HasSubstr("in use by another run"));
}

TEST_F(RunTest, ADryRunShowsThePlanAndWritesNothing) {
  json recipe = Recipe();
  recipe["dry_run"] = true;
  std::vector<json> events;
  ASSERT_TRUE(Distil(recipe, &events).ok());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1]["kind"], "plan");
  EXPECT_GT(events[1]["stages"][1]["memory_bytes"], 0);
  EXPECT_FALSE(fs::exists(*dir_ / "out"));
}

TEST_F(RunTest, AnExpertStartsFromAStudentAndAddsToItsHistory) {
  json recipe = Recipe();
  recipe["student"] = *dir_ / "undisturbed/student.xhy";
  recipe["stages"] = {{{"stage", "distill"}, {"steps", 2}, {"top_k", 16}}};
  ASSERT_TRUE(Distil(recipe).ok());
  auto reader = CheckpointReader::Open(*dir_ / "out/student.xhy");
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(json::parse((*reader)->metadata().at("history")).size(), 3u);
}

TEST_F(RunTest, AStudentOfAnotherTeacherIsRefused) {
  ASSERT_TRUE(tiny::WriteTeacher(*dir_ / "wide.xhy", 96).ok());
  json recipe = Recipe();
  recipe["teacher"] = *dir_ / "wide.xhy";
  recipe["student"] = *dir_ / "undisturbed/student.xhy";
  const Status refused = Distil(recipe);
  EXPECT_EQ(CodeOf(refused), XH_INCOMPATIBLE);
  EXPECT_THAT(Message(refused), HasSubstr("\"vocab_size\" is 64, the teacher's is 96"));
}

TEST_F(RunTest, WhatTheTeacherCannotTakeIsRefusedBeforeTheFirstStep) {
  json recipe = Recipe();
  recipe["context"] = 129;
  EXPECT_THAT(Message(Distil(recipe)), HasSubstr("\"context\" is 129; allowed: 2 to 128"));
  recipe = Recipe();
  recipe["teacher"] = *dir_ / "absent.xhy";
  EXPECT_EQ(CodeOf(Distil(recipe)), XH_NOT_FOUND);
  recipe = Recipe();
  tiny::WriteText(*dir_ / "short.jsonl", "{\"ids\": [3, 4, 5]}\n");
  recipe["data"] = *dir_ / "short.jsonl";
  EXPECT_THAT(Message(Distil(recipe)), HasSubstr("holds 3 tokens; allowed: at least 33"));
  ASSERT_TRUE(tiny::WriteTeacher(*dir_ / "narrow.xhy", 64, true).ok());
  recipe = Recipe();
  recipe["teacher"] = *dir_ / "narrow.xhy";
  EXPECT_THAT(Message(Distil(recipe)), HasSubstr("the tokenizer has 4096 tokens, the model's vocabulary 64"));
}

TEST_F(RunTest, ABf16RunResumesExactlyToo) {
  json recipe = Recipe("bf16");
  recipe["dtype"] = "bf16";
  ASSERT_TRUE(Distil(recipe).ok());
  recipe["output"] = *dir_ / "out";
  ASSERT_EQ(CodeOf(CancelAfter(recipe, 9)), XH_CANCELLED);
  ASSERT_TRUE(Distil(recipe).ok());
  EXPECT_TRUE(Student("out") == Student("bf16"));
}

TEST_F(RunTest, AChatRecipeTrainsOnRepliesAlone) {
  ASSERT_TRUE(tiny::WriteTeacher(*dir_ / "chat.xhy", 4096, true).ok());
  std::string rows;
  for (int i = 0; i < 40; ++i) {
    const json question = {{"role", "user"}, {"content", absl::StrCat("What is ", i, " + ", i, "?")}};
    const json answer = {{"role", "assistant"}, {"content", absl::StrCat("It is ", 2 * i, ".")}};
    rows += json({{"messages", {question, answer}}}).dump() + "\n";
  }
  tiny::WriteText(*dir_ / "chat.jsonl", rows);
  json recipe = Recipe();
  recipe["teacher"] = *dir_ / "chat.xhy";
  recipe["data"] = {{{"path", *dir_ / "chat.jsonl"}, {"kind", "chat"}}};
  recipe["loss_on"] = "assistant";
  recipe["stages"] = {{{"stage", "distill"}, {"steps", 2}}};
  std::vector<json> events;
  const Status run = Distil(recipe, &events);
  ASSERT_TRUE(run.ok()) << run;
  EXPECT_GT(events[2]["cross_entropy"].get<double>(), 1);
}

}  // namespace
}  // namespace xh
