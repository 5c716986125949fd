// The job "plan": what a distill recipe will hold on the device, without reading a weight or a row.
#ifndef XHYBRID_CORE_TRAIN_PLAN_JOB_H_
#define XHYBRID_CORE_TRAIN_PLAN_JOB_H_

#include "core/job.h"

namespace xh {

// A recipe of "distill", of which "data" and "output" may be absent.
StatusOr<std::unique_ptr<Job>> OpenPlanJob(const std::shared_ptr<Runtime>& runtime, const nlohmann::json& recipe);

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_PLAN_JOB_H_
