// RMS_NORM: y = x r w with r = 1 / sqrt(mean(x^2) + eps). With g = dy w and x' = x r:
//   dx = r (g - x' mean(g x')),  dw = sum over rows of dy x'.
// FORWARD saves r, one f32 a row.
// A block a row. dw is summed by a number of blocks that each own a stretch of rows, then over the blocks.
#include "backends/cuda/ops.h"
#include "backends/cuda/rows.cuh"

namespace xh::gpu {
namespace {

constexpr int kMostSlices = 512;  // partial sums of dw

template <class T, class W>
struct NormArguments {
  View<const T> x, dy;
  View<const W> w;
  View<T> y, dx;
  float* inverses;  // [M], NULL of INFER
  float* partial;   // [slices, D]
  int64_t m, d;
  float eps;
  bool adds;
};

// `threads` of a block work on a row of d columns: few for the narrow rows of head norms.
template <class T>
int ThreadsFor(int64_t d) {
  int threads = kWarp;
  while (threads < 512 && threads * 2 * kPack<T> <= d) threads *= 2;
  return threads;
}

template <class T, class W, int N>
__global__ void NormForward(const NormArguments<T, W> a) {
  __shared__ float scratch[32];
  const int64_t row = blockIdx.x;
  const T* const x = a.x.At(row);
  LetNextBegin();
  WaitForEarlier();
  float sum = 0.0f;
  for (int64_t j = threadIdx.x * N; j < a.d; j += blockDim.x * N) {
    float value[N];
    LoadPack<T, N>(x + j, value);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += value[i] * value[i];
  }
  const float r = rsqrtf(BlockSum(sum, scratch) / static_cast<float>(a.d) + a.eps);
  if (a.inverses != nullptr && threadIdx.x == 0) a.inverses[row] = r;
  T* const y = a.y.At(row);
  for (int64_t j = threadIdx.x * N; j < a.d; j += blockDim.x * N) {
    float value[N];
    LoadPack<T, N>(x + j, value);  // from the first-level cache
#pragma unroll
    for (int i = 0; i < N; ++i) value[i] *= r * ToFloat(a.w.data[j + i]);
    StorePack<T, N>(y + j, value);
  }
}

template <class T, class W, int N>
__global__ void NormBackward(const NormArguments<T, W> a) {
  __shared__ float scratch[32];
  const int64_t row = blockIdx.x;
  const T *const x = a.x.At(row), *const dy = a.dy.present() ? a.dy.At(row) : nullptr;
  float product = 0.0f;
  for (int64_t j = threadIdx.x * N; j < a.d; j += blockDim.x * N) {
    float value[N], gradient[N] = {};
    LoadPack<T, N>(x + j, value);
    if (dy != nullptr) LoadPack<T, N>(dy + j, gradient);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      product += gradient[i] * ToFloat(a.w.data[j + i]) * value[i];
    }
  }
  const float r = a.inverses[row];
  const float mean = BlockSum(product, scratch) * r / static_cast<float>(a.d);  // of g x'
  T* const dx = a.dx.At(row);
  for (int64_t j = threadIdx.x * N; j < a.d; j += blockDim.x * N) {
    float value[N], gradient[N] = {};
    LoadPack<T, N>(x + j, value);
    if (dy != nullptr) LoadPack<T, N>(dy + j, gradient);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      value[i] = dy == nullptr ? 0.0f : r * (gradient[i] * ToFloat(a.w.data[j + i]) - value[i] * r * mean);
    }
    StoreGradient<T, N>(dx + j, value, a.adds);
  }
}

// A thread a column and slice of rows.
template <class T, class W>
__global__ void __launch_bounds__(kRowThreads) WeightGradientParts(const NormArguments<T, W> a, int64_t rows_each) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (j >= a.d) return;
  const int64_t first = blockIdx.y * rows_each, last = min(first + rows_each, a.m);
  float sum = 0.0f;
  if (a.dy.present()) {
#pragma unroll 4
    for (int64_t row = first; row < last; ++row) {
      sum += ToFloat(a.dy.At(row)[j]) * ToFloat(a.x.At(row)[j]) * a.inverses[row];
    }
  }
  a.partial[blockIdx.y * a.d + j] = sum;
}

