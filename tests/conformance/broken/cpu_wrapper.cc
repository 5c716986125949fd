#include "tests/conformance/broken/cpu_wrapper.h"

#include <dlfcn.h>

struct xh_plan {
  xh_plan* real;
  xh_op op;
  xh_pass pass;
  int64_t workspace_bytes;
};

namespace xh::broken {
namespace {

xh_backend real;

xh_error* OpenPlan(xh_device* device, const xh_op_desc* desc, xh_plan** out, xh_plan_info* info) {
  Wrapper& wrapper = TheWrapper();
  if (wrapper.before_open != nullptr) {
    if (xh_error* error = wrapper.before_open(*desc)) return error;
  }
  xh_plan* plan = nullptr;
  if (xh_error* error = real.plan_open(device, desc, &plan, info)) return error;
  *out = new xh_plan{plan, desc->op, desc->pass, info->workspace_bytes};
  return nullptr;
}

void ClosePlan(xh_plan* plan) {
  if (plan == nullptr) return;
  real.plan_close(plan->real);
  delete plan;
  if (TheWrapper().after_close != nullptr) TheWrapper().after_close();
}

xh_error* RunPlan(const xh_plan* plan, xh_stream* stream, const xh_tensor* args, int32_t count, void* workspace,
                  void* saved) {
  const Wrapper& wrapper = TheWrapper();
  const Run run = {plan->op, plan->pass, args, static_cast<char*>(workspace), plan->workspace_bytes};
  if (wrapper.before_run != nullptr) wrapper.before_run(run);
  if (xh_error* error = real.plan_run(plan->real, stream, args, count, workspace, saved)) return error;
  if (wrapper.after_run != nullptr) wrapper.after_run(run);
  return nullptr;
}

void Load(const xh_host* host) {
  Wrapper& wrapper = TheWrapper();
  void* library = dlopen(XH_CPU_PLUGIN, RTLD_NOW | RTLD_LOCAL);
  wrapper.plugin = *reinterpret_cast<xh_plugin_entry>(dlsym(library, "xh_plugin_v1"))(host, 0);
  wrapper.host = host;
  real = wrapper.table = *static_cast<const xh_backend*>(wrapper.plugin.table);
  wrapper.plugin.table = &wrapper.table;
  wrapper.table.plan_open = OpenPlan;
  wrapper.table.plan_close = ClosePlan;
  wrapper.table.plan_run = RunPlan;
  Spoil(&wrapper);
}

}  // namespace

Wrapper& TheWrapper() {
  static Wrapper wrapper = {};
  return wrapper;
}

}  // namespace xh::broken

const xh_plugin* xh_plugin_v1(const xh_host* host, int32_t index) {
  static const bool loaded = (xh::broken::Load(host), true);
  return loaded && index == 0 ? &xh::broken::TheWrapper().plugin : nullptr;
}
