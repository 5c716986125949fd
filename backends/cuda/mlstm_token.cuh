// What kernels that take one token of the mLSTM share: its gates, and how the state moves.
#ifndef XHYBRID_BACKENDS_CUDA_MLSTM_TOKEN_CUH_
#define XHYBRID_BACKENDS_CUDA_MLSTM_TOKEN_CUH_

#include "backends/cuda/mlstm_gates.cuh"

namespace xh::gpu::mlstm {

// The state passes through once: it should not push out of the caches what will be read again.
template <int kWidth>
__device__ inline Pack<float, kWidth> LoadOnce(const float* from) {
  Pack<float, kWidth> x;
#ifdef XH_HIP
  x = *reinterpret_cast<const Pack<float, kWidth>*>(from);
#else
  if constexpr (kWidth == 4) {
    const float4 all = __ldcs(reinterpret_cast<const float4*>(from));
    x = {{all.x, all.y, all.z, all.w}};
  } else {
    x.value[0] = __ldcs(from);
  }
#endif
  return x;
}
template <int kWidth>
__device__ inline void StoreOnce(float* to, const Pack<float, kWidth>& x) {
#ifdef XH_HIP
  *reinterpret_cast<Pack<float, kWidth>*>(to) = x;
#else
  if constexpr (kWidth == 4) {
    __stcs(reinterpret_cast<float4*>(to), make_float4(x.value[0], x.value[1], x.value[2], x.value[3]));
  } else {
    __stcs(to, x.value[0]);
  }
#endif
}

struct TokenGates {
  float decay, keep, floor, m;
};
// What is added to m is added in double: m may be large, and the state would gather what float loses there token by
// token. The logarithm itself is small where memory is long: float has digits enough for it, and double's functions
// would take longer than the rest of a kernel.
__device__ inline TokenGates FindGates(float i, float f, double m) {
  const double forget = static_cast<double>(fminf(f, 0.0f) - log1pf(expf(-fabsf(f))));
  const double carried = forget + m, in = static_cast<double>(i);
  double most = carried > in || carried != carried ? carried : in;  // NaN wins
  if (most < static_cast<double>(kNone)) most = static_cast<double>(kNone);
  const float after = static_cast<float>(most);  // the stabiliser that is given out
  const double used = static_cast<double>(after);
  return {expf(static_cast<float>(carried - used)), expf(static_cast<float>(in - used)), expf(-after), after};
}

}  // namespace xh::gpu::mlstm

#endif  // XHYBRID_BACKENDS_CUDA_MLSTM_TOKEN_CUH_
