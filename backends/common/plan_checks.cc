#include "backends/common/plan_checks.h"

namespace xh::backend {
namespace {

bool Empty(const xh_tensor& tensor) {
  for (int i = 0; i < tensor.rank; ++i) {
    if (tensor.shape[i] == 0) return true;
  }
  return false;
}

Refusal CheckMemory(const std::string& where, const char* name, const void* given, int64_t bytes, int64_t alignment) {
  const bool aligned = reinterpret_cast<uintptr_t>(given) % static_cast<uintptr_t>(alignment) == 0;
  if (bytes == 0 || (given != nullptr && aligned)) return {};
  return Invalid(where + name + (given == nullptr ? " is NULL" : " is not aligned") + ", the plan needs " +
                 std::to_string(bytes) + " bytes aligned to " + std::to_string(alignment));
}

}  // namespace

Refusal CheckPlanOpen(const void* device, const xh_op_desc* desc, const void* out, const xh_plan_info* info) {
  if (device == nullptr || desc == nullptr || out == nullptr || info == nullptr) {
    return Invalid("plan_open: an argument is NULL");
  }
  if (!XH_COVERS(xh_op_desc, desc, params)) {
    return Invalid("plan_open: xh_op_desc.struct_size is " + std::to_string(desc->struct_size) + ", at least " +
                   std::to_string(sizeof(xh_op_desc)) + " is needed");
  }
  if (!XH_COVERS(xh_plan_info, info, implementation)) {
    return Invalid("plan_open: xh_plan_info.struct_size is " + std::to_string(info->struct_size) + ", at least " +
                   std::to_string(sizeof(xh_plan_info)) + " is needed");
  }
  return {};
}

Refusal CheckPlanRun(const OpSlots& op, const std::vector<xh_tensor>& planned, const xh_tensor* args, int32_t arg_count,
                     const void* workspace, int64_t workspace_bytes, const void* saved, int64_t saved_bytes,
                     int64_t alignment) {
  const std::string where = std::string("plan_run ") + op.name + ": ";
  const int64_t expected = static_cast<int64_t>(planned.size());
  if (arg_count != expected || (args == nullptr && expected > 0)) {
    return Invalid(where + "the plan takes " + std::to_string(expected) + " arguments, got " +
                   (args == nullptr ? "none" : std::to_string(arg_count)));
  }
  for (int i = 0; i < arg_count; ++i) {
    if (Present(planned[i]) && args[i].data == nullptr && !Empty(planned[i])) {
      return Invalid(where + "argument " + std::to_string(i) + " has no data");
    }
  }
  Refusal refusal = CheckMemory(where, "workspace", workspace, workspace_bytes, alignment);
  if (refusal.code == 0) refusal = CheckMemory(where, "saved", saved, saved_bytes, alignment);
  return refusal;
}

}  // namespace xh::backend
