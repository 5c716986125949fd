// The entry of the CPU backend, and plans: what crosses the C border is checked here.
#include <unistd.h>

#include <cstring>

#include "backends/cpu/arguments.h"
#include "backends/cpu/device.h"
#include "backends/cpu/host.h"

struct xh_plan {
  const xh::cpu::OpEntry* op;
  std::unique_ptr<xh::cpu::Plan> plan;
  std::vector<xh_tensor> args;  // as opened
};

namespace xh::cpu {
namespace {

constexpr int64_t kAlignment = 64;  // of workspace and saved

const OpEntry* FindOp(const OpTable& table, xh_op op) {
  for (int i = 0; i < table.count; ++i) {
    if (table.entries[i].op == op) return &table.entries[i];
  }
  return nullptr;
}

int ArgumentCount(const OpEntry& op, xh_pass pass) {
  const int once = op.input_count + op.output_count;
  return pass == XH_BACKWARD ? 2 * once : once;
}

Refusal CheckDesc(const OpEntry& op, const xh_op_desc& desc) {
  const std::string where = std::string(op.name) + ": ";
  if (desc.pass < XH_INFER || desc.pass > XH_BACKWARD) {
    return Invalid(where + "pass is " + std::to_string(desc.pass) +
                   ", allowed is INFER (0), FORWARD (1), BACKWARD (2)");
  }
  if (desc.flags != 0) return Unsupported(where + "flags is " + std::to_string(desc.flags) + ", allowed is 0");
  const int expected = ArgumentCount(op, desc.pass);
  if (desc.arg_count != expected || desc.args == nullptr) {
    return Invalid(where + PassName(desc.pass) + " takes " + std::to_string(expected) + " arguments (" +
                   std::to_string(op.input_count) + " inputs and " + std::to_string(op.output_count) + " outputs" +
                   (desc.pass == XH_BACKWARD ? ", then as many gradients" : "") + "), got " +
                   (desc.args == nullptr ? "none" : std::to_string(desc.arg_count)));
  }
  return {};
}

xh_error* PlanOpen(xh_device* device, const xh_op_desc* desc, xh_plan** out, xh_plan_info* info) {
  return Guard([&]() -> xh_error* {
    if (device == nullptr || desc == nullptr || out == nullptr || info == nullptr) {
      return Fail(XH_INVALID_ARGUMENT, "plan_open: an argument is NULL");
    }
    if (!XH_COVERS(xh_op_desc, desc, params)) {
      return Fail(XH_INVALID_ARGUMENT, "plan_open: xh_op_desc.struct_size is " + std::to_string(desc->struct_size) +
                                           ", at least " + std::to_string(sizeof(xh_op_desc)) + " is needed");
    }
    if (!XH_COVERS(xh_plan_info, info, implementation)) {
      return Fail(XH_INVALID_ARGUMENT, "plan_open: xh_plan_info.struct_size is " + std::to_string(info->struct_size) +
                                           ", at least " + std::to_string(sizeof(xh_plan_info)) + " is needed");
    }
    const OpEntry* op = FindOp(*device->ops, desc->op);
    if (op == nullptr) {
      return Fail(XH_UNSUPPORTED, "plan_open: the cpu backend has no op " + std::to_string(desc->op));
    }
    Refusal refusal = CheckDesc(*op, *desc);
    auto plan = std::make_unique<xh_plan>();
    if (refusal.code == 0) {
      plan->op = op;
      plan->args.assign(desc->args, desc->args + desc->arg_count);
      const Request request = {desc->pass, plan->args, desc->params, desc->params_size, device->threads};
      refusal = op->open(request, &plan->plan);
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

bool Empty(const xh_tensor& tensor) {
  for (int i = 0; i < tensor.rank; ++i) {
    if (tensor.shape[i] == 0) return true;
  }
  return false;
}

bool Aligned(const void* memory) { return reinterpret_cast<uintptr_t>(memory) % kAlignment == 0; }

xh_error* CheckRun(const xh_plan& plan, const xh_tensor* args, int32_t arg_count, const void* workspace,
                   const void* saved) {
  const std::string where = std::string("plan_run ") + plan.op->name + ": ";
  const int64_t expected = static_cast<int64_t>(plan.args.size());
  if (arg_count != expected || (args == nullptr && expected > 0)) {
    return Fail(XH_INVALID_ARGUMENT, where + "the plan takes " + std::to_string(expected) + " arguments, got " +
                                         (args == nullptr ? "none" : std::to_string(arg_count)));
  }
  for (int i = 0; i < arg_count; ++i) {
    if (Present(plan.args[i]) && args[i].data == nullptr && !Empty(plan.args[i])) {
      return Fail(XH_INVALID_ARGUMENT, where + "argument " + std::to_string(i) + " has no data");
    }
  }
  const auto memory = [&](const char* name, const void* given, int64_t bytes) -> xh_error* {
    if (bytes == 0 || (given != nullptr && Aligned(given))) return nullptr;
    return Fail(XH_INVALID_ARGUMENT, where + name + (given == nullptr ? " is NULL" : " is not aligned") +
                                         ", the plan needs " + std::to_string(bytes) + " bytes aligned to " +
                                         std::to_string(kAlignment));
  };
  if (xh_error* error = memory("workspace", workspace, plan.plan->workspace_bytes)) return error;
  return memory("saved", saved, plan.plan->saved_bytes);
}

xh_error* PlanRun(const xh_plan* plan, xh_stream* stream, const xh_tensor* args, int32_t arg_count, void* workspace,
                  void* saved) {
  return Guard([&]() -> xh_error* {
    if (plan == nullptr || stream == nullptr) return Fail(XH_INVALID_ARGUMENT, "plan_run: plan or stream is NULL");
    if (xh_error* error = CheckRun(*plan, args, arg_count, workspace, saved)) return error;
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
  xh::cpu::SetHost(host);
  return &xh::cpu::Entry();
}
