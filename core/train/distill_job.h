// The job kind "distill": a recipe's stages, one optimizer step at a time.
#ifndef XHYBRID_CORE_TRAIN_DISTILL_JOB_H_
#define XHYBRID_CORE_TRAIN_DISTILL_JOB_H_

#include <memory>

#include "core/job.h"
#include "core/train/recipe.h"

namespace xh {

// Checks the recipe; files are opened by the first Next. Events, by "kind":
//   "plan"        first: stages with steps, trained parameters and memory, documents, tokens, rows, where it goes on
//   from "step"        "stage", "step", "steps", "total_step", "total_steps", "loss", "learning_rate", "gradient_norm",
//                 "tokens", "tokens_per_second", "step_seconds", "memory_bytes", "eta_seconds", the stage's own figures
//   "saved"       "path", "total_step": a training checkpoint
//   "stage_done"  "stage", "total_step", "metrics"; also saved
//   "done"        last: "path" of the student, "total_step"
// Cancelled, the run finishes the step in hand and saves; the same recipe with the same output goes on from there.
StatusOr<std::unique_ptr<Job>> OpenDistillJob(const std::shared_ptr<Runtime>& runtime, const nlohmann::json& recipe);

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_DISTILL_JOB_H_
