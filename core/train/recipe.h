// The recipe of a distill run: what to train, on what, how, and where it goes.
#ifndef XHYBRID_CORE_TRAIN_RECIPE_H_
#define XHYBRID_CORE_TRAIN_RECIPE_H_

#include <string>
#include <vector>

#include "core/error.h"
#include "core/registry.h"
#include "core/train/dataset.h"
#include "core/train/stage_options.h"
#include "nlohmann/json.hpp"

namespace xh {

extern const char kDistillSchema[];

struct Recipe {
  std::string teacher;             // a model directory
  std::string start;               // a student to go on with; "" makes a new one
  nlohmann::json student_options;  // of a new student, as kStudentSchema says
  std::string plan;                // of a probe: heads that a new student keeps; "" for none
  std::vector<StageRecipe> stages;
  std::vector<DataSource> data;
  int64_t context = 0;      // tokens of a row
  int64_t batch = 0;        // rows of a step
  int64_t micro_batch = 0;  // rows of a forward and backward; divides batch
  uint64_t seed = 0;
  xh_dtype dtype = XH_F32;  // of parameters and activations
  bool loss_on_assistant = false;
  bool reset_at_document = false;
  bool checkpoint_blocks = false;
  int64_t max_bad_rows = 0;
  std::string output;
  int64_t save_every = 0;  // steps; 0: at the end of a stage only
  int64_t keep = 1;        // training checkpoints
  bool resume = true;
  bool dry_run = false;

  // What decides the result, defaults filled in: two runs whose description is the same give the same student.
  nlohmann::json Describe() const;
};

// Checks everything that can be checked without opening a file; stage plugins must be there.
StatusOr<Recipe> ReadRecipe(const Registry& registry, const nlohmann::json& given);

// The first field in which two descriptions differ, `"stages[0].learning_rate" is 0.01, was 0.02`; "" when none does.
std::string FirstDifference(const nlohmann::json& now, const nlohmann::json& before);

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_RECIPE_H_
