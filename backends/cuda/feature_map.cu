// FEATURE_MAP for any sizes on any device, in f32.
#include <algorithm>

#include "backends/cuda/feature_map.h"
#include "backends/cuda/ops.h"

namespace xh::gpu {
namespace feature_map {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int64_t kMostFeatures = 1024;

// ---- forward ----

// The softmax of sign * scores of one token, a column of every kWarp in a lane.
template <class T, int kColumns>
__device__ void PutSoftmax(const float (&scores)[kColumns], float sign, int64_t n, int lane, T* phi) {
  float most = -kInfinity, sum = 0.0f, e[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (lane + c * kWarp < n) most = fmaxf(most, sign * scores[c]);
  }
  most = WarpMax(most);
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    e[c] = lane + c * kWarp < n ? expf(sign * scores[c] - most) : 0.0f;
    sum += e[c];
  }
  const float scale = 1.0f / WarpSum(sum);
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (lane + c * kWarp < n) phi[lane + c * kWarp] = FromFloat<T>(e[c] * scale);
  }
}

// A block has tokens of one head, a warp kRows of them.
template <class T, int kColumns>
__global__ void __launch_bounds__(kThreads) ForwardKernel(Sizes s, View<const T> u, Map a, View<T> phi, int64_t tiles) {
  constexpr int kRows = kColumns > 8 ? 1 : 4, kTokens = kRows * kWarps, kChunk = 64;
  __shared__ float tokens[kTokens][kChunk];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t pair = blockIdx.x / tiles, b = pair / s.heads, h = pair % s.heads;
  const int64_t t0 = blockIdx.x % tiles * kTokens;
  float scores[kRows][kColumns] = {};
  for (int64_t d0 = 0; d0 < s.d; d0 += kChunk) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kTokens * kChunk; i += kThreads) {
      const int64_t t = t0 + i / kChunk, column = d0 + i % kChunk;
      const bool inside = t < s.t && column < s.d;
      tokens[i / kChunk][i % kChunk] = inside ? ToFloat(u.At(b, h / s.group(), t)[column]) : 0.0f;
    }
    __syncthreads();
    const int count = static_cast<int>(s.d - d0 < kChunk ? s.d - d0 : kChunk);
    for (int i = 0; i < count; ++i) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int64_t column = lane + c * kWarp;
        const float weight = column < s.n ? a.Get(h, d0 + i, column) : 0.0f;
#pragma unroll
        for (int r = 0; r < kRows; ++r) scores[r][c] = fmaf(tokens[warp * kRows + r][i], weight, scores[r][c]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t t = t0 + warp * kRows + r;
    if (t >= s.t) continue;  // the same in all lanes
    T* const row = phi.At(b, h, t);
    PutSoftmax(scores[r], 1.0f, s.n, lane, row);
    if (s.hedgehog) PutSoftmax(scores[r], -1.0f, s.n, lane, row + s.n);
  }
}

template <class T>
class ForwardPlan final : public Plan {
 public:
  ForwardPlan(const Request& request, const Sizes& sizes) : args_(request.args), s_(sizes) { implementation = "plain"; }
  void Run(const Launch& launch) const override {
    if (s_.n <= 2 * kWarp) return RunWith<2>(launch);
    if (s_.n <= 8 * kWarp) return RunWith<8>(launch);
    RunWith<32>(launch);
  }

 private:
  template <int kColumns>
  void RunWith(const Launch& launch) const {
    static_assert(kMostFeatures <= 32 * kWarp);
    const int64_t tiles = Blocks(s_.t, (kColumns > 8 ? 1 : 4) * kWarps), blocks = s_.b * s_.heads * tiles;
    if (blocks == 0) return;
    View<const T> u = ViewOf<const T>(args_[kU]);
    View<T> phi = ViewOf<T>(args_[kPhi]);
    u.data = static_cast<const T*>(launch.args[kU].data);
    phi.data = static_cast<T*>(launch.args[kPhi].data);
    const xh_tensor& a = args_[kA];
    const Map map = {launch.args[kA].data, a.stride[0], a.stride[1], a.dtype};
    ForwardKernel<T, kColumns><<<static_cast<unsigned>(blocks), kThreads, 0, launch.stream>>>(s_, u, map, phi, tiles);
  }

  std::vector<xh_tensor> args_;
  Sizes s_;
};

