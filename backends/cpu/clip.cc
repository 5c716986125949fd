// CLIP: the factor of the gradients by their norm, NaN where a step has to be skipped.
#include <cmath>

#include "backends/cpu/ops.h"

namespace xh::cpu::XH_ISA {
namespace {

enum { kSquares, kSums, kFactor };

class ClipPlan final : public Plan {
 public:
  ClipPlan(const Dims& dims, float limit) : squares_(dims['N']), sums_(dims['S']), limit_(limit) {
    implementation = "double";
  }

  void Run(const xh_tensor* args, void*, void*) const override {
    const float* const squares = static_cast<const float*>(args[kSquares].data);
    const float* const sums = static_cast<const float*>(args[kSums].data);
    double total = 0.0, check = 0.0;  // 0 times what is not finite is NaN
    for (int64_t n = 0; n < squares_; ++n) total += squares[n];
    for (int64_t s = 0; s < sums_; ++s) check += 0.0 * sums[s];
    const double norm = std::sqrt(total), limit = limit_;
    const double factor = limit > 0.0 && norm > limit ? limit / norm : 1.0;
    *static_cast<float*>(args[kFactor].data) = static_cast<float>(std::isfinite(norm + check) ? factor : NAN);
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

}  // namespace xh::cpu::XH_ISA
