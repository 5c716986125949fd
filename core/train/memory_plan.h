// What a distill run will hold on the device, known before a weight is read.
#ifndef XHYBRID_CORE_TRAIN_MEMORY_PLAN_H_
#define XHYBRID_CORE_TRAIN_MEMORY_PLAN_H_

#include <memory>
#include <string>
#include <vector>

#include "core/runtime.h"
#include "core/train/recipe.h"
#include "core/train/trainer.h"
#include "nlohmann/json.hpp"

namespace xh {

// Bytes of device memory.
struct StageMemory {
  std::string stage;
  int64_t steps = 0;
  int64_t trained_parameters = 0;
  int64_t student = 0;      // parameters that are not the teacher's own memory
  int64_t gradients = 0;    // f32
  int64_t optimizer = 0;    // moments and masters
  int64_t activations = 0;  // the step's arena: activations, their gradients, workspace
  int64_t total = 0;        // with the teacher
  int64_t without_weights() const { return gradients + optimizer + activations; }
};

struct MemoryPlan {
  std::string device;
  int64_t memory_bytes = 0;  // of the device
  int64_t available = 0;     // of these, what is free now where the device says so
  int64_t teacher = 0;
  int64_t decode_state = 0;  // of one session of the student at its whole context; no part of a run
  std::vector<StageMemory> stages;
  const StageMemory& largest() const;
};

// Prepares every stage as the run will, on a device that only counts. A student to go on with counts as sharing every
// parameter with the teacher that does not train.
StatusOr<MemoryPlan> PlanMemory(const std::shared_ptr<Runtime>& runtime, const Recipe& recipe);
// OutOfMemory when the plan of this recipe exceeds `available`: what it needs, what there is, and what would fit.
Status CheckFits(const std::shared_ptr<Runtime>& runtime, const Recipe& recipe, const MemoryPlan& plan,
                 int64_t available);
nlohmann::json MemoryToJson(const MemoryPlan& plan);

BatchShape BatchShapeOf(const Recipe& recipe);
// What the recipe asks of its teacher.
Status CheckTeacher(const Recipe& recipe, const ModelConfig& teacher);
// What the plan of a probe says becomes options of the student.
Status ReadStudentPlan(const ModelConfig& teacher, Recipe* recipe);

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_MEMORY_PLAN_H_
