// The entry of the CUDA backend, and plans: what crosses the C border is checked here. On a host without an NVIDIA
// driver nothing of CUDA is loaded: the entry says so and its score is 0.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

#include "backends/common/host.h"
#include "backends/common/plan_checks.h"
#include "backends/cuda/device.h"
#include "backends/cuda/ops.h"

struct xh_plan {
  xh_device* device;
  const xh::backend::OpSlots* op;
  std::unique_ptr<xh::gpu::Plan> plan;
  std::vector<xh_tensor> args;  // as opened
};

namespace xh::gpu {
namespace {

using backend::Fail;
using backend::Guard;

constexpr struct {
  xh_op op;
  OpenFn open;
} kOps[] = {
    {XH_OP_MATMUL, OpenMatmul},
    {XH_OP_RMS_NORM, OpenRmsNorm},
    {XH_OP_ROPE, OpenRope},
    {XH_OP_ADD, OpenAdd},
    {XH_OP_SWIGLU, OpenSwiglu},
    {XH_OP_EMBED, OpenEmbed},
    {XH_OP_CAST, OpenCast},
    {XH_OP_FILL, OpenFill},
    {XH_OP_REDUCE, OpenReduce},
    {XH_OP_TOP_K, OpenTopK},
    {XH_OP_DENSE, OpenDense},
    {XH_OP_MLSTM, OpenMlstm},
    {XH_OP_ATTENTION, OpenAttention},
    {XH_OP_FEATURE_MAP, OpenFeatureMap},
    {XH_OP_HEAD_GATE, OpenHeadGate},
    {XH_OP_MIX, OpenMix},
    {XH_OP_SELECT_HEADS, OpenSelectHeads},
#ifdef XH_SM90
    {XH_OP_HYBRID_STEP, OpenHybridStep},
#endif
    {XH_OP_ALIGN_LOSS, OpenAlignLoss},
    {XH_OP_DISTILL_LOSS, OpenDistillLoss},
    {XH_OP_ADAMW, OpenAdamw},
    {XH_OP_CLIP, OpenClip},
};

OpenFn FindOp(xh_op op) {
  for (const auto& entry : kOps) {
    if (entry.op == op) return entry.open;
  }
  return nullptr;
}

// XHYBRID_SYNC=1: every plan is waited for, so that an error of the device names it.
bool Waits() {
  static const bool waits = [] {
    const char* value = std::getenv("XHYBRID_SYNC");
    return value != nullptr && std::strcmp(value, "1") == 0;
  }();
  return waits;
}

// The code of a refusal: kernels and libraries bring their code onto the device when a plan opens, for which there may
// be no room. The runtime's error is forgotten, or the next launch would be blamed for it.
xh_code AsRefused(xh_code code) {
  return cudaGetLastError() == cudaErrorMemoryAllocation && code == XH_INTERNAL ? XH_OUT_OF_MEMORY : code;
}

xh_error* PlanOpen(xh_device* device, const xh_op_desc* desc, xh_plan** out, xh_plan_info* info) {
  return Guard([&]() -> xh_error* {
    Refusal refusal = backend::CheckPlanOpen(device, desc, out, info);
    if (refusal.code != 0) return Fail(refusal.code, refusal.text);
    if (xh_error* error = CheckAlive(device)) return error;
    const OpenFn open = FindOp(desc->op);
    const backend::OpSlots* slots = backend::FindOpSlots(desc->op);
    if (open == nullptr || slots == nullptr) {
      return Fail(XH_UNSUPPORTED, "plan_open: the cuda backend has no op " + std::to_string(desc->op));
    }
    refusal = backend::CheckDesc(*slots, *desc);
    auto plan = std::make_unique<xh_plan>();
    if (refusal.code == 0) {
      const CurrentDevice current(device);
      plan->device = device;
      plan->op = slots;
      plan->args.assign(desc->args, desc->args + desc->arg_count);
      const Request request = {{desc->pass, plan->args, desc->params, desc->params_size}, &device->facts};
      refusal = open(request, &plan->plan);
      if (refusal.code != 0) refusal.code = AsRefused(refusal.code);
    }
    if (refusal.code != 0) return Fail(refusal.code, refusal.text);
    info->flags = 0;
    info->workspace_bytes = plan->plan->workspace_bytes;
    info->saved_bytes = desc->pass == XH_INFER ? 0 : plan->plan->saved_bytes;
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
    xh_device* const device = stream->device;
    if (xh_error* error = CheckAlive(device)) return error;
    const CurrentDevice current(device);
    std::vector<xh_tensor> checked = plan->args;  // what the plan was opened for, with this run's memory
    for (size_t i = 0; i < checked.size(); ++i) checked[i].data = args[i].data;
    const Launch launch = {stream->native,
                           device->facts.wgmma,
                           checked.data(),
                           static_cast<char*>(workspace),
                           static_cast<char*>(saved),
                           stream->faults->sink(plan->op->op)};
    plan->plan->Run(launch);
    if (xh_error* error = Check(device, cudaGetLastError(), std::string("plan_run ") + plan->op->name)) return error;
    if (!Waits()) return nullptr;
    return Check(device, cudaStreamSynchronize(stream->native), std::string("plan_run ") + plan->op->name);
  });
}

const xh_backend kBackend = {sizeof(xh_backend), 0,           DeviceCount,   DeviceOpen,  DeviceClose, DeviceQuery,
                             Allocate,           Release,     StreamOpen,    StreamClose, Record,      Wait,
                             EventClose,         Synchronize, Copy,          PlanOpen,    PlanClose,   PlanRun,
                             CaptureBegin,       CaptureEnd,  CaptureReplay, CaptureClose};

// Why no GPU can be used, or an empty text. The driver's own library is asked, by name: a host without it loads
// nothing.
std::string WhyUnavailable() {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) {
    const char* const reason = dlerror();
    if (reason == nullptr || std::strstr(reason, "No such file") != nullptr) {
      return "there is no NVIDIA driver (libcuda.so.1)";
    }
    return std::string("the NVIDIA driver cannot be loaded: ") + reason;
  }
  const auto version_of = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDriverGetVersion"));
  int version = 0;
  if (version_of == nullptr || version_of(&version) != 0) return "the NVIDIA driver does not tell its version";
  if (version < CUDART_VERSION / 1000 * 1000) {
    const auto text = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
    return "the NVIDIA driver is for CUDA up to " + text(version) + ", this plugin needs " +
           text(CUDART_VERSION / 1000 * 1000) + " or later";
  }
  int count = 0;
  const gpuError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (error != cudaSuccess) return std::string("no NVIDIA GPU can be used: ") + cudaGetErrorString(error);
  if (count == 0) return "there is no NVIDIA GPU";
  return "";
}

const xh_plugin& Entry() {
  static const std::string why = WhyUnavailable();
  static const xh_plugin plugin = {sizeof(xh_plugin),
                                   XH_ABI_VERSION,
                                   XH_PLUGIN_BACKEND,
                                   why.empty() ? 20 : 0,
                                   "cuda",
                                   XHYBRID_RELEASE,
                                   "Apache-2.0",
                                   why.empty() ? nullptr : why.c_str(),
                                   &kBackend,
                                   nullptr};
  return plugin;
}

}  // namespace
}  // namespace xh::gpu

extern "C" XH_API const xh_plugin* xh_plugin_v1(const xh_host* host, int32_t index) {
  if (host == nullptr || !XH_COVERS(xh_host, host, error_new) || index != 0) return nullptr;
  xh::backend::SetHost(host, "cuda");
  return &xh::gpu::Entry();
}