// ---- backward ----
//
// The gradient of the scores, ds = phi (dphi - <phi, dphi>), less that of the second half for hedgehog, is made where
// it is read: the sums <phi, dphi> are made first, the rest is elementwise.

template <class T>
struct Gradients {
  Sizes s;
  View<const T> phi, dphi;
  const float* means;  // [B,H,T,halves]

  __device__ float Score(int64_t b, int64_t h, int64_t t, int64_t j) const {
    const T *const p = phi.At(b, h, t) + j, *const g = dphi.At(b, h, t) + j;
    const float* const mean = means + ((b * s.heads + h) * s.t + t) * s.halves();
    float score = ToFloat(p[0]) * (ToFloat(g[0]) - mean[0]);
    if (s.hedgehog) score -= ToFloat(p[s.n]) * (ToFloat(g[s.n]) - mean[1]);
    return score;
  }
};

// A warp a row of [B,H,T,halves].
template <class T>
__global__ void __launch_bounds__(kThreads) MeansKernel(Gradients<T> x, float* means, int64_t rows) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const int64_t half = row % x.s.halves(), token = row / x.s.halves();
  const int64_t t = token % x.s.t, h = token / x.s.t % x.s.heads, b = token / x.s.t / x.s.heads;
  const T *const phi = x.phi.At(b, h, t) + half * x.s.n, *const dphi = x.dphi.At(b, h, t) + half * x.s.n;
  float sum = 0.0f;
  for (int64_t j = lane; j < x.s.n; j += kWarp) sum = fmaf(ToFloat(phi[j]), ToFloat(dphi[j]), sum);
  sum = WarpSum(sum);
  if (lane == 0) means[row] = sum;
}

constexpr int kSide = 16, kEach = 4, kTile = kSide * kEach, kDepth = 16;  // tiles of products
using Tile = float[kDepth][kTile + 4];

// sum[r][c] += the outer products of a thread's four rows of a and four columns of b.
__device__ void AddTile(const Tile& a, const Tile& b, float (&sum)[kEach][kEach]) {
  const int x = static_cast<int>(threadIdx.x) % kSide * kEach, y = static_cast<int>(threadIdx.x) / kSide * kEach;
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
#pragma unroll
      for (int c = 0; c < kEach; ++c) sum[r][c] = fmaf(a[k][y + r], b[k][x + c], sum[r][c]);
    }
  }
}

// du = sum over the heads that read it of ds a_h^T: a block has 64 tokens and 64 columns.
template <class T>
__global__ void __launch_bounds__(kThreads)
    InputGradientKernel(Gradients<T> x, Map a, View<T> du, bool accumulate, int64_t tiles) {
  __shared__ alignas(16) Tile scores;
  __shared__ alignas(16) Tile maps;
  const Sizes& s = x.s;
  const int64_t pair = blockIdx.x / tiles, b = pair / s.inputs, input = pair % s.inputs;
  const int64_t t0 = blockIdx.x % tiles * kTile, i0 = static_cast<int64_t>(blockIdx.y) * kTile;
  float sum[kEach][kEach] = {};
  for (int64_t h = input * s.group(); h < (input + 1) * s.group(); ++h) {
    for (int64_t j0 = 0; j0 < s.n; j0 += kDepth) {
      for (int at = static_cast<int>(threadIdx.x); at < kTile * kDepth; at += kThreads) {
        const int row = at / kDepth, k = at % kDepth;
        const bool inside = j0 + k < s.n;
        scores[k][row] = inside && t0 + row < s.t ? x.Score(b, h, t0 + row, j0 + k) : 0.0f;
        maps[k][row] = inside && i0 + row < s.d ? a.Get(h, i0 + row, j0 + k) : 0.0f;
      }
      __syncthreads();
      AddTile(scores, maps, sum);
      __syncthreads();
    }
  }
  const int column = static_cast<int>(threadIdx.x) % kSide * kEach, row = static_cast<int>(threadIdx.x) / kSide * kEach;
  for (int r = 0; r < kEach; ++r) {
    for (int c = 0; c < kEach; ++c) {
      const int64_t t = t0 + row + r, i = i0 + column + c;
      if (t < s.t && i < s.d) PutGradient(du.At(b, input, t) + i, sum[r][c], accumulate);
    }
  }
}