__global__ void __launch_bounds__(kRowThreads)
    SumParts(const float* partial, int64_t slices, int64_t d, View<float> to, bool adds) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (j >= d) return;
  float sum = 0.0f;
  for (int64_t slice = 0; slice < slices; ++slice) sum += partial[slice * d + j];
  PutGradient(to.data + j, sum, adds);
}

template <class T, class W>
class NormPlan final : public Plan {
 public:
  NormPlan(const Request& request, const Dims& dims, float eps)
      : backward_(request.pass == XH_BACKWARD), m_(dims['M']), d_(dims['D']), eps_(eps) {
    if (backward_) {
      adds_x_ = Accumulates(request.args[kDx]);
      adds_w_ = Accumulates(request.args[kDw]);
      rows_each_ = std::max<int64_t>(16, (m_ + kMostSlices - 1) / kMostSlices);
      slices_ = Present(request.args[kDw]) ? (m_ + rows_each_ - 1) / rows_each_ : 0;
      partial_ = Reserve(&workspace_bytes, slices_ * d_, 4);
    }
    if (request.pass != XH_INFER) Reserve(&saved_bytes, m_, 4);
    implementation = "packs";
  }

  void Run(const Launch& launch) const override {
    const xh_tensor* const args = launch.args;
    NormArguments<T, W> a = {};
    a.x = ViewOf<const T>(args[kX]);
    a.w = ViewOf<const W>(args[kW]);
    a.m = m_;
    a.d = d_;
    a.eps = eps_;
    a.inverses = saved_bytes > 0 ? Part<float>(launch.saved, 0) : nullptr;
    if (!backward_) {
      a.y = ViewOf<T>(args[kY]);
      if (m_ == 0) return;
      MovesInPacks(args[kX]) && MovesInPacks(args[kY]) ? Forward<kPack<T>>(launch, a) : Forward<1>(launch, a);
      return;
    }
    a.dy = ViewOf<const T>(args[kDy]);
    a.dx = ViewOf<T>(args[kDx]);
    a.adds = adds_x_;
    a.partial = Part<float>(launch.workspace, partial_);
    const bool packs = MovesInPacks(args[kX]) && MovesInPacks(args[kDy]) && MovesInPacks(args[kDx]);
    if (m_ > 0 && a.dx.present()) packs ? Backward<kPack<T>>(launch, a) : Backward<1>(launch, a);
    if (!Present(args[kDw])) return;
    if (slices_ > 0) {
      WeightGradientParts<<<dim3(Blocks(d_, kRowThreads), static_cast<unsigned>(slices_)), kRowThreads, 0,
                            launch.stream>>>(a, rows_each_);
    }
    SumParts<<<Blocks(d_, kRowThreads), kRowThreads, 0, launch.stream>>>(a.partial, slices_, d_,
                                                                         ViewOf<float>(args[kDw]), adds_w_);
  }

 private:
  enum { kX, kW, kY, kDy, kDx, kDw };

  template <int N>
  void Forward(const Launch& launch, const NormArguments<T, W>& a) const {
    LaunchEarly(launch, NormForward<T, W, N>, static_cast<unsigned>(m_), static_cast<unsigned>(ThreadsFor<T>(d_)), 0,
                a);
  }
  template <int N>
  void Backward(const Launch& launch, const NormArguments<T, W>& a) const {
    NormBackward<T, W, N><<<static_cast<unsigned>(m_), ThreadsFor<T>(d_), 0, launch.stream>>>(a);
  }

  bool backward_;
  int64_t m_, d_;
  float eps_;
  bool adds_x_ = false, adds_w_ = false;
  int64_t rows_each_ = 0, slices_ = 0, partial_ = 0;
};

}  // namespace

Refusal OpenRmsNorm(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_norm_params params = {};
  const Refusal refusal = backend::CheckRmsNorm(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  WithType(dims.activation, [&](auto t) {
    WithType(request.args[1].dtype,
             [&](auto w) { *out = std::make_unique<NormPlan<decltype(t), decltype(w)>>(request, dims, params.eps); });
  });
  return {};
}

}  // namespace xh::gpu
