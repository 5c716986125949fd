// REDUCE: sums over rows in double. Rows are cut into a fixed number of shares, so the result does not depend on the
// number of threads.
#include "backends/cpu/ops.h"
#include "backends/cpu/parallel.h"

namespace xh::cpu::XH_ISA {
namespace {

class ReducePlan final : public Plan {
 public:
  ReducePlan(const Request& request, const Dims& dims, bool squares)
      : m_(dims['M']), n_(dims['N']), stride_(request.args[0].stride[0]), threads_(request.threads), squares_(squares) {
    implementation = "double";
    shares_ = m_ * n_ < kWorthThreads ? 1 : std::max<int64_t>(1, std::min<int64_t>(kShares, m_));
    sums_ = Reserve(&workspace_bytes, shares_ * n_ * 8);
  }

  void Run(const xh_tensor* args, void* workspace, void*) const override {
    const float* const x = static_cast<const float*>(args[0].data);
    float* const y = static_cast<float*>(args[1].data);
    double* const sums = At<double>(workspace, sums_);
    RunParts(Parts(threads_, shares_, m_ * n_), shares_, [&](int64_t first, int64_t last, int) {
      for (int64_t s = first; s < last; ++s) {
        double* const sum = sums + s * n_;
        std::fill(sum, sum + n_, 0.0);
        const int64_t row = m_ * s / shares_, rows = m_ * (s + 1) / shares_ - row;
        if (n_ > 0 && n_ <= kFewColumns && (stride_ == n_ || rows <= 1)) {
          squares_ ? Flat<true>(x + row * stride_, rows, sum) : Flat<false>(x + row * stride_, rows, sum);
        } else {
          squares_ ? Rows<true>(x + row * stride_, rows, sum) : Rows<false>(x + row * stride_, rows, sum);
        }
      }
    });
    for (int64_t n = 0; n < n_; ++n) {
      double total = 0.0;
      for (int64_t s = 0; s < shares_; ++s) total += sums[s * n_ + n];
      y[n] = static_cast<float>(total);
    }
  }

 private:
  static constexpr int64_t kShares = 64;
  static constexpr int64_t kFewColumns = 8;
  static constexpr int64_t kRun = 64;  // partial sums that do not wait for each other

  template <bool kSquares>
  static double Term(float x) {
    const double value = x;
    return kSquares ? value * value : value;
  }

  template <bool kSquares>
  void Rows(const float* x, int64_t rows, double* sum) const {
    for (int64_t m = 0; m < rows; ++m, x += stride_) {
#pragma omp simd
      for (int64_t n = 0; n < n_; ++n) sum[n] += Term<kSquares>(x[n]);
    }
  }

  // Few columns lying side by side: several rows at a time are one contiguous run, element j of it in column j % n.
  template <bool kSquares>
  void Flat(const float* x, int64_t rows, double* sum) const {
    double run[kRun] = {};
    const int64_t at_once = kRun / n_, length = n_ * at_once;
    int64_t m = 0;
    for (; m + at_once <= rows; m += at_once, x += length) {
#pragma omp simd
      for (int64_t j = 0; j < length; ++j) run[j] += Term<kSquares>(x[j]);
    }
    for (; m < rows; ++m, x += n_) {
      for (int64_t n = 0; n < n_; ++n) run[n] += Term<kSquares>(x[n]);
    }
    for (int64_t j = 0; j < length; ++j) sum[j % n_] += run[j];
  }

  int64_t m_, n_, stride_, shares_;
  int threads_;
  bool squares_;
  int64_t sums_ = 0;
};

}  // namespace

Refusal OpenReduce(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_reduce_params params = {};
  const Refusal refusal = backend::CheckReduce(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  *out = std::make_unique<ReducePlan>(request, dims, params.kind == XH_REDUCE_SUM_SQUARES);
  return {};
}

}  // namespace xh::cpu::XH_ISA
