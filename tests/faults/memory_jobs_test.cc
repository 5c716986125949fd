// Whole jobs, run to their end with an allocation failing on the way: the job ends with XH_OUT_OF_MEMORY and stays
// ended, nothing leaks, what it was to write is not there or whole, and the same recipe run again gives the same.
#include <gtest/gtest.h>
#include <zlib.h>

#include <filesystem>

#include "failing_malloc.h"
#include "place.h"

namespace {

namespace fs = std::filesystem;
using faults::Outcome;
using faults::Place;
using faults::Take;
using nlohmann::json;
using Tree = std::map<std::string, std::string>;

constexpr int64_t kSamples = 50;  // allocations of a job that fail, spread over it

struct Kind {
  const char* name;
  json recipe;
  std::string output;  // in the place: what must be the same after a failure, "" for none
};

class MemoryJobsTest : public testing::Test {
 protected:
  void SetUp() override {
    runtime_ = faults::OpenRuntime();
    faults::WriteRows(place_ / "data.jsonl");
    faults::WriteText(place_ / "text.jsonl", "{\"text\": \"Once upon a time there was a dog.\"}\n");
  }
  void TearDown() override { xh_runtime_close(runtime_); }

  // Runs a job with allocation n failing; its first error. *used tells whether it came that far.
  Outcome RunKind(const Kind& kind, const std::string& recipe, int64_t n, bool onwards, bool* used) {
    xh_job* job = nullptr;
    const char* event = nullptr;
    int32_t finished = 0;
    fail_allocation(n, onwards ? 1 : 0);
    xh_error* error = xh_job_open(runtime_, kind.name, recipe.c_str(), &job);
    while (error == nullptr && finished == 0) error = xh_job_next(job, &event, &finished);
    *used = end_failures() > 0;
    const Outcome outcome = Take(error);
    if (outcome.code != 0 && job != nullptr) {
      const xh_code after = Take(xh_job_next(job, &event, &finished)).code;
      EXPECT_EQ(after, XH_INVALID_STATE) << "the job is over";
    }
    xh_job_free(job);
    return outcome;
  }

  Tree Output(const Kind& kind) const {
    if (kind.output.empty()) return {};
    const std::string path = place_ / kind.output;
    return fs::is_regular_file(path) ? Tree{{"", faults::ReadText(path)}} : faults::ReadTree(path);
  }

  void Sweep(const Kind& kind) {
    const std::string recipe = kind.recipe.dump();
    bool used = false;
    ASSERT_EQ(RunKind(kind, recipe, INT64_MAX, false, &used).message, "");
    const Tree expected = Output(kind);
    ASSERT_EQ(kind.output.empty(), expected.empty());
    Clear(kind);
    RunKind(kind, recipe, INT64_MAX, false, &used);  // what first calls leave is there
    const int64_t asked = allocations_asked();
    Clear(kind);
    const int64_t stride = std::max<int64_t>(1, asked / kSamples);
    for (int64_t n = 1; n <= asked && !HasFailure(); n += stride) {
      for (bool onwards : {false, true}) {
        SCOPED_TRACE(std::string(kind.name) + ", allocation " + std::to_string(n) + (onwards ? " and on" : ""));
        const int64_t before = blocks_held();
        const xh_code code = RunKind(kind, recipe, n, onwards, &used).code;
        EXPECT_LE(blocks_held(), before) << "a leak";
        EXPECT_TRUE(used);
        EXPECT_TRUE(code == XH_OUT_OF_MEMORY || (code == 0 && !onwards)) << code;
        const Outcome again = code == 0 ? Outcome() : RunKind(kind, recipe, INT64_MAX, false, &used);
        EXPECT_EQ(again.message, "");
        EXPECT_TRUE(Output(kind) == expected) << "the output differs";
        Clear(kind);
      }
    }
    std::printf("%-10s %7lld allocations\n", kind.name, static_cast<long long>(asked));
  }

  void Clear(const Kind& kind) {
    for (const char* name : {"out", "out.xhy", "out.jsonl", "out.json", "out.html"}) fs::remove_all(place_ / name);
    EXPECT_TRUE(Output(kind).empty());
  }

  Place place_;
  xh_runtime* runtime_ = nullptr;
};

TEST_F(MemoryJobsTest, Import) {
  Sweep({"import", {{"model", faults::SmallTeacher()}, {"dtype", "bf16"}, {"output", place_ / "out.xhy"}}, "out.xhy"});
}
TEST_F(MemoryJobsTest, Export) {
  Sweep({"export", {{"model", faults::SmallTeacher()}, {"dtype", "bf16"}, {"output", place_ / "out"}}, "out"});
}
TEST_F(MemoryJobsTest, Merge) {
  Sweep({"merge",
         {{"models", {faults::SmallTeacher(), faults::SmallTeacher()}},
          {"method", "linear"},
          {"output", place_ / "out.xhy"}},
         "out.xhy"});
}
TEST_F(MemoryJobsTest, Tokenize) {
  gzFile gzipped = gzopen((place_ / "text.jsonl.gz").c_str(), "wb");
  ASSERT_GT(gzputs(gzipped, faults::ReadText(place_ / "text.jsonl").c_str()), 0);
  ASSERT_EQ(gzclose(gzipped), Z_OK);
  const std::string teacher = faults::ByteTeacher(place_);
  for (const char* data : {"text.jsonl", "text.jsonl.gz"}) {
    Sweep({"tokenize",
           {{"model", teacher}, {"data", {place_ / data}}, {"output", place_ / "out.jsonl"}, {"replace", true}},
           "out.jsonl"});
  }
}
TEST_F(MemoryJobsTest, Distill) {
  json recipe = faults::TrainingRecipe(place_, "out");
  recipe["stages"] = {{{"stage", "align"}, {"steps", 2}}};
  recipe["save_every"] = 1;
  Sweep({"distill", recipe, "out/student.xhy"});
}
TEST_F(MemoryJobsTest, Evaluate) {
  Sweep(
      {"evaluate",
       {{"models", {faults::ByteTeacher(place_)}}, {"tasks", {place_ / "text.jsonl"}}, {"output", place_ / "out.json"}},
       ""});
}

// Rows are read by several threads at once: none may end the process, and no row may be left out for want of memory.
TEST_F(MemoryJobsTest, RowsThatSeveralThreadsRead) {
  faults::WriteRows(place_ / "data.jsonl", 64);
  json recipe = faults::TrainingRecipe(place_, "out");
  recipe["stages"] = {{{"stage", "align"}, {"steps", 1}}};
  const std::string text = recipe.dump();
  int64_t failed = 0;
  for (int64_t n = 1; n < 4000; n += 97) {
    xh_job* job = nullptr;
    ASSERT_EQ(Take(xh_job_open(runtime_, "distill", text.c_str(), &job)).code, 0);
    const char* event = nullptr;
    int32_t finished = 0;
    fail_allocation_of_any_thread(n, 1);
    xh_error* error = xh_job_next(job, &event, &finished);  // opens the teacher and reads the rows
    if (end_failures() > 0) {
      ++failed;
      EXPECT_EQ(Take(error).code, XH_OUT_OF_MEMORY) << n;
    } else {
      EXPECT_EQ(Take(error).message, "") << n;
    }
    xh_job_free(job);
  }
  EXPECT_GT(failed, 10);
}

}  // namespace
