// FEATURE_MAP of few tokens, as decoding has them: a block a head and token. All of the head's map is under way at
// once, in packs of 16 bytes; a thread holds one pack of columns and adds up every so many rows.
#include <algorithm>

#include "backends/cuda/feature_map.h"
#include "backends/cuda/rows.cuh"

namespace xh::gpu::feature_map {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostTokens = 8;  // of a sequence
constexpr int64_t kMostDim = 256, kMostFeatures = 256;

template <class T, class W>
struct FewArguments {
  Sizes s;
  View<const T> u;
  View<const W> a;
  View<T> phi;
};

// Warp 0: the softmax of sign * scores.
template <class T>
__device__ void PutSoftmax(const float* scores, float sign, int n, T* phi) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float most = -kInfinity, sum = 0.0f;
  for (int j = lane; j < n; j += kWarp) most = fmaxf(most, sign * scores[j]);
  most = WarpMax(most);
  for (int j = lane; j < n; j += kWarp) sum += expf(sign * scores[j] - most);
  const float scale = 1.0f / WarpSum(sum);
  for (int j = lane; j < n; j += kWarp) phi[j] = FromFloat<T>(expf(sign * scores[j] - most) * scale);
}

template <class T, class W>
__global__ void __launch_bounds__(kThreads) FewTokens(const FewArguments<T, W> x) {
  constexpr int kEach = kPack<W>;
  __shared__ float row[kMostDim];
  __shared__ float parts[kThreads][kEach + 1];  // neighbours in other banks
  __shared__ float scores[kMostFeatures];
  LetNextBegin();
  const Sizes& s = x.s;
  const int64_t t = blockIdx.x % s.t, pair = blockIdx.x / s.t, b = pair / s.heads, h = pair % s.heads;
  const int d = static_cast<int>(s.d), n = static_cast<int>(s.n), thread = static_cast<int>(threadIdx.x);
  const int packs = n / kEach, groups = kThreads / packs, group = thread / packs, pack = thread % packs;
  WaitForEarlier();
  for (int i = thread; i < d; i += kThreads) row[i] = ToFloat(x.u.At(b, h / s.group(), t)[i]);
  __syncthreads();
  float sum[kEach] = {};
  if (group < groups) {
    const W* const map = x.a.At(h) + pack * kEach;
#pragma unroll 8
    for (int i = group; i < d; i += groups) {
      float weight[kEach];
      LoadPack<W, kEach>(map + i * x.a.stride[1], weight);
#pragma unroll
      for (int e = 0; e < kEach; ++e) sum[e] = fmaf(row[i], weight[e], sum[e]);
    }
  }
#pragma unroll
  for (int e = 0; e < kEach; ++e) parts[thread][e] = sum[e];
  __syncthreads();
  for (int j = thread; j < n; j += kThreads) {
    float score = 0.0f;
    for (int g = 0; g < groups; ++g) score += parts[g * packs + j / kEach][j % kEach];
    scores[j] = score;
  }
  __syncthreads();
  T* const phi = x.phi.At(b, h, t);
  const int warp = thread / kWarp;
  if (warp == 0) PutSoftmax(scores, 1.0f, n, phi);
  if (warp == 1 && s.hedgehog) PutSoftmax(scores, -1.0f, n, phi + n);
}

template <class T, class W>
class FewPlan final : public Plan {
 public:
  FewPlan(const Sizes& sizes, std::unique_ptr<Plan> plain) : s_(sizes), plain_(std::move(plain)) {
    implementation = "few tokens";
  }
  void Run(const Launch& launch) const override {
    if (reinterpret_cast<uintptr_t>(launch.args[kA].data) % 16 != 0) return plain_->Run(launch);
    const FewArguments<T, W> x = {s_, ViewOf<const T>(launch.args[kU]), ViewOf<const W>(launch.args[kA]),
                                  ViewOf<T>(launch.args[kPhi])};
    LaunchEarly(launch, FewTokens<T, W>, static_cast<unsigned>(s_.b * s_.heads * s_.t), kThreads, 0, x);
  }

 private:
  Sizes s_;
  std::unique_ptr<Plan> plain_;  // for maps that are not at a multiple of 16 bytes
};

}  // namespace

bool TakeFewTokens(const Request& request, const Sizes& s, std::unique_ptr<Plan>* plan) {
  const xh_tensor& a = request.args[kA];
  const int64_t each = a.dtype == XH_BF16 ? kPack<bf16> : kPack<float>;
  if (request.pass == XH_BACKWARD || s.d > kMostDim || s.n > kMostFeatures) return false;
  if (s.n % each != 0 || a.stride[0] % each != 0 || a.stride[1] % each != 0) return false;
  if (s.t == 0 || s.t > kMostTokens || s.b * s.heads == 0) return false;
  WithType(request.args[kU].dtype, [&](auto t) {
    WithType(a.dtype,
             [&](auto w) { *plan = std::make_unique<FewPlan<decltype(t), decltype(w)>>(s, std::move(*plan)); });
  });
  TakeManySequences(request, s, plan);
  return true;
}

}  // namespace xh::gpu::feature_map
