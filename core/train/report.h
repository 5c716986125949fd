// What a run shows: its figures as the JSON of events, metrics and history.
#ifndef XHYBRID_CORE_TRAIN_REPORT_H_
#define XHYBRID_CORE_TRAIN_REPORT_H_

#include "core/train/run.h"
#include "nlohmann/json.hpp"

namespace xh {

// Numbers of a step that depend on recipe and data alone: the same in every repetition. "loss", "learning_rate",
// "gradient_norm", "skipped" where true; alignment: "relative_loss" (sum of squared errors over the teacher's sum of
// squares, SPEC.md 3) and "layers" [{"layer", "relative_loss"}]; distillation: "cross_entropy" and "kl", means over the
// targets.
nlohmann::json MetricsToJson(const StepMetrics& metrics);

// The events "plan" and "step" of a distill job; see distill_job.h.
nlohmann::json PlanEvent(const DistillRun& run);
nlohmann::json StepEvent(const DistillRun& run, const DistillRun::StepReport& report, double seconds_per_step);

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_REPORT_H_
