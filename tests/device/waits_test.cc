// How often the host waits for the device: once a training step and once a token, when all of it is queued.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/device/watched_runtime.h"

namespace {

using faults::Place;
using faults::Take;
using nlohmann::json;
using testing::MatchesRegex;
using watched::WatchedRuntime;

constexpr int kFirst = 3;  // by then graphs are compiled, and recorded where the backend can

// What was called in each step of a job. Nothing is run, copied to the device or asked of it behind the first copy to
// the host: no number is read that the rest of the step depends on.
std::vector<std::string> CallsOfSteps(WatchedRuntime& runtime, const json& recipe) {
  std::vector<std::string> steps;
  xh_job* job = nullptr;
  EXPECT_EQ(Take(xh_job_open(runtime.get(), "distill", recipe.dump().c_str(), &job)).message, "");
  for (int32_t finished = 0; job != nullptr && finished == 0;) {
    const char* event = nullptr;
    runtime.calls();
    const faults::Outcome outcome = Take(xh_job_next(job, &event, &finished));
    EXPECT_EQ(outcome.message, "");
    if (outcome.code != 0) break;
    if (json::parse(event)["kind"] == "step") steps.emplace_back(runtime.calls());
  }
  xh_job_free(job);
  return steps;
}

class WaitsTest : public testing::Test {
 protected:
  void SetUp() override { faults::WriteRows(place_ / "data.jsonl"); }

  void OpenSession() {
    const std::string model = watched::Source("tests/vectors/teachers/hf_llama");
    ASSERT_EQ(Take(xh_model_load(runtime_.get(), model.c_str(), nullptr, 0, &model_)).message, "");
    ASSERT_EQ(Take(xh_session_open(model_, nullptr, 0, &session_)).message, "");
    const int32_t prompt[] = {5, 6, 7, 8, 9};
    ASSERT_EQ(Take(xh_session_feed(session_, prompt, 5)).message, "");
  }
  void TearDown() override {
    xh_batch_free(batch_);
    xh_session_free(session_);
    xh_model_free(model_);
  }

  std::string CallsOfAToken() {
    int32_t token = 0, finished = 0;
    const char* piece = nullptr;
    int64_t size = 0;
    runtime_.calls();
    EXPECT_EQ(Take(xh_session_next(session_, &token, &piece, &size, &finished)).message, "");
    return runtime_.calls();
  }

  std::string CallsOfABatch() {
    int32_t tokens[2] = {}, finished[2] = {};
    const char* pieces[2] = {};
    int64_t sizes[2] = {};
    runtime_.calls();
    EXPECT_EQ(Take(xh_batch_next(batch_, tokens, pieces, sizes, finished, 2)).message, "");
    return runtime_.calls();
  }

  Place place_;
  WatchedRuntime runtime_;
  xh_model* model_ = nullptr;
  xh_session* session_ = nullptr;
  xh_batch* batch_ = nullptr;
};

TEST_F(WaitsTest, AStepWaitsOnceWhenAllOfItIsQueued) {
  for (const char* stage : {"align", "distill"}) {
    SCOPED_TRACE(stage);
    json recipe = watched::OneStage(place_, stage, stage, 6);
    recipe["micro_batch"] = 1;  // of two rows
    const std::vector<std::string> steps = CallsOfSteps(runtime_, recipe);
    ASSERT_EQ(steps.size(), 6u);
    for (size_t i = kFirst; i < steps.size(); ++i) EXPECT_THAT(steps[i], MatchesRegex("[rpum]+d+s"));
  }
}

TEST_F(WaitsTest, ATokenWaitsOnceWhenAllOfItIsQueued) {
  OpenSession();
  for (int i = 0; i < kFirst; ++i) CallsOfAToken();
  for (int i = 0; i < 5; ++i) EXPECT_THAT(CallsOfAToken(), MatchesRegex("[rpum]+d+s"));
}

TEST_F(WaitsTest, TokensOfABatchWaitOnceTogether) {
  OpenSession();
  xh_option slots = {};
  slots.key = "slots";
  slots.kind = XH_OPTION_INT;
  slots.integer = 2;
  ASSERT_EQ(Take(xh_batch_open(model_, &slots, 1, &batch_)).message, "");
  for (const int64_t slot : {0, 1}) ASSERT_EQ(Take(xh_batch_put(batch_, slot, session_)).message, "");
  for (int i = 0; i < kFirst; ++i) CallsOfABatch();
  for (int i = 0; i < 5; ++i) EXPECT_THAT(CallsOfABatch(), MatchesRegex("[rpum]+d+s"));
}

// Where the device has memory of its own a copy may wait without saying so. Four micro-batches of 128 KiB of ids each:
// if one waited for those queued before it, three quarters of a step would pass with queueing.
TEST_F(WaitsTest, QueueingAStepTakesASmallPartOfIt) {
  if (runtime_.host_memory() != 0) return;  // there running is queueing
  faults::WriteRows(place_ / "data.jsonl", 4096);
  json recipe = watched::OneStage(place_, "large", "align", 12);
  recipe["teacher"] = watched::Source("examples/teacher-llama-3m");
  recipe["student"] = {{"window", 64}, {"sinks", 4}};
  recipe["context"] = 512;
  recipe["batch"] = 256;
  recipe["micro_batch"] = 64;
  recipe["dtype"] = "bf16";
  double waiting = 0, queueing = 0;
  xh_job* job = nullptr;
  ASSERT_EQ(Take(xh_job_open(runtime_.get(), "distill", recipe.dump().c_str(), &job)).message, "");
  int steps = 0;
  for (int32_t finished = 0; finished == 0 && steps < 10;) {
    const char* event = nullptr;
    if (steps == kFirst) runtime_.seconds(&waiting, &queueing);  // forgets what was before
    ASSERT_EQ(Take(xh_job_next(job, &event, &finished)).message, "");
    steps += json::parse(event)["kind"] == "step" ? 1 : 0;
  }
  xh_job_free(job);
  runtime_.seconds(&waiting, &queueing);
  const double share = queueing / (waiting + queueing);
  std::printf("figure\tqueueing's share of a step of stage I\t%.4f\n", share);
  EXPECT_LT(share, 0.25) << "queueing " << queueing << " s, waiting " << waiting << " s";
}

}  // namespace
