// ALIGN_LOSS (SPEC.md 3): { sum (x - teacher)^2, sum teacher^2 }, and dx = 2 scale (x - teacher).
#include "backends/cpu/arguments.h"
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
        rows_(dims['B'] * h_ * t_),
        parts_(Parts(request.threads, rows_, rows_ * d_)),
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

  // Element (b, h, t, 0); rows run over b, then t, then h: the order of token-major memory.
  T* Place(const xh_tensor* args, int index, int64_t row) const {
    const xh_tensor& a = args_[index];
    const int64_t h = row % h_, t = row / h_ % t_, b = row / h_ / t_;
    return static_cast<T*>(args[index].data) + b * a.stride[0] + h * a.stride[1] + t * a.stride[2];
  }

  void Forward(const xh_tensor* args, double* shares) const {
    RunParts(parts_, rows_, [&](int64_t first, int64_t last, int part) {
      double difference = 0.0, norm = 0.0;
      for (int64_t row = first; row < last; ++row) {
        const T *x = Place(args, kX, row), *teacher = Place(args, kTeacher, row);
        Vec d2 = {}, t2 = {};
        ForLanes(d_, [&](int64_t i, auto lanes) {
          const Vec t = Get(teacher + i, lanes), d = Get(x + i, lanes) - t;
          d2 = Fma(d, d, d2);
          t2 = Fma(t, t, t2);
        });
        difference += Sum(d2);
        norm += Sum(t2);
      }
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
    RunParts(parts_, rows_, [&](int64_t first, int64_t last, int) {
      for (int64_t row = first; row < last; ++row) {
        const T *x = Place(args, kX, row), *teacher = Place(args, kTeacher, row);
        T* const dx = Place(args, kDx, row);
        ForLanes(d_, [&](int64_t i, auto lanes) {
          PutGradient(dx + i, factor * (Get(x + i, lanes) - Get(teacher + i, lanes)), add, lanes);
        });
      }
    });
  }

  std::vector<xh_tensor> args_;
  int64_t h_, t_, d_, rows_;
  int parts_;
  bool backward_;
  int64_t sums_ = 0;
};

}  // namespace

Refusal OpenAlignLoss(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  Refusal refusal = CheckArguments("ALIGN_LOSS", request,
                                   {{"x", "BHTd", Type::kActivation, kNeeded},
                                    {"teacher", "BHTd", Type::kActivation, kNeeded | kConstant},
                                    {"scale", "1", Type::kF32, kNeeded | kConstant}},
                                   {{"sums", "2", Type::kF32, kConstant}}, &dims);
  if (refusal.code != 0) return refusal;
  if (dims['1'] != 1 || (dims['2'] >= 0 && dims['2'] != 2)) {
    return Invalid("ALIGN_LOSS: scale has " + std::to_string(dims['1']) + " elements and sums " +
                   std::to_string(dims['2']) + ", expected 1 and 2");
  }
  WithType(dims.activation, [&](auto t) { *out = std::make_unique<AlignPlan<decltype(t)>>(request, dims); });
  return {};
}

}  // namespace xh::cpu::XH_ISA
