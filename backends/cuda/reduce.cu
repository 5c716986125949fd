// REDUCE: sums over rows in double, in a fixed order: slices of rows at once, then over the slices.
#include "backends/cuda/ops.h"
#include "backends/cuda/rows.cuh"

namespace xh::gpu {
namespace {

constexpr int64_t kMostSlices = 1024;

// `columns` neighbouring columns (a power of two) by kRowThreads / columns rows at a time.
template <bool kSquares>
__global__ void __launch_bounds__(kRowThreads)
    ReduceSlices(View<const float> x, double* sums, int64_t m, int64_t n, int columns, int64_t rows_each) {
  __shared__ double shared[kRowThreads];
  const int thread = static_cast<int>(threadIdx.x), column = thread % columns, step = kRowThreads / columns;
  const int64_t j = static_cast<int64_t>(blockIdx.x) * columns + column;
  const int64_t first = blockIdx.y * rows_each, last = min(first + rows_each, m);
  double sum = 0.0;
  if (j < n) {
#pragma unroll 8
    for (int64_t row = first + thread / columns; row < last; row += step) {
      const double value = x.At(row)[j];
      sum += kSquares ? value * value : value;
    }
  }
  shared[thread] = sum;
  __syncthreads();
  if (thread >= columns || j >= n) return;
  for (int i = 1; i < step; ++i) sum += shared[thread + i * columns];
  sums[blockIdx.y * n + j] = sum;
}

__global__ void __launch_bounds__(kRowThreads) AddSlices(const double* sums, float* y, int64_t slices, int64_t n) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (j >= n) return;
  double sum = 0.0;
#pragma unroll 8
  for (int64_t slice = 0; slice < slices; ++slice) sum += sums[slice * n + j];
  y[j] = static_cast<float>(sum);
}

class ReducePlan final : public Plan {
 public:
  ReducePlan(const Dims& dims, bool squares) : m_(dims['M']), n_(dims['N']), squares_(squares) {
    while (columns_ < kRowThreads && columns_ < n_) columns_ *= 2;
    const int64_t at_once = 8 * (kRowThreads / columns_);  // rows that a slice has at least
    rows_each_ = std::max((m_ + kMostSlices - 1) / kMostSlices, at_once);
    slices_ = (m_ + rows_each_ - 1) / rows_each_;
    Reserve(&workspace_bytes, slices_ * n_, sizeof(double));
    implementation = "double";
  }

  void Run(const Launch& launch) const override {
    if (n_ == 0) return;
    double* const sums = Part<double>(launch.workspace, 0);
    const View<const float> x = ViewOf<const float>(launch.args[0]);
    const dim3 grid(Blocks(n_, columns_), static_cast<unsigned>(slices_));
    if (slices_ > 0 && squares_) {
      ReduceSlices<true><<<grid, kRowThreads, 0, launch.stream>>>(x, sums, m_, n_, columns_, rows_each_);
    } else if (slices_ > 0) {
      ReduceSlices<false><<<grid, kRowThreads, 0, launch.stream>>>(x, sums, m_, n_, columns_, rows_each_);
    }
    AddSlices<<<Blocks(n_, kRowThreads), kRowThreads, 0, launch.stream>>>(
        sums, static_cast<float*>(launch.args[1].data), slices_, n_);
  }

 private:
  int64_t m_, n_, rows_each_ = 1, slices_ = 0;
  int columns_ = 1;
  bool squares_;
};

}  // namespace

Refusal OpenReduce(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_reduce_params params = {};
  const Refusal refusal = backend::CheckReduce(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  *out = std::make_unique<ReducePlan>(dims, params.kind == XH_REDUCE_SUM_SQUARES);
  return {};
}

}  // namespace xh::gpu
