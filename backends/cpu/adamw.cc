// ADAMW: AdamW with decoupled weight decay, in f32. With g the gradient times schedule[3]:
//   m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2
//   p = p (1 - lr wd) - lr (m / schedule[1]) / (sqrt(v / schedule[2]) + eps)
// Nothing changes where schedule[3] is not finite.
#include <cmath>

#include "backends/cpu/ops.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"

namespace xh::cpu::XH_ISA {
namespace {

enum { kGrad, kSchedule, kParam, kFirst, kSecond, kMaster };

class AdamwPlan final : public Plan {
 public:
  AdamwPlan(const Request& request, const Dims& dims, const xh_adamw_params& params)
      : n_(dims['N']),
        blocks_((n_ + kBlock - 1) / kBlock),
        parts_(Parts(request.threads, blocks_, n_ * 4)),
        dtype_(request.args[kParam].dtype),
        master_(Present(request.args[kMaster])),
        params_(params) {
    implementation = "vector";
  }

  void Run(const xh_tensor* args, void*, void*) const override {
    const float* const schedule = static_cast<const float*>(args[kSchedule].data);
    if (!std::isfinite(schedule[3])) return;
    const Step step = {schedule[0], 1.0f / schedule[1], 1.0f / std::sqrt(schedule[2]), schedule[3],
                       1.0f - schedule[0] * params_.weight_decay};
    RunParts(parts_, blocks_, [&](int64_t first, int64_t last, int) {
      for (int64_t block = first; block < last; ++block) {
        const int64_t at = block * kBlock, n = std::min(kBlock, n_ - at);
        const float* const grad = static_cast<const float*>(args[kGrad].data) + at;
        float* const m = static_cast<float*>(args[kFirst].data) + at;
        float* const v = static_cast<float*>(args[kSecond].data) + at;
        float* const master = master_ ? static_cast<float*>(args[kMaster].data) + at : nullptr;
        WithType(dtype_, [&](auto t) {
          Update(step, grad, static_cast<decltype(t)*>(args[kParam].data) + at, m, v, master, n);
        });
      }
    });
  }

 private:
  static constexpr int64_t kBlock = 512;  // of four f32 arrays in the first-level cache

  struct Step {
    float rate, first_scale, second_root_scale, gradient_scale, keep;
  };

  template <class T>
  void Update(const Step& step, const float* grad, T* param, float* m, float* v, float* master, int64_t n) const {
    alignas(64) float buffer[kBlock];
    float* p = buffer;  // the parameter in f32
    if (master != nullptr) {
      p = master;
    } else {
      for (int64_t i = 0; i < n; ++i) p[i] = ToFloat(param[i]);
    }
    UpdateBlock(step, grad, p, m, v, n);
    ForLanes(n, [&](int64_t i, auto lanes) { Put(param + i, Get(p + i, lanes), lanes); });
  }

  void UpdateBlock(const Step& step, const float* __restrict grad, float* __restrict p, float* __restrict m,
                   float* __restrict v, int64_t n) const {
    const float beta1 = params_.beta1, beta2 = params_.beta2, eps = params_.eps;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float g = grad[i] * step.gradient_scale;
      const float first = beta1 * m[i] + (1.0f - beta1) * g;
      const float second = beta2 * v[i] + (1.0f - beta2) * g * g;
      m[i] = first;
      v[i] = second;
      const float root = std::sqrt(second) * step.second_root_scale + eps;
      p[i] = p[i] * step.keep - step.rate * (first * step.first_scale) / root;
    }
  }

  int64_t n_, blocks_;
  int parts_;
  xh_dtype dtype_;
  bool master_;
  xh_adamw_params params_;
};

}  // namespace

Refusal OpenAdamw(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_adamw_params params = {};
  const Refusal refusal = backend::CheckAdamw(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  *out = std::make_unique<AdamwPlan>(request, dims, params);
  return {};
}

}  // namespace xh::cpu::XH_ISA
