// What every backend checks of plan_open and plan_run before an op sees them.
#ifndef XHYBRID_BACKENDS_COMMON_PLAN_CHECKS_H_
#define XHYBRID_BACKENDS_COMMON_PLAN_CHECKS_H_

#include <vector>

#include "backends/common/requests.h"

namespace xh::backend {

Refusal CheckPlanOpen(const void* device, const xh_op_desc* desc, const void* out, const xh_plan_info* info);

// `planned`: the arguments as the plan was opened; workspace and saved are aligned to `alignment`.
Refusal CheckPlanRun(const OpSlots& op, const std::vector<xh_tensor>& planned, const xh_tensor* args, int32_t arg_count,
                     const void* workspace, int64_t workspace_bytes, const void* saved, int64_t saved_bytes,
                     int64_t alignment);

}  // namespace xh::backend

#endif  // XHYBRID_BACKENDS_COMMON_PLAN_CHECKS_H_
