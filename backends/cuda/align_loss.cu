// ALIGN_LOSS (SPEC.md 3): { sum (x - teacher)^2, sum teacher^2 } in double, and dx = 2 scale (x - teacher).
#include "backends/cuda/ops.h"
#include "backends/cuda/rows.cuh"

namespace xh::gpu {
namespace {

constexpr int kShares = 1024;  // partial sums, whatever the sizes

// Row `row` of [B,H,T,d], token by token and head by head within one: the order of token-major memory.
struct HeadRows {
  int64_t heads, tokens;
  template <class T>
  __device__ T* At(const View<T>& x, int64_t row) const {
    const int64_t head = row % heads, token = row / heads;
    return x.At(token / tokens, head, token % tokens);
  }
};

template <class T, int N>
__global__ void __launch_bounds__(kRowThreads)
    AlignShares(View<const T> x, View<const T> teacher, HeadRows rows, int64_t items, int packs, double* shares) {
  __shared__ double scratch[kRowThreads / 32];
  double difference = 0.0, norm = 0.0;
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x; item < items;
       item += static_cast<int64_t>(kShares) * kRowThreads) {
    const int64_t row = item / packs;
    const int column = static_cast<int>(item % packs) * N;
    float a[N], b[N];
    LoadPack<T, N>(rows.At(x, row) + column, a);
    LoadPack<T, N>(rows.At(teacher, row) + column, b);
    float d2 = 0.0f, t2 = 0.0f;  // of one pack; packs add up in double
#pragma unroll
    for (int i = 0; i < N; ++i) {
      d2 += (a[i] - b[i]) * (a[i] - b[i]);
      t2 += b[i] * b[i];
    }
    difference += d2;
    norm += t2;
  }
  difference = BlockSum(difference, scratch);
  norm = BlockSum(norm, scratch);
  if (threadIdx.x != 0) return;
  shares[2 * blockIdx.x] = difference;
  shares[2 * blockIdx.x + 1] = norm;
}

__global__ void __launch_bounds__(kRowThreads) AddShares(const double* shares, float* sums) {
  __shared__ double scratch[kRowThreads / 32];
  double difference = 0.0, norm = 0.0;
  for (int i = static_cast<int>(threadIdx.x); i < kShares; i += kRowThreads) {
    difference += shares[2 * i];
    norm += shares[2 * i + 1];
  }
  difference = BlockSum(difference, scratch);
  norm = BlockSum(norm, scratch);
  if (threadIdx.x != 0) return;
  sums[0] = static_cast<float>(difference);
  sums[1] = static_cast<float>(norm);
}

template <class T, int N>
struct AlignGradient {
  View<const T> x, teacher;
  View<T> dx;
  const float* scale;
  HeadRows rows;
  bool adds;
  __device__ void operator()(int64_t row, int column) const {
    float a[N], b[N];
    LoadPack<T, N>(rows.At(x, row) + column, a);
    LoadPack<T, N>(rows.At(teacher, row) + column, b);
    const float factor = 2.0f * *scale;
#pragma unroll
    for (int i = 0; i < N; ++i) a[i] = factor * (a[i] - b[i]);
    StoreGradient<T, N>(rows.At(dx, row) + column, a, adds);
  }
};

template <class T>
class AlignPlan final : public Plan {
 public:
  AlignPlan(const Request& request, const Dims& dims)
      : backward_(request.pass == XH_BACKWARD),
        rows_(dims['B'] * dims['H'] * dims['T']),
        d_(dims['d']),
        heads_{dims['H'], dims['T']} {
    adds_ = backward_ && Accumulates(request.args[kDx]);
    if (!backward_) Reserve(&workspace_bytes, 2 * kShares, sizeof(double));
    implementation = "packs";
  }

  void Run(const Launch& launch) const override {
    const bool packs = MovesInPacks(launch.args[kX]) && MovesInPacks(launch.args[kTeacher]) &&
                       (!backward_ || MovesInPacks(launch.args[kDx]));
    packs ? RunPacks<kPack<T>>(launch) : RunPacks<1>(launch);
  }

 private:
  enum { kX, kTeacher, kScale, kSums, kDsums, kDx };

  template <int N>
  void RunPacks(const Launch& launch) const {
    const View<const T> x = ViewOf<const T>(launch.args[kX]), teacher = ViewOf<const T>(launch.args[kTeacher]);
    if (backward_) {
      if (!Present(launch.args[kDx])) return;
      ForPacks<N>(launch, rows_, d_,
                  AlignGradient<T, N>{x, teacher, ViewOf<T>(launch.args[kDx]),
                                      static_cast<const float*>(launch.args[kScale].data), heads_, adds_});
      return;
    }
    double* const shares = Part<double>(launch.workspace, 0);
    const int packs = static_cast<int>(d_ / N);
    AlignShares<T, N><<<kShares, kRowThreads, 0, launch.stream>>>(x, teacher, heads_, rows_ * packs, packs, shares);
    AddShares<<<1, kRowThreads, 0, launch.stream>>>(shares, static_cast<float*>(launch.args[kSums].data));
  }

  bool backward_, adds_;
  int64_t rows_, d_;
  HeadRows heads_;
};

}  // namespace

Refusal OpenAlignLoss(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  const Refusal refusal = backend::CheckAlignLoss(request, &dims);
  if (refusal.code != 0) return refusal;
  WithType(dims.activation, [&](auto t) { *out = std::make_unique<AlignPlan<decltype(t)>>(request, dims); });
  return {};
}

}  // namespace xh::gpu
