// ALIGN_LOSS (SPEC.md 3): { sum (x - teacher)^2, sum teacher^2 }, and dx = 2 scale (x - teacher).
#include "backends/cpu/ops.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"

namespace xh::cpu::XH_ISA {
namespace {

enum { kX, kTeacher, kScale, kSums, kDsums, kDx };

template <class T>
class AlignPlan final : public Plan {
 public:
  AlignPlan(const Request& request, const Dims& dims)
      : args_(request.args),
        h_(dims['H']),
        t_(dims['T']),
        d_(dims['d']),
        tokens_(dims['B'] * t_),
        parts_(Parts(request.threads, tokens_, tokens_ * h_ * d_)),
        backward_(request.pass == XH_BACKWARD) {
    sums_ = Reserve(&workspace_bytes, backward_ ? 0 : parts_ * kShareDoubles * 8);
    implementation = "vector";
  }

  void Run(const xh_tensor* args, void* workspace, void*) const override {
    if (backward_) {
      Backward(args);
    } else {
      Forward(args, At<double>(workspace, sums_));
    }
  }

 private:
  static constexpr int kShareDoubles = 8;  // a cache line a part

  // body(place) for each row of the tokens [first, last), where place(index) is element (b, h, t, 0) of an argument:
  // head by head within a token, the order of token-major memory.
  template <class Body>
  void ForRows(const xh_tensor* args, int64_t first, int64_t last, Body body) const {
    for (int64_t token = first; token < last; ++token) {
      const int64_t b = token / t_, t = token % t_;
      for (int64_t h = 0; h < h_; ++h) {
        body([&](int index) {
          const xh_tensor& a = args_[index];
          return static_cast<T*>(args[index].data) + b * a.stride[0] + h * a.stride[1] + t * a.stride[2];
        });
      }
    }
  }

  void Forward(const xh_tensor* args, double* shares) const {
    RunParts(parts_, tokens_, [&](int64_t first, int64_t last, int part) {
      double difference = 0.0, norm = 0.0;
      ForRows(args, first, last, [&](auto place) {
        const T *x = place(kX), *teacher = place(kTeacher);
        Vec d2 = {}, t2 = {};
        ForLanes(d_, [&](int64_t i, auto lanes) {
          const Vec t = Get(teacher + i, lanes), d = Get(x + i, lanes) - t;
          d2 = Fma(d, d, d2);
          t2 = Fma(t, t, t2);
        });
        difference += Sum(d2);
        norm += Sum(t2);
      });
      shares[part * kShareDoubles] = difference;
      shares[part * kShareDoubles + 1] = norm;
    });
    double difference = 0.0, norm = 0.0;
    for (int part = 0; part < parts_; ++part) {
      difference += shares[part * kShareDoubles];
      norm += shares[part * kShareDoubles + 1];
    }
    float* const sums = static_cast<float*>(args[kSums].data);
    sums[0] = static_cast<float>(difference);
    sums[1] = static_cast<float>(norm);
  }

  void Backward(const xh_tensor* args) const {
    if (!Present(args_[kDx])) return;
    const float factor = 2.0f * *static_cast<const float*>(args[kScale].data);
    const bool add = Accumulates(args_[kDx]);
    RunParts(parts_, tokens_, [&](int64_t first, int64_t last, int) {
      ForRows(args, first, last, [&](auto place) {
        const T *x = place(kX), *teacher = place(kTeacher);
        T* const dx = place(kDx);
        ForLanes(d_, [&](int64_t i, auto lanes) {
          PutGradient(dx + i, factor * (Get(x + i, lanes) - Get(teacher + i, lanes)), add, lanes);
        });
      });
    });
  }

  std::vector<xh_tensor> args_;
  int64_t h_, t_, d_, tokens_;
  int parts_;
  bool backward_;
  int64_t sums_ = 0;
};

}  // namespace

Refusal OpenAlignLoss(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  const Refusal refusal = backend::CheckAlignLoss(request, &dims);
  if (refusal.code != 0) return refusal;
  WithType(dims.activation, [&](auto t) { *out = std::make_unique<AlignPlan<decltype(t)>>(request, dims); });
  return {};
}

}  // namespace xh::cpu::XH_ISA
