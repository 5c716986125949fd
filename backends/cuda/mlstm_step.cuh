// What the kernels of one token of the mLSTM share: its gates.
#ifndef XHYBRID_BACKENDS_CUDA_MLSTM_STEP_CUH_
#define XHYBRID_BACKENDS_CUDA_MLSTM_STEP_CUH_

#include "backends/cuda/mlstm_gates.cuh"

namespace xh::gpu::mlstm {

struct TokenGates {
  float decay, keep, floor, m;
};
// In double: the state would gather what float loses token by token.
__device__ inline TokenGates FindGates(float i, float f, double m) {
  const double forget = fmin(static_cast<double>(f), 0.0) - log1p(exp(-fabs(static_cast<double>(f))));
  const double carried = forget + m, in = static_cast<double>(i);
  double most = carried > in || carried != carried ? carried : in;  // NaN wins
  if (most < static_cast<double>(kNone)) most = static_cast<double>(kNone);
  const float after = static_cast<float>(most);  // the stabiliser that is given out
  const double used = static_cast<double>(after);
  return {expf(static_cast<float>(carried - used)), expf(static_cast<float>(in - used)), expf(-after), after};
}

}  // namespace xh::gpu::mlstm

#endif  // XHYBRID_BACKENDS_CUDA_MLSTM_STEP_CUH_
