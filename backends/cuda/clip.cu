// CLIP: the factor of the gradients by their norm, NaN where a step has to be skipped. One block: few numbers.
#include "backends/cuda/ops.h"
#include "backends/cuda/rows.cuh"

namespace xh::gpu {
namespace {

__global__ void __launch_bounds__(kRowThreads) ClipKernel(const float* squares, int64_t square_count, const float* sums,
                                                          int64_t sum_count, double limit, float* factor) {
  __shared__ double scratch[kRowThreads / 32];
  double total = 0.0, check = 0.0;  // 0 times what is not finite is NaN
  for (int64_t i = threadIdx.x; i < square_count; i += kRowThreads) total += squares[i];
  for (int64_t i = threadIdx.x; i < sum_count; i += kRowThreads) check += 0.0 * sums[i];
  total = BlockSum(total, scratch);
  check = BlockSum(check, scratch);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(total), scale = limit > 0.0 && norm > limit ? limit / norm : 1.0;
  *factor = isfinite(norm + check) ? static_cast<float>(scale) : nanf("");
}

class ClipPlan final : public Plan {
 public:
  ClipPlan(const Dims& dims, float limit) : squares_(dims['N']), sums_(dims['S']), limit_(limit) {
    implementation = "double";
  }

  void Run(const Launch& launch) const override {
    ClipKernel<<<1, kRowThreads, 0, launch.stream>>>(
        static_cast<const float*>(launch.args[0].data), squares_, static_cast<const float*>(launch.args[1].data),
        std::max<int64_t>(sums_, 0), limit_, static_cast<float*>(launch.args[2].data));
  }

 private:
  int64_t squares_, sums_;  // sums_ -1: absent
  float limit_;
};

}  // namespace

Refusal OpenClip(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_clip_params params = {};
  const Refusal refusal = backend::CheckClip(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  *out = std::make_unique<ClipPlan>(dims, params.limit);
  return {};
}

}  // namespace xh::gpu
