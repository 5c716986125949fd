// Stages and backends that fail, give NaN, or are in the middle of a step when the job is cancelled: the job stops with
// one error, and the last checkpoint is whole and goes on to the same student.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <optional>
#include <thread>

#include "place.h"

namespace {

using faults::Outcome;
using faults::Place;
using faults::Take;
using nlohmann::json;

xh_job* job_in_hand = nullptr;
void CancelInHand(int) { xh_job_cancel(job_in_hand); }

// A job that was run until it ended.
struct Ended {
  Outcome outcome;
  Outcome after;  // of one more call
  int64_t steps = 0;
};

class TrainingFaultTest : public testing::Test {
 protected:
  void SetUp() override {
    faults::WriteRows(place_ / "data.jsonl");
    setenv("XH_BAD_CPU", XH_CPU_PLUGIN, 1);
    setenv("XH_BAD_AFTER", "reset", 1);
    runtime_ = faults::OpenRuntime("bad", XH_FAULT_PLUGINS);
    ASSERT_NE(runtime_, nullptr);
    ASSERT_EQ(RunJob("undisturbed").outcome.message, "");  // also sets the count of runs to 0
    student_ = faults::ReadTree(place_ / "undisturbed/student.xhy");
    ASSERT_FALSE(student_.empty());
  }
  void TearDown() override { xh_runtime_close(runtime_); }

  json Recipe(const std::string& output) const {
    json recipe = faults::TrainingRecipe(place_, output);
    recipe["stages"] = {{{"stage", "align"}, {"steps", 12}, {"warmup", 1}}};
    return recipe;
  }

  Ended RunJob(const std::string& output) { return RunRecipe(Recipe(output)); }
  Ended RunRecipe(const json& recipe) {
    Ended ended;
    ended.outcome = Take(xh_job_open(runtime_, "distill", recipe.dump().c_str(), &job_in_hand));
    const char* event = nullptr;
    int32_t finished = 0;
    while (ended.outcome.code == 0 && finished == 0) {
      ended.outcome = Take(xh_job_next(job_in_hand, &event, &finished));
      if (ended.outcome.code == 0 && json::parse(event)["kind"] == "step") ++ended.steps;
    }
    if (job_in_hand != nullptr) ended.after = Take(xh_job_next(job_in_hand, &event, &finished));
    xh_job_free(job_in_hand);
    job_in_hand = nullptr;
    return ended;
  }

  // Three layers are three runs of the loss a step.
  void GoWrongAfter(int steps, const char* how) {
    setenv("XH_BAD_AFTER", std::to_string(3 * steps + 1).c_str(), 1);
    setenv("XH_BAD_HOW", how, 1);
  }

  // The newest training checkpoint can be opened, every byte of it is right, and the run goes on from it to its end.
  void ExpectWhole(const char* newest) {
    setenv("XH_BAD_AFTER", "reset", 1);
    xh_checkpoint* checkpoint = nullptr;
    const std::string path = place_ / (std::string("out/") + newest);
    ASSERT_EQ(Take(xh_checkpoint_open(runtime_, path.c_str(), nullptr, 0, &checkpoint)).message, "");
    EXPECT_EQ(Take(xh_checkpoint_verify(checkpoint)).message, "");
    xh_checkpoint_free(checkpoint);
    const Ended resumed = RunJob("out");
    EXPECT_EQ(resumed.outcome.message, "");
    EXPECT_LT(resumed.steps, 12) << "it went on and did not begin anew";
  }
  // As if nothing had happened.
  void ExpectGoesOn(const char* newest) {
    ExpectWhole(newest);
    EXPECT_TRUE(faults::ReadTree(place_ / "out/student.xhy") == student_) << "the student differs";
  }

