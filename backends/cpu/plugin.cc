// The entry of the CPU backend, and plans: what crosses the C border is checked here.
#include "backends/common/plan_checks.h"
#include "backends/cpu/device.h"

struct xh_plan {
  const xh::backend::OpSlots* op;
  std::unique_ptr<xh::cpu::Plan> plan;
  std::vector<xh_tensor> args;  // as opened
};

namespace xh::cpu {
namespace {

using backend::Fail;
using backend::Guard;

constexpr int64_t kAlignment = 64;  // of workspace and saved

OpenFn FindOp(const OpTable& table, xh_op op) {
  for (int i = 0; i < table.count; ++i) {
    if (table.entries[i].op == op) return table.entries[i].open;
  }
  return nullptr;
}

xh_error* PlanOpen(xh_device* device, const xh_op_desc* desc, xh_plan** out, xh_plan_info* info) {
  return Guard([&]() -> xh_error* {
    Refusal refusal = backend::CheckPlanOpen(device, desc, out, info);
    if (refusal.code != 0) return Fail(refusal.code, refusal.text);
    const OpenFn open = FindOp(*device->ops, desc->op);
    const backend::OpSlots* const slots = backend::FindOpSlots(desc->op);
    if (open == nullptr || slots == nullptr) {
      return Fail(XH_UNSUPPORTED, "plan_open: the cpu backend has no op " + std::to_string(desc->op));
    }
    refusal = backend::CheckDesc(*slots, *desc);
    auto plan = std::make_unique<xh_plan>();
    if (refusal.code == 0) {
      plan->op = slots;
      plan->args.assign(desc->args, desc->args + desc->arg_count);
      const Request request = {{desc->pass, plan->args, desc->params, desc->params_size}, device->threads};
      refusal = open(request, &plan->plan);
    }
    if (refusal.code != 0) return Fail(refusal.code, refusal.text);
    info->flags = 0;
    info->workspace_bytes = plan->plan->workspace_bytes;
    info->saved_bytes = plan->plan->saved_bytes;
    info->alignment = kAlignment;
    info->implementation = plan->plan->implementation;
    *out = plan.release();
    return nullptr;
  });
}

void PlanClose(xh_plan* plan) { delete plan; }

xh_error* PlanRun(const xh_plan* plan, xh_stream* stream, const xh_tensor* args, int32_t arg_count, void* workspace,
                  void* saved) {
  return Guard([&]() -> xh_error* {
    if (plan == nullptr || stream == nullptr) return Fail(XH_INVALID_ARGUMENT, "plan_run: plan or stream is NULL");
    const Refusal refusal =
        backend::CheckPlanRun(*plan->op, plan->args, args, arg_count, workspace, plan->plan->workspace_bytes, saved,
                              plan->plan->saved_bytes, kAlignment);
    if (refusal.code != 0) return Fail(refusal.code, refusal.text);
    plan->plan->Run(args, workspace, saved);
    return nullptr;
  });
}

const xh_backend kBackend = {
    sizeof(xh_backend), 0,           DeviceCount, DeviceOpen, DeviceClose, DeviceQuery, Allocate, Release,
    StreamOpen,         StreamClose, Record,      Wait,       EventClose,  Synchronize, Copy,     PlanOpen,
    PlanClose,          PlanRun,     nullptr,     nullptr,    nullptr,     nullptr};

#if defined(__x86_64__) && !defined(XH_SINGLE_ISA)
bool Runnable() { return __builtin_cpu_supports("x86-64-v2") != 0; }
#else
bool Runnable() { return true; }
#endif

const xh_plugin& Entry() {
  static const xh_plugin plugin = {sizeof(xh_plugin),
                                   XH_ABI_VERSION,
                                   XH_PLUGIN_BACKEND,
                                   Runnable() ? 10 : 0,
                                   "cpu",
                                   XHYBRID_RELEASE,
                                   "Apache-2.0",
                                   Runnable() ? nullptr : "this processor lacks the x86-64-v2 instructions",
                                   &kBackend,
                                   nullptr};
  return plugin;
}

}  // namespace
}  // namespace xh::cpu

extern "C" XH_API const xh_plugin* xh_plugin_v1(const xh_host* host, int32_t index) {
  if (host == nullptr || !XH_COVERS(xh_host, host, error_new) || index != 0) return nullptr;
  xh::backend::SetHost(host, "cpu");
  return &xh::cpu::Entry();
}
