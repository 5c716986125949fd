// A device without memory: whatever needed some fails with XH_OUT_OF_MEMORY, and the same call works when there is
// room.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>

#include "tests/device/watched_runtime.h"

namespace {

using faults::Outcome;
using faults::Place;
using faults::ReadTree;
using faults::Take;
using nlohmann::json;
using watched::WatchedRuntime;

// At most so many allocations fail, evenly spread over those there are.
int64_t MostRounds() {
  const char* const given = getenv("XH_EXHAUSTED_ROUNDS");
  return given != nullptr ? atoll(given) : 60;
}
int64_t Stride(int64_t allocations) { return (allocations + MostRounds() - 1) / MostRounds(); }

// A conversation whose calls are made again, each one until it works.
class Talk {
 public:
  explicit Talk(WatchedRuntime* runtime) : runtime_(runtime) {}
  ~Talk() {
    xh_session_free(session_);
    xh_model_free(model_);
  }
  Talk(const Talk&) = delete;
  Talk& operator=(const Talk&) = delete;

  Outcome Open() {
    const std::string model = watched::Source("tests/vectors/teachers/hf_llama");
    if (model_ == nullptr) {
      const Outcome loaded = Take(xh_model_load(runtime_->get(), model.c_str(), nullptr, 0, &model_));
      if (loaded.code != 0) return loaded;
    }
    return session_ != nullptr ? Outcome() : Take(xh_session_open(model_, nullptr, 0, &session_));
  }
  Outcome Say() {
    tokens_.clear();
    const int32_t prompt[] = {5, 6, 7, 8, 9};
    Outcome outcome = Take(xh_session_reset(session_));
    if (outcome.code == 0) outcome = Take(xh_session_feed(session_, prompt, 5));
    for (int i = 0; i < 4 && outcome.code == 0; ++i) {
      int32_t token = -1, finished = 0;
      const char* piece = nullptr;
      int64_t size = 0;
      outcome = Take(xh_session_next(session_, &token, &piece, &size, &finished));
      tokens_.push_back(token);
    }
    return outcome;
  }
  Outcome All() {
    const Outcome opened = Open();
    return opened.code != 0 ? opened : Say();
  }
  const std::vector<int32_t>& tokens() const { return tokens_; }

 private:
  WatchedRuntime* runtime_;
  xh_model* model_ = nullptr;
  xh_session* session_ = nullptr;
  std::vector<int32_t> tokens_;
};

class ExhaustedTest : public testing::Test {
 protected:
  void SetUp() override {
    faults::WriteRows(place_ / "data.jsonl");
    runtime_.calls();
    ASSERT_EQ(Train("undisturbed").message, "");
    allocations_ = CountAllocations();
    student_ = ReadTree(place_ / "undisturbed/student.xhy");
    ASSERT_FALSE(student_.empty());
  }

  Outcome Train(const std::string& output) {
    json recipe = watched::OneStage(place_, output, "align", 2);
    recipe["stages"].push_back({{"stage", "distill"}, {"steps", 2}, {"warmup", 1}, {"top_k", 8}});
    return faults::RunJob(runtime_.get(), "distill", recipe);
  }
  int64_t CountAllocations() {
    const std::string calls = runtime_.calls();
    return std::count(calls.begin(), calls.end(), 'a');
  }
  static void ExpectNoMemory(const Outcome& outcome) {
    EXPECT_EQ(outcome.code, XH_OUT_OF_MEMORY) << outcome.message;
    EXPECT_EQ(outcome.message.find('\n'), std::string::npos);
  }

  Place place_;
  WatchedRuntime runtime_;
  int64_t allocations_ = 0;  // of the training run
  decltype(ReadTree("")) student_;
};

TEST_F(ExhaustedTest, EachAllocationOfATrainingRunMayFail) {
  ASSERT_GT(allocations_, 20);
  for (int64_t n = 0; n < allocations_; n += Stride(allocations_)) {
    SCOPED_TRACE("allocation " + std::to_string(n));
    const std::string output = "run" + std::to_string(n);
    runtime_.refuse(n);
    const Outcome outcome = Train(output);
    runtime_.refuse(-1);
    ExpectNoMemory(outcome);
    ASSERT_EQ(Train(output).message, "");
    EXPECT_EQ(ReadTree(place_ / (output + "/student.xhy")), student_);
  }
}

TEST_F(ExhaustedTest, EachAllocationOfASessionMayFail) {
  runtime_.calls();
  Talk undisturbed(&runtime_);
  ASSERT_EQ(undisturbed.All().message, "");
  const int64_t allocations = CountAllocations();
  ASSERT_GT(allocations, 5);
  for (int64_t n = 0; n < allocations; n += Stride(allocations)) {
    SCOPED_TRACE("allocation " + std::to_string(n));
    Talk talk(&runtime_);
    runtime_.refuse(n);
    const Outcome outcome = talk.All();
    ASSERT_EQ(runtime_.refused(), 1);
    ExpectNoMemory(outcome);
    ASSERT_EQ(talk.All().message, "");
    EXPECT_EQ(talk.tokens(), undisturbed.tokens());
  }
}

// Not one allocation but every one behind some point, with code and workspaces of the device's own libraries among
// them.
TEST_F(ExhaustedTest, AFullDeviceFailsAndServesAgain) {
  if (runtime_.host_memory() != 0) return;  // the host's memory is not ours to fill
  Talk talk(&runtime_);
  ASSERT_EQ(talk.All().message, "");
  const std::vector<int32_t> tokens = talk.tokens();
  int failures = 0;
  for (const int64_t megabytes : {0, 1, 4, 16, 64, 256}) {
    SCOPED_TRACE(std::to_string(megabytes) + " MB left");
    const std::string output = "full" + std::to_string(megabytes);
    runtime_.fill(megabytes * 1000000);
    Talk other(&runtime_);
    const Outcome full = Train(output), opened = other.All(), said = talk.Say();
    runtime_.fill(-1);
    for (const Outcome& outcome : {full, opened, said}) {
      failures += outcome.code != 0 ? 1 : 0;
      if (outcome.code != 0) ExpectNoMemory(outcome);
      if (outcome.code != 0)
        std::printf("%lld MB left: %s\n", static_cast<long long>(megabytes), outcome.message.c_str());
    }
    ASSERT_EQ(Train(output).message, "");
    EXPECT_EQ(ReadTree(place_ / (output + "/student.xhy")), student_);
    ASSERT_EQ(talk.Say().message, "");
    EXPECT_EQ(talk.tokens(), tokens);
    ASSERT_EQ(other.All().message, "");
    EXPECT_EQ(other.tokens(), tokens);
  }
  EXPECT_GT(failures, 0) << "the device was never full";
}

}  // namespace
