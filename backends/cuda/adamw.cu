// ADAMW: AdamW with decoupled weight decay, in f32. With g the gradient times schedule[3]:
//   m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2
//   p = p (1 - lr wd) - lr (m / schedule[1]) / (sqrt(v / schedule[2]) + eps)
#include "backends/cuda/ops.h"
#include "backends/cuda/rows.cuh"

namespace xh::gpu {
namespace {

template <class T, int N>
struct AdamwBody {
  const float *gradient, *schedule;
  T* param;
  float *first, *second, *master;
  xh_adamw_params params;
  __device__ void operator()(int64_t row, int) const {
    const float rate = schedule[0], first_scale = 1.0f / schedule[1], root_scale = rsqrtf(schedule[2]);
    const float gradient_scale = schedule[3], keep = 1.0f - rate * params.weight_decay;
    if (!isfinite(gradient_scale)) return;
    const int64_t at = row * N;
    float g[N], m[N], v[N], p[N];
    LoadPack<float, N>(gradient + at, g);
    LoadPack<float, N>(first + at, m);
    LoadPack<float, N>(second + at, v);
    if (master != nullptr) {
      LoadPack<float, N>(master + at, p);
    } else {
      LoadPack<T, N>(param + at, p);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      // Fused where it is written so and nowhere else: a parameter with a master takes the bits of one without.
      const float scaled = __fmul_rn(g[i], gradient_scale);
      m[i] = fmaf(params.beta1, m[i], __fmul_rn(1.0f - params.beta1, scaled));
      v[i] = fmaf(params.beta2, v[i], __fmul_rn(__fmul_rn(1.0f - params.beta2, scaled), scaled));
      const float root = fmaf(sqrtf(v[i]), root_scale, params.eps);
      p[i] = fmaf(p[i], keep, -__fdiv_rn(__fmul_rn(rate, __fmul_rn(m[i], first_scale)), root));
    }
    StorePack<float, N>(first + at, m);
    StorePack<float, N>(second + at, v);
    if (master != nullptr) StorePack<float, N>(master + at, p);
    StorePack<T, N>(param + at, p);
  }
};

class AdamwPlan final : public Plan {
 public:
  AdamwPlan(const Request& request, const Dims& dims, const xh_adamw_params& params)
      : n_(dims['N']), dtype_(request.args[kParam].dtype), params_(params) {
    implementation = "packs";
  }

  void Run(const Launch& launch) const override {
    WithType(dtype_, [&](auto t) {
      using T = decltype(t);
      bool packs = n_ % 4 == 0;
      for (int slot = kGradient; slot <= kMaster; ++slot) {
        packs = packs && reinterpret_cast<uintptr_t>(launch.args[slot].data) % 16 == 0;
      }
      packs ? Update<T, 4>(launch) : Update<T, 1>(launch);
    });
  }

 private:
  enum { kGradient, kSchedule, kParam, kFirst, kSecond, kMaster };

  template <class T, int N>
  void Update(const Launch& launch) const {
    const auto floats = [&](int slot) { return static_cast<float*>(launch.args[slot].data); };
    const bool has_master = Present(launch.args[kMaster]);
    ForPacks<1>(launch, n_ / N, 1,
                AdamwBody<T, N>{floats(kGradient), floats(kSchedule), static_cast<T*>(launch.args[kParam].data),
                                floats(kFirst), floats(kSecond), has_master ? floats(kMaster) : nullptr, params_});
  }

  int64_t n_;
  xh_dtype dtype_;
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

}  // namespace xh::gpu