// A part of da_h = sum over tokens of u^T ds: a block has 64 x 64 of one head, and the rows of one part.
template <class T>
__global__ void __launch_bounds__(kThreads)
    MapGradientKernel(Gradients<T> x, View<const T> u, int64_t part_rows, float* parts) {
  __shared__ alignas(16) Tile inputs;
  __shared__ alignas(16) Tile scores;
  const Sizes& s = x.s;
  const int64_t across = (s.n + kTile - 1) / kTile, h = blockIdx.y, part = blockIdx.z;
  const int64_t i0 = blockIdx.x / across * kTile, j0 = blockIdx.x % across * kTile;
  const int64_t first = part * part_rows, rows = s.b * s.t;
  const int64_t last = first + part_rows < rows ? first + part_rows : rows;
  float sum[kEach][kEach] = {};
  for (int64_t row0 = first; row0 < last; row0 += kDepth) {
    for (int at = static_cast<int>(threadIdx.x); at < kTile * kDepth; at += kThreads) {
      const int k = at / kTile, column = at % kTile;
      const int64_t row = row0 + k, b = row / s.t, t = row % s.t;
      const bool inside = row < last;
      inputs[k][column] = inside && i0 + column < s.d ? ToFloat(u.At(b, h / s.group(), t)[i0 + column]) : 0.0f;
      scores[k][column] = inside && j0 + column < s.n ? x.Score(b, h, t, j0 + column) : 0.0f;
    }
    __syncthreads();
    AddTile(inputs, scores, sum);
    __syncthreads();
  }
  const int column = static_cast<int>(threadIdx.x) % kSide * kEach, row = static_cast<int>(threadIdx.x) / kSide * kEach;
  for (int r = 0; r < kEach; ++r) {
    for (int c = 0; c < kEach; ++c) {
      const int64_t i = i0 + row + r, j = j0 + column + c;
      if (i < s.d && j < s.n) parts[((part * s.heads + h) * s.d + i) * s.n + j] = sum[r][c];
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    AddPartsKernel(Sizes s, const float* parts, int64_t count, View<float> da, bool accumulate) {
  const int64_t size = s.heads * s.d * s.n, at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= size) return;
  float sum = 0.0f;
#pragma unroll 8
  for (int64_t part = 0; part < count; ++part) sum += parts[part * size + at];
  PutGradient(da.At(at / s.n / s.d, at / s.n % s.d, at % s.n), sum, accumulate);
}

template <class T>
__global__ void __launch_bounds__(kThreads) ClearInputKernel(Sizes s, View<T> du) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, row = at / s.d;
  if (row >= s.b * s.inputs * s.t) return;
  du.At(row / s.t / s.inputs, row / s.t % s.inputs, row % s.t)[at % s.d] = FromFloat<T>(0.0f);
}

template <class T>
class BackwardPlan final : public Plan {
 public:
  BackwardPlan(const Request& request, const Sizes& sizes) : args_(request.args), s_(sizes) {
    implementation = "plain";
    some_ = Present(args_[kDphi]) && s_.b * s_.t > 0;
    if (!some_) return;
    means_ = Reserve(&workspace_bytes, s_.b * s_.heads * s_.t * s_.halves(), 4);
    if (!Present(args_[kDa])) return;
    constexpr int64_t kLeastRows = 256, kMostParts = 64;
    const int64_t rows = s_.b * s_.t, wanted = 4 * request.facts->multiprocessors / (Tiles() * s_.heads) + 1;
    const int64_t parts = std::clamp<int64_t>(std::min(wanted, rows / kLeastRows), 1, kMostParts);
    part_rows_ = (rows + parts - 1) / parts;
    parts_ = (rows + part_rows_ - 1) / part_rows_;
    sums_ = Reserve(&workspace_bytes, parts_ * s_.heads * s_.d * s_.n, 4);
  }

  void Run(const Launch& launch) const override {
    if (!some_) return Clear(launch);
    const Gradients<T> gradients = {s_, ViewAt<const T>(launch, kPhi), ViewAt<const T>(launch, kDphi),
                                    Part<float>(launch.workspace, means_)};
    const int64_t rows = s_.b * s_.heads * s_.t * s_.halves();
    MeansKernel<T>
        <<<Blocks(rows, kWarps), kThreads, 0, launch.stream>>>(gradients, Part<float>(launch.workspace, means_), rows);
    if (Present(args_[kDu])) InputGradient(launch, gradients);
    if (Present(args_[kDa])) MapGradient(launch, gradients);
  }

 private:
  int64_t Tiles() const { return int64_t{Blocks(s_.d, kTile)} * Blocks(s_.n, kTile); }

  template <class V>
  View<V> ViewAt(const Launch& launch, int i) const {
    View<V> view = ViewOf<V>(args_[i]);
    view.data = static_cast<V*>(launch.args[i].data);
    return view;
  }
  xh_tensor MapTensor(const Launch& launch) const {
    xh_tensor da = args_[kDa];
    da.data = launch.args[kDa].data;
    return da;
  }

  void InputGradient(const Launch& launch, const Gradients<T>& gradients) const {
    const xh_tensor& a = args_[kA];
    const int64_t tiles = Blocks(s_.t, kTile);
    const dim3 grid(static_cast<unsigned>(s_.b * s_.inputs * tiles), Blocks(s_.d, kTile));
    InputGradientKernel<T>
        <<<grid, kThreads, 0, launch.stream>>>(gradients, Map{launch.args[kA].data, a.stride[0], a.stride[1], a.dtype},
                                               ViewAt<T>(launch, kDu), Accumulates(args_[kDu]), tiles);
  }

  void MapGradient(const Launch& launch, const Gradients<T>& gradients) const {
    float* const sums = Part<float>(launch.workspace, sums_);
    const dim3 grid(static_cast<unsigned>(Tiles()), static_cast<unsigned>(s_.heads), static_cast<unsigned>(parts_));
    MapGradientKernel<T>
        <<<grid, kThreads, 0, launch.stream>>>(gradients, ViewAt<const T>(launch, kU), part_rows_, sums);
    AddParts(launch.stream, s_, sums, parts_, MapTensor(launch));
  }

  // Without an output gradient, or without tokens, every gradient is zero.
  void Clear(const Launch& launch) const {
    const xh_tensor &du = args_[kDu], &da = args_[kDa];
    const int64_t size = s_.b * s_.inputs * s_.t * s_.d;
    if (Present(du) && !Accumulates(du) && size > 0) {
      ClearInputKernel<T><<<Blocks(size, kThreads), kThreads, 0, launch.stream>>>(s_, ViewAt<T>(launch, kDu));
    }
    if (Present(da) && !Accumulates(da)) AddParts(launch.stream, s_, nullptr, 0, MapTensor(launch));
  }

  std::vector<xh_tensor> args_;
  Sizes s_;
  bool some_ = false;
  int64_t means_ = 0, sums_ = 0, parts_ = 0, part_rows_ = 0;
};

}  // namespace