  Place place_;
  xh_runtime* runtime_ = nullptr;
  std::map<std::string, std::string> student_;
};

TEST_F(TrainingFaultTest, ADeclarationThatFailsStopsTheJobBeforeItsFirstStep) {
  const std::pair<const char*, const char*> stages[] = {{"cannot_declare", "stage.cannot_declare: the moon is full"},
                                                        {"half_declared", "stage.half_declared: its step minimizes"}};
  for (const auto& [stage, message] : stages) {
    json recipe = Recipe("out");
    recipe["stages"].push_back({{"stage", stage}, {"steps", 2}});  // the second: known before the first is trained
    const Ended ended = RunRecipe(recipe);
    EXPECT_NE(ended.outcome.code, 0);
    EXPECT_NE(ended.outcome.message.find(message), std::string::npos) << ended.outcome.message;
    EXPECT_EQ(ended.steps, 0);
    EXPECT_EQ(ended.after.code, XH_INVALID_STATE);
    std::filesystem::remove_all(place_ / "out");
  }
}

TEST_F(TrainingFaultTest, AStageThatCannotSaveStopsTheJobAndLeavesNoHalfCheckpoint) {
  json recipe = Recipe("out");
  recipe["stages"] = {{{"stage", "cannot_save"}, {"steps", 4}}};
  const Ended ended = RunRecipe(recipe);
  EXPECT_EQ(ended.outcome.code, XH_INTERNAL);
  EXPECT_EQ(ended.outcome.origin, "stage.cannot_save");
  EXPECT_EQ(ended.outcome.message, "stage.cannot_save: step 2: the state is gone");
  EXPECT_EQ(ended.steps, 2);
  for (const std::string& name : faults::Names(place_ / "out"))
    EXPECT_EQ(name.find("step-"), std::string::npos) << name;
}

TEST_F(TrainingFaultTest, ALossThatBecomesNaNStopsTheJob) {
  GoWrongAfter(6, "nan");
  const Ended ended = RunJob("out");
  EXPECT_EQ(ended.outcome.code, XH_INVALID_STATE);
  EXPECT_NE(ended.outcome.message.find("stage.align: step 11 is the 5th in a row without a finite loss"),
            std::string::npos)
      << ended.outcome.message;
  EXPECT_EQ(ended.after.code, XH_INVALID_STATE);
  EXPECT_NE(ended.after.message.find("ended with an error"), std::string::npos) << ended.after.message;
  ExpectWhole("step-00000010.xhy");
}

TEST_F(TrainingFaultTest, ABackendThatFailsStopsTheJobWithStageAndStep) {
  GoWrongAfter(7, "error");
  const Ended ended = RunJob("out");
  EXPECT_EQ(ended.outcome.code, XH_DEVICE_LOST);
  EXPECT_EQ(ended.outcome.message, "stage.align: step 8: the device fell off the bus");
  EXPECT_EQ(ended.outcome.origin, "bad");
  EXPECT_EQ(ended.steps, 7);
  EXPECT_EQ(ended.after.code, XH_INVALID_STATE);
  ExpectGoesOn("step-00000006.xhy");
}

TEST_F(TrainingFaultTest, AJobThatIsCancelledInTheMiddleOfAStepFinishesAndSavesIt) {
  signal(SIGUSR1, CancelInHand);
  GoWrongAfter(6, "cancel");
  const Ended ended = RunJob("out");
  EXPECT_EQ(ended.outcome.code, XH_CANCELLED);
  EXPECT_NE(ended.outcome.message.find("cancelled after step 7 of 12, which is saved"), std::string::npos)
      << ended.outcome.message;
  EXPECT_EQ(ended.after.code, XH_CANCELLED) << "it says so again";
  ExpectGoesOn("step-00000007.xhy");
}

TEST_F(TrainingFaultTest, AJobThatIsCancelledFromAnotherThreadFinishesAndSavesItsStep) {
  const std::string recipe = Recipe("out").dump();
  for (int round = 0; round < 5; ++round) {
    std::filesystem::remove_all(place_ / "out");
    ASSERT_EQ(Take(xh_job_open(runtime_, "distill", recipe.c_str(), &job_in_hand)).code, 0);
    std::atomic<int> steps{0};
    std::thread canceller([&] {
      while (steps.load() < 2) std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::microseconds(700 * round));
      xh_job_cancel(job_in_hand);
    });
    const char* event = nullptr;
    int32_t finished = 0;
    Outcome outcome;
    while (outcome.code == 0 && finished == 0) {
      outcome = Take(xh_job_next(job_in_hand, &event, &finished));
      if (outcome.code == 0 && json::parse(event)["kind"] == "step") ++steps;
    }
    canceller.join();
    xh_job_free(job_in_hand);
    job_in_hand = nullptr;
    if (finished != 0) continue;  // it was the faster one
    EXPECT_EQ(outcome.code, XH_CANCELLED) << outcome.message;
    const Ended resumed = RunJob("out");
    EXPECT_EQ(resumed.outcome.message, "");
    EXPECT_TRUE(faults::ReadTree(place_ / "out/student.xhy") == student_) << "the student differs";
  }
}

}  // namespace
