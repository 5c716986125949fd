// How a stage of a recipe is trained: the trainer's options, overridden and extended by the stage plugin's schema.
#ifndef XHYBRID_CORE_TRAIN_STAGE_OPTIONS_H_
#define XHYBRID_CORE_TRAIN_STAGE_OPTIONS_H_

#include <string>

#include "core/error.h"
#include "core/train/schedule.h"
#include "nlohmann/json.hpp"
#include "xhybrid_plugin.h"

namespace xh {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;  // of parameters of rank 2 and more; biases and norms do not decay
};

struct StageRecipe {
  std::string name;                       // of the stage plugin
  const xh_stage_table* table = nullptr;  // lives as long as the process
  nlohmann::json options;                 // every option of the trainer and the stage, checked, defaults filled in
  nlohmann::json plugin_options;          // those of the stage's own schema
  Schedule schedule;                      // its `steps` are the stage's steps
  AdamWOptions adamw;
  double clip = 0;  // largest global gradient norm; 0: not clipped
};

// The trainer's options with the stage's: an option of the same name is the stage's. `plugin_schema` NULL or "" adds
// nothing. Incompatible when it is not a schema.
StatusOr<std::string> MergeStageSchema(const char* plugin_schema, const std::string& stage);

// Reads one entry of a recipe's "stages": an object with "stage" and options, or the name alone. The plugin is `table`.
StatusOr<StageRecipe> ReadStage(const std::string& name, const xh_stage_table* table, const nlohmann::json& given,
                                const std::string& where);

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_STAGE_OPTIONS_H_