void AddParts(gpuStream_t stream, const Sizes& sizes, const float* parts, int64_t count, const xh_tensor& da) {
  const int64_t size = sizes.heads * sizes.d * sizes.n;
  AddPartsKernel<<<Blocks(size, kThreads), kThreads, 0, stream>>>(sizes, parts, count, ViewOf<float>(da),
                                                                  Accumulates(da));
}

}  // namespace feature_map

Refusal OpenFeatureMap(const Request& request, std::unique_ptr<Plan>* out) {
  using feature_map::kMostFeatures;
  Dims dims;
  xh_feature_map_params params = {};
  Refusal refusal = backend::CheckFeatureMap(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  const feature_map::Sizes sizes = {
      dims['B'], dims['H'], dims['U'], dims['T'], dims['d'], dims['n'], params.kind == XH_FEATURE_HEDGEHOG};
  if (sizes.n > kMostFeatures) {
    return Unsupported("FEATURE_MAP: a.shape[2] is " + std::to_string(sizes.n) + ", at most " +
                       std::to_string(kMostFeatures) + " features are allowed on this backend");
  }
  WithType(dims.activation, [&](auto t) {
    using T = decltype(t);
    if (request.pass == XH_BACKWARD) {
      *out = std::make_unique<feature_map::BackwardPlan<T>>(request, sizes);
    } else {
      *out = std::make_unique<feature_map::ForwardPlan<T>>(request, sizes);
    }
  });
  if (feature_map::TakeFewTokens(request, sizes, out)) return {};
#ifdef XH_SM90
  if (request.facts->wgmma) return OpenFeatureMapSm90(request, sizes, out);
#endif
  return {};
}

}  // namespace xh::gpu
