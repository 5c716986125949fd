// The job "evaluate": models on tasks, and each against the teacher (Win-and-Tie, SPEC.md 6).
#ifndef XHYBRID_CORE_EVALUATE_EVALUATE_JOB_H_
#define XHYBRID_CORE_EVALUATE_EVALUATE_JOB_H_

#include "core/job.h"

namespace xh {

extern const char kEvaluateSchema[];
StatusOr<std::unique_ptr<Job>> OpenEvaluateJob(const std::shared_ptr<Runtime>& runtime, const nlohmann::json& recipe);

}  // namespace xh

#endif  // XHYBRID_CORE_EVALUATE_EVALUATE_JOB_H_
