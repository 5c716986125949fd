// What an op of a GPU backend is: a function that checks a request and makes an immutable plan that launches kernels.
#ifndef XHYBRID_BACKENDS_CUDA_PLAN_H_
#define XHYBRID_BACKENDS_CUDA_PLAN_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backends/common/arguments.h"
#include "backends/common/host.h"
#include "backends/common/requests.h"
#include "backends/cuda/gpu.h"

namespace xh::gpu {

using backend::Accumulates;
using backend::Dims;
using backend::Invalid;
using backend::Present;
using backend::Refusal;
using backend::RunError;
using backend::Unsupported;

inline constexpr int64_t kAlignment = 256;  // of workspace, saved memory and everything in them

// What plans ask of a device.
struct Facts {
  int multiprocessors;
  int capability;    // 80, 90, 100: major * 10 + minor
  int shared_bytes;  // a block may have at most
  bool wgmma;        // this build has code for the device's own instructions (sm_90a)
};

struct Request : backend::Request {
  const Facts* facts;
};

// One run of a plan. Workspace and saved are aligned to kAlignment.
struct Launch {
  gpuStream_t stream;
  bool overlaps;  // kernels of one stream may overlap: this device's code for WaitForEarlier runs
  const xh_tensor* args;
  char* workspace;
  char* saved;
  FaultSink fault;
};

// Immutable after opening; Run may be called from several threads at once with different workspaces. Run launches and
// returns; it allocates nothing and never waits, so that it can be recorded. It throws RunError. Launch errors are
// looked for by the plugin after Run. Every kernel must write the same bits in every run.
class Plan {
 public:
  virtual ~Plan() = default;
  virtual void Run(const Launch& launch) const = 0;
  int64_t workspace_bytes = 0;
  int64_t saved_bytes = 0;
  const char* implementation = "";
};

// Lays parts out behind each other in workspace or saved memory: `bytes` grows, the part's offset is given.
inline int64_t Reserve(int64_t* bytes, int64_t count, int64_t size) {
  const int64_t at = *bytes;
  *bytes += (count * size + kAlignment - 1) / kAlignment * kAlignment;
  return at;
}
template <class T>
T* Part(char* memory, int64_t offset) {
  return reinterpret_cast<T*>(memory + offset);
}

// Calls body(T{}) for the element type of a dtype that is f32 or bf16.
template <class Body>
void WithType(xh_dtype dtype, Body body) {
  if (dtype == XH_BF16) {
    body(bf16{});
  } else {
    body(float{});
  }
}

// Blocks that cover `items` with `each` a block.
inline unsigned Blocks(int64_t items, int64_t each) { return static_cast<unsigned>((items + each - 1) / each); }

// Lets `kernel` use `bytes` of dynamic shared memory. Called once, when a plan opens.
template <class Kernel>
Refusal AllowShared(Kernel kernel, int bytes, const Facts& facts) {
  if (bytes > facts.shared_bytes) {
    return Unsupported("a block needs " + std::to_string(bytes) + " bytes of shared memory, this device has " +
                       std::to_string(facts.shared_bytes));
  }
  const gpuError_t error =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return {XH_INTERNAL, cudaGetErrorString(error)};
  return {};
}

#ifdef XH_KERNELS
// Launches a kernel that calls WaitForEarlier; see gpu.h.
template <class... Parameters, class... Arguments>
void LaunchEarly(const Launch& launch, void (*kernel)(Parameters...), unsigned blocks, unsigned threads, int64_t shared,
                 Arguments&&... arguments) {
#ifndef XH_HIP
  if (launch.overlaps) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = static_cast<size_t>(shared);
    config.stream = launch.stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);  // its error is looked for behind Run
    return;
  }
#endif
  kernel<<<blocks, threads, static_cast<size_t>(shared), launch.stream>>>(std::forward<Arguments>(arguments)...);
}
#endif

}  // namespace xh::gpu

#endif  // XHYBRID_BACKENDS_CUDA_PLAN_H_
