// The memory of a run, known before it: the same numbers that the run then holds, and what is said where it cannot fit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/train/memory_plan.h"
#include "core/train/run.h"
#include "tests/train/tiny.h"

namespace xh {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using tiny::TempDir;

class MemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto runtime = tiny::OpenRuntime();
    ASSERT_TRUE(runtime.ok()) << runtime.status();
    runtime_ = *runtime;
    ASSERT_TRUE(tiny::WriteTeacher(dir_ / "teacher.xhy").ok());
    tiny::WriteRows(dir_ / "data.jsonl", 300, 11);
  }

  json Given() { return tiny::RecipeIn(dir_, "run"); }
  Recipe Read(const json& given) { return *ReadRecipe(runtime_->registry(), given); }
  MemoryPlan Plan(const json& given) {
    StatusOr<MemoryPlan> plan = PlanMemory(runtime_, Read(given));
    EXPECT_TRUE(plan.ok()) << plan.status();
    return *plan;
  }

  TempDir dir_;
  std::shared_ptr<Runtime> runtime_;
};

TEST_F(MemoryTest, IsWhatTheRunThenHolds) {
  for (const char* dtype : {"f32", "bf16"}) {
    json given = Given();
    given["dtype"] = dtype;
    given["output"] = dir_ / (std::string("run_") + dtype);
    const MemoryPlan plan = Plan(given);
    ASSERT_EQ(plan.stages.size(), 2u);
    auto run = DistillRun::Open(runtime_, Read(given));
    ASSERT_TRUE(run.ok()) << run.status();
    for (bool ready = false; !ready;) ready = *(*run)->Prepare();
    for (const StageMemory& stage : plan.stages) {
      const StageTrainer& trainer = *(*run)->trainer();
      EXPECT_EQ(stage.without_weights(), trainer.memory_bytes()) << stage.stage;
      EXPECT_EQ(stage.trained_parameters, trainer.optimizer().parameter_count());
      EXPECT_EQ(stage.gradients + stage.optimizer, trainer.optimizer().bytes());
      const int64_t sum = plan.teacher + stage.student + stage.without_weights();
      EXPECT_GE(stage.total, sum - 256 * 64);  // sizes are rounded up
      EXPECT_LE(stage.total, sum + 256 * 256);
      ASSERT_TRUE((*run)->FinishStage().ok());
    }
  }
}

TEST_F(MemoryTest, CheckpointingAndSmallerMicroBatchesNeedLess) {
  json given = Given();
  const MemoryPlan plan = Plan(given);
  given["checkpoint_blocks"] = true;
  EXPECT_LT(Plan(given).stages[1].activations, plan.stages[1].activations);
  given["checkpoint_blocks"] = false;
  given["micro_batch"] = 1;
  EXPECT_LT(Plan(given).stages[1].activations, plan.stages[1].activations);
  EXPECT_EQ(Plan(given).stages[1].optimizer, plan.stages[1].optimizer);
}

TEST_F(MemoryTest, ARunThatCannotFitSaysWhatWould) {
  const json given = Given();
  const Recipe recipe = Read(given);
  const MemoryPlan plan = Plan(given);
  EXPECT_TRUE(CheckFits(runtime_, recipe, plan, plan.largest().total).ok());
  json smaller = given;
  smaller["micro_batch"] = 1;
  const int64_t least = Plan(smaller).largest().total;
  Status status = CheckFits(runtime_, recipe, plan, least);
  EXPECT_EQ(CodeOf(status), XH_OUT_OF_MEMORY);
  for (const char* part : {"stage \"distill\" needs", "teacher", "activations", "are available", "it fits with"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"micro_batch\": 1"));
  status = CheckFits(runtime_, recipe, plan, least - 1);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"checkpoint_blocks\": true"));
  status = CheckFits(runtime_, recipe, plan, 1000);
  EXPECT_THAT(std::string(status.message()), HasSubstr("and 1000 bytes are available; no smaller"));
}

TEST_F(MemoryTest, ADistillJobRefusesBeforeItStarts) {
  json given = Given();
  given["context"] = 128;
  given["batch"] = given["micro_batch"] = 1 << 20;
  given["stages"] = json::array({given["stages"][0]});
  given["stages"][0]["steps"] = 1;
  given["dry_run"] = true;
  Recipe recipe = Read(given);
  const MemoryPlan plan = Plan(given);
  if (plan.largest().total <= plan.available) GTEST_SKIP() << "this machine has memory for everything";
  EXPECT_EQ(CodeOf(tiny::Distil(given)), XH_OUT_OF_MEMORY);
}

TEST_F(MemoryTest, ThePlanJobNeedsNeitherDataNorOutput) {
  json given = Given();
  given.erase("data");
  given.erase("output");
  auto kind = FindJobKind("plan");
  ASSERT_TRUE(kind.ok());
  auto job = (*kind)->open(runtime_, given);
  ASSERT_TRUE(job.ok()) << job.status();
  std::vector<json> events;
  ASSERT_TRUE(tiny::Drain(**job, &events).ok());
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0]["kind"], "memory");
  const json result = (*job)->Result();
  EXPECT_EQ(result["stages"].size(), 2u);
  EXPECT_TRUE(result["fits"].get<bool>());
  EXPECT_GT(result["decode_state_bytes"].get<int64_t>(), 0);
  EXPECT_EQ(result["total_bytes"], std::max(result["stages"][0]["total_bytes"], result["stages"][1]["total_bytes"]));
}

TEST_F(MemoryTest, ARehearsalTouchesNoMemory) {
  const std::shared_ptr<Device> device = Device::Rehearse(*runtime_->OpenDevice());
  {
    const Buffer huge = *device->Allocate(int64_t{1} << 50);
    EXPECT_EQ(device->rehearsed_bytes(), int64_t{1} << 50);
    EXPECT_TRUE(device->Copy(huge.data(), huge.data(), huge.bytes()).ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(huge.data()) % 256, 0u);
    const Buffer small = *device->Allocate(0);
    EXPECT_NE(small.data(), huge.data());
  }
  EXPECT_EQ(device->rehearsed_bytes(), 0);
}

}  // namespace
}  // namespace xh
