// Names that CUDA and HIP share, and what every kernel file needs: types, conversions, reductions, tensors by stride.
// HIP builds give the same names through ../hip/names.h.
#ifndef XHYBRID_BACKENDS_CUDA_GPU_H_
#define XHYBRID_BACKENDS_CUDA_GPU_H_

#include <cstdint>
#include <limits>

#ifdef XH_HIP
#include "backends/hip/names.h"
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace xh::gpu {
using bf16 = __nv_bfloat16;
using gpuError_t = cudaError_t;
using gpuStream_t = cudaStream_t;
inline constexpr int kWarp = 32;  // threads of a warp; 64 on some AMD GPUs
#define XH_SHUFFLE_XOR(value, mask) __shfl_xor_sync(0xffffffffu, value, mask)
#define XH_SHUFFLE(value, lane) __shfl_sync(0xffffffffu, value, lane)
#define XH_SHUFFLE_UP(value, delta) __shfl_up_sync(0xffffffffu, value, delta)
#define XH_SHUFFLE_DOWN(value, delta) __shfl_down_sync(0xffffffffu, value, delta)
}  // namespace xh::gpu
#endif

#include "xhybrid_plugin.h"

// Host files see types and host functions alone.
#if defined(__CUDACC__) || defined(__HIPCC__)
#define XH_KERNELS 1
#define XH_BOTH __host__ __device__
#else
#define XH_BOTH
#endif

namespace xh::gpu {

// ---- values ----

XH_BOTH inline float ToFloat(float x) { return x; }
XH_BOTH inline float ToFloat(bf16 x) { return __bfloat162float(x); }
template <class T>
XH_BOTH inline T FromFloat(float x);
template <>
XH_BOTH inline float FromFloat<float>(float x) {
  return x;
}
template <>
XH_BOTH inline bf16 FromFloat<bf16>(float x) {
  return __float2bfloat16(x);
}

#ifdef XH_KERNELS
// ---- kernels that overlap ----
//
// LaunchEarly lets a kernel begin before the one queued ahead of it has ended, where the device can: it must call
// WaitForEarlier before it touches anything but constants, and may fetch weights to the cache until then. LetNextBegin
// allows the one behind to do the same. In any other launch both do nothing.
__device__ inline void WaitForEarlier() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void LetNextBegin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Writes a gradient: added to what is there, or in its place.
template <class T>
__device__ inline void PutGradient(T* to, float value, bool accumulate) {
  *to = FromFloat<T>(accumulate ? ToFloat(*to) + value : value);
}

#endif

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// N values of T that move as one: 16 bytes where N = 16 / sizeof(T).
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T value[N];
};
template <class T>
inline constexpr int kPack = static_cast<int>(16 / sizeof(T));

#ifdef XH_KERNELS
// ---- reductions, in a fixed order: the same bits every run ----

template <class T>
__device__ inline T WarpSum(T x) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x += XH_SHUFFLE_XOR(x, mask);
  return x;
}
template <class T>
__device__ inline T WarpMax(T x) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const T other = XH_SHUFFLE_XOR(x, mask);
    x = other > x ? other : x;
  }
  return x;
}
// Over the whole block, given to every thread. `scratch` has one T a warp; call it by all threads.
template <class T>
__device__ inline T BlockSum(T x, T* scratch) {
  const int warps = static_cast<int>((blockDim.x + kWarp - 1) / kWarp);
  x = WarpSum(x);
  __syncthreads();  // scratch may still be read by an earlier call
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = x;
  __syncthreads();
  T sum = scratch[0];
  for (int w = 1; w < warps; ++w) sum += scratch[w];
  return sum;
}
template <class T>
__device__ inline T BlockMax(T x, T* scratch) {
  const int warps = static_cast<int>((blockDim.x + kWarp - 1) / kWarp);
  x = WarpMax(x);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = x;
  __syncthreads();
  T most = scratch[0];
  for (int w = 1; w < warps; ++w) most = scratch[w] > most ? scratch[w] : most;
  return most;
}

#endif  // XH_KERNELS

// ---- tensors ----

// A tensor by pointer and strides in elements; data is NULL where the argument is absent. A kernel parameter.
template <class T>
struct View {
  T* data = nullptr;
  int64_t stride[4] = {0, 0, 0, 0};

  XH_BOTH bool present() const { return data != nullptr; }
  XH_BOTH T* At(int64_t i) const { return data + i * stride[0]; }
  XH_BOTH T* At(int64_t i, int64_t j) const { return data + i * stride[0] + j * stride[1]; }
  XH_BOTH T* At(int64_t i, int64_t j, int64_t k) const { return data + i * stride[0] + j * stride[1] + k * stride[2]; }
};
template <class T>
View<T> ViewOf(const xh_tensor& tensor) {
  View<T> view;
  if (tensor.dtype == 0) return view;
  view.data = static_cast<T*>(tensor.data);
  for (int i = 0; i < tensor.rank && i < 4; ++i) view.stride[i] = tensor.stride[i];
  return view;
}

// Whether every row of `tensor` begins at a multiple of 16 bytes, and rows are whole packs: what vector kernels need.
// An absent tensor does.
inline bool MovesInPacks(const xh_tensor& tensor) {
  if (tensor.dtype == 0) return true;
  const int64_t bytes = tensor.dtype == XH_BF16 || tensor.dtype == XH_F16 ? 2 : 4, pack = 16 / bytes;
  if (reinterpret_cast<uintptr_t>(tensor.data) % 16 != 0) return false;
  if (tensor.rank < 1 || tensor.shape[tensor.rank - 1] % pack != 0) return false;
  for (int i = 0; i + 1 < tensor.rank; ++i) {
    if (tensor.shape[i] > 1 && tensor.stride[i] % pack != 0) return false;
  }
  return true;
}

// ---- faults: bad data that only a run can see ----

enum class FaultKind : int32_t { kNone, kId, kPosition, kStart, kTarget, kTeacherId };

// In memory that host and device see; read by the host when the stream is idle.
struct Fault {
  FaultKind kind;
  int32_t plan;       // which op, filled in by the plan
  int64_t first;      // index of the element, [first] or [first, second]
  int64_t second;     // -1: rank 1
  int64_t value;      // what it is
  int64_t low, high;  // what is allowed
};
// Where a kernel reports: the lock lies in device memory, so that one report alone is written.
struct FaultSink {
  Fault* fault;
  int32_t* lock;
  int32_t plan;  // xh_op
};
#ifdef XH_KERNELS
__device__ inline void Report(const FaultSink& sink, FaultKind kind, int64_t first, int64_t second, int64_t value,
                              int64_t low, int64_t high) {
  if (atomicCAS(sink.lock, 0, 1) != 0) return;
  *sink.fault = {kind, sink.plan, first, second, value, low, high};
}
#endif

}  // namespace xh::gpu

#endif  // XHYBRID_BACKENDS_CUDA_GPU_H_
