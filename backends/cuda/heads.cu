// MIX and SELECT_HEADS: tensors [B,H,T,d] of which only some heads take part. Rows are (b, t, h), head by head within a
// token: the order of token-major memory.
#include "backends/cuda/ops.h"
#include "backends/cuda/rows.cuh"

namespace xh::gpu {
namespace {

constexpr int kMostHeads = 256;

// A list of heads as a kernel parameter.
struct HeadList {
  int16_t heads[kMostHeads];
};

Refusal CheckCount(const char* op, int64_t heads) {
  if (heads <= kMostHeads) return {};
  return Unsupported(std::string(op) + ": " + std::to_string(heads) + " heads, at most " + std::to_string(kMostHeads) +
                     " are handled");
}

struct RowPlace {
  int64_t heads, tokens;
  __device__ int64_t Head(int64_t row) const { return row % heads; }
  template <class T>
  __device__ T* At(const View<T>& x, int64_t row, int64_t head) const {
    const int64_t token = row / heads;
    return x.At(token / tokens, head, token % tokens);
  }
};

// ---- MIX: h = o x + (1 - o) y with one o a head and token; heads without o are y's ----

template <class T>
struct MixArguments {
  View<const float> o;
  View<const T> x, y, dh;
  View<T> h, dx, dy;
  View<float> dout;  // do
  bool adds_o, adds_x, adds_y;
  RowPlace rows;
  HeadList mixed;  // for each head of h the head of x, or -1
};

// A block a token, whose rows lie side by side; a thread has kEach packs on their way at once.
template <class T, int N>
__global__ void __launch_bounds__(kRowThreads) MixForward(const MixArguments<T> a, uint32_t packs, uint32_t items) {
  constexpr int kEach = 2;
  LetNextBegin();
  WaitForEarlier();
  const uint32_t token = blockIdx.x, tokens = static_cast<uint32_t>(a.rows.tokens);
  const int64_t b = token / tokens, t = token % tokens;
  for (uint32_t first = threadIdx.x; first < items; first += kEach * kRowThreads) {
    float o[kEach] = {}, x[kEach][N] = {}, y[kEach][N];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const uint32_t item = first + i * kRowThreads;
      if (item >= items) break;
      const int64_t head = item / packs, mixed = a.mixed.heads[head];
      const uint32_t column = item % packs * N;
      LoadPack<T, N>(a.y.At(b, head, t) + column, y[i]);
      if (mixed < 0) continue;  // o is 0
      LoadPack<T, N>(a.x.At(b, mixed, t) + column, x[i]);
      o[i] = *a.o.At(b, mixed, t);
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const uint32_t item = first + i * kRowThreads;
      if (item >= items) break;
#pragma unroll
      for (int c = 0; c < N; ++c) y[i][c] = o[i] * x[i][c] + (1.0f - o[i]) * y[i][c];
      StorePack<T, N>(a.h.At(b, item / packs, t) + item % packs * N, y[i]);
    }
  }
}

// Of a pack: dx = o dh, dy = (1 - o) dh; gives its part of dh . (x - y).
template <class T, int N>
__device__ inline float MixGradients(const MixArguments<T>& a, int64_t b, int64_t head, int64_t t, uint32_t column) {
  const int64_t mixed = a.mixed.heads[head];
  const float o = mixed >= 0 ? *a.o.At(b, mixed, t) : 0.0f;
  float g[N] = {}, x[N] = {}, y[N] = {}, part[N], sum = 0.0f;
  if (a.dh.present()) LoadPack<T, N>(a.dh.At(b, head, t) + column, g);
  if (mixed >= 0) {
    LoadPack<T, N>(a.x.At(b, mixed, t) + column, x);
    LoadPack<T, N>(a.y.At(b, head, t) + column, y);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sum += g[i] * (x[i] - y[i]);
      part[i] = o * g[i];
    }
    if (a.dx.present()) StoreGradient<T, N>(a.dx.At(b, mixed, t) + column, part, a.adds_x);
  }
#pragma unroll
  for (int i = 0; i < N; ++i) part[i] = mixed >= 0 ? (1.0f - o) * g[i] : g[i];
  if (a.dy.present()) StoreGradient<T, N>(a.dy.At(b, head, t) + column, part, a.adds_y);
  return sum;
}

// A block a token, as in MixForward. The packs of a row, a power of two of them, lie in one warp.
template <class T, int N>
__global__ void __launch_bounds__(kRowThreads)
    MixBackwardPacks(const MixArguments<T> a, uint32_t packs, uint32_t items) {
  const uint32_t token = blockIdx.x, tokens = static_cast<uint32_t>(a.rows.tokens);
  const int64_t b = token / tokens, t = token % tokens;
  for (uint32_t first = 0; first < items; first += kRowThreads) {
    const uint32_t item = first + threadIdx.x;
    const bool inside = item < items;
    const int64_t head = inside ? item / packs : 0;
    float sum = inside ? MixGradients<T, N>(a, b, head, t, item % packs * N) : 0.0f;
    for (uint32_t mask = packs / 2; mask > 0; mask /= 2) sum += XH_SHUFFLE_XOR(sum, mask);
    const int64_t mixed = a.mixed.heads[head];
    if (inside && item % packs == 0 && mixed >= 0 && a.dout.present()) {
      PutGradient(a.dout.At(b, mixed, t), sum, a.adds_o);
    }
  }
}

// A warp a row: dx = o dh, dy = (1 - o) dh, do = sum over d of dh (x - y).
template <class T, int N>
__global__ void __launch_bounds__(kRowThreads) MixBackward(const MixArguments<T> a, int64_t all_rows, int columns) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kRowThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= all_rows) return;
  const int64_t head = a.rows.Head(row), mixed = a.mixed.heads[head];
  const float o = mixed >= 0 ? *a.rows.At(a.o, row, mixed) : 0.0f;
  float sum = 0.0f;
  for (int column = static_cast<int>(threadIdx.x % kWarp) * N; column < columns; column += kWarp * N) {
    float g[N] = {}, part[N];
    if (a.dh.present()) LoadPack<T, N>(a.rows.At(a.dh, row, head) + column, g);
    if (mixed >= 0) {
      float x[N], y[N];
      LoadPack<T, N>(a.rows.At(a.x, row, mixed) + column, x);
      LoadPack<T, N>(a.rows.At(a.y, row, head) + column, y);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        sum += g[i] * (x[i] - y[i]);
        part[i] = o * g[i];
      }
      if (a.dx.present()) StoreGradient<T, N>(a.rows.At(a.dx, row, mixed) + column, part, a.adds_x);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) part[i] = mixed >= 0 ? (1.0f - o) * g[i] : g[i];
    if (a.dy.present()) StoreGradient<T, N>(a.rows.At(a.dy, row, head) + column, part, a.adds_y);
  }
  if (mixed < 0 || !a.dout.present()) return;
  sum = WarpSum(sum);
  if (threadIdx.x % kWarp == 0) PutGradient(a.rows.At(a.dout, row, mixed), sum, a.adds_o);
}

template <class T>
class MixPlan final : public Plan {
 public:
  MixPlan(const Request& request, const Dims& dims, const std::vector<int32_t>& heads)
      : backward_(request.pass == XH_BACKWARD), rows_(dims['B'] * dims['T'] * dims['H']), d_(dims['d']) {
    a_.rows = {dims['H'], dims['T']};
    std::fill(a_.mixed.heads, a_.mixed.heads + kMostHeads, int16_t{-1});
    for (size_t j = 0; j < heads.size(); ++j) a_.mixed.heads[heads[j]] = static_cast<int16_t>(j);
    if (backward_) {
      a_.adds_o = Accumulates(request.args[kDo]);
      a_.adds_x = Accumulates(request.args[kDx]);
      a_.adds_y = Accumulates(request.args[kDy]);
    }
    implementation = "packs";
  }

  void Run(const Launch& launch) const override {
    if (rows_ == 0) return;
    const xh_tensor* const args = launch.args;
    MixArguments<T> a = a_;
    a.o = ViewOf<const float>(args[kO]);
    a.x = ViewOf<const T>(args[kX]);
    a.y = ViewOf<const T>(args[kY]);
    bool packs = MovesInPacks(args[kX]) && MovesInPacks(args[kY]);
    if (!backward_) {
      a.h = ViewOf<T>(args[kH]);
      packs = packs && MovesInPacks(args[kH]);
      packs ? Forward<kPack<T>>(launch, a) : Forward<1>(launch, a);
      return;
    }
    a.dh = ViewOf<const T>(args[kDh]);
    a.dout = ViewOf<float>(args[kDo]);
    a.dx = ViewOf<T>(args[kDx]);
    a.dy = ViewOf<T>(args[kDy]);
    packs = packs && MovesInPacks(args[kDh]) && MovesInPacks(args[kDx]) && MovesInPacks(args[kDy]);
    const int64_t row = d_ / kPack<T>;
    if (packs && row <= kWarp && (row & (row - 1)) == 0) {
      MixBackwardPacks<T, kPack<T>><<<Blocks(rows_, a.rows.heads), kRowThreads, 0, launch.stream>>>(
          a, static_cast<uint32_t>(row), static_cast<uint32_t>(row * a.rows.heads));
      return;
    }
    packs ? Backward<4>(launch, a) : Backward<1>(launch, a);
  }

 private:
  enum { kO, kX, kY, kH, kDh, kDo, kDx, kDy };

  template <int N>
  void Forward(const Launch& launch, const MixArguments<T>& a) const {
    const int64_t packs = d_ / N;
    LaunchEarly(launch, MixForward<T, N>, Blocks(rows_, a.rows.heads), kRowThreads, 0, a, static_cast<uint32_t>(packs),
                static_cast<uint32_t>(packs * a.rows.heads));
  }
  template <int N>
  void Backward(const Launch& launch, const MixArguments<T>& a) const {
    MixBackward<T, N>
        <<<Blocks(rows_, kRowThreads / kWarp), kRowThreads, 0, launch.stream>>>(a, rows_, static_cast<int>(d_));
  }

  bool backward_;
  int64_t rows_, d_;
  MixArguments<T> a_ = {};
};

// ---- SELECT_HEADS: head j of y is head heads[j] of x; dx of a head is the sum over where it stands ----

template <class T, int N>
struct SelectBody {
  View<const T> x;
  View<T> y;
  RowPlace rows;
  HeadList heads;
  __device__ void operator()(int64_t row, int column) const {
    const int64_t head = rows.Head(row);
    float value[N];
    LoadPack<T, N>(rows.At(x, row, heads.heads[head]) + column, value);
    StorePack<T, N>(rows.At(y, row, head) + column, value);
  }
};

template <class T, int N>
struct SelectGradient {
  View<const T> dy;
  View<T> dx;
  RowPlace rows;
  HeadList first;  // of the places of head u: [first[u], first[u + 1])
  bool adds;
  __device__ void operator()(int64_t row, int column) const {
    const int64_t head = rows.Head(row);
    float sum[N] = {};
    if (dy.present()) {
      for (int j = first.heads[head]; j < first.heads[head + 1]; ++j) {
        float value[N];
        LoadPack<T, N>(rows.At(dy, row, j) + column, value);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += value[i];
      }
    }
    StoreGradient<T, N>(rows.At(dx, row, head) + column, sum, adds);
  }
};

template <class T>
class SelectPlan final : public Plan {
 public:
  SelectPlan(const Request& request, const Dims& dims, const std::vector<int32_t>& heads)
      : backward_(request.pass == XH_BACKWARD), d_(dims['d']) {
    place_ = {backward_ ? dims['U'] : dims['N'], dims['T']};
    rows_ = dims['B'] * dims['T'] * place_.heads;
    if (backward_) {
      adds_ = Accumulates(request.args[kDx]);
      size_t at = 0;
      for (int64_t u = 0; u <= std::max<int64_t>(dims['U'], 0); ++u) {
        list_.heads[u] = static_cast<int16_t>(at);
        while (at < heads.size() && heads[at] == u) ++at;
      }
    } else {
      for (size_t j = 0; j < heads.size(); ++j) list_.heads[j] = static_cast<int16_t>(heads[j]);
    }
    implementation = "packs";
  }

  void Run(const Launch& launch) const override {
    const xh_tensor* const args = launch.args;
    const xh_tensor &from = args[backward_ ? kDy : kX], &to = args[backward_ ? kDx : kY];
    if (!Present(to) || rows_ == 0) return;
    MovesInPacks(from) && MovesInPacks(to) ? Move<kPack<T>>(launch, from, to) : Move<1>(launch, from, to);
  }

 private:
  enum { kX, kY, kDy, kDx };

  template <int N>
  void Move(const Launch& launch, const xh_tensor& from, const xh_tensor& to) const {
    if (backward_) {
      ForPacks<N>(launch, rows_, d_, SelectGradient<T, N>{ViewOf<const T>(from), ViewOf<T>(to), place_, list_, adds_});
    } else {
      ForPacks<N>(launch, rows_, d_, SelectBody<T, N>{ViewOf<const T>(from), ViewOf<T>(to), place_, list_});
    }
  }

  bool backward_, adds_ = false;
  int64_t rows_, d_;
  RowPlace place_;
  HeadList list_ = {};
};

}  // namespace

Refusal OpenMix(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  std::vector<int32_t> heads;
  Refusal refusal = backend::CheckMix(request, &dims, &heads);
  if (refusal.code == 0) refusal = CheckCount("MIX", dims['H']);
  if (refusal.code != 0) return refusal;
  WithType(dims.activation, [&](auto t) { *out = std::make_unique<MixPlan<decltype(t)>>(request, dims, heads); });
  return {};
}

Refusal OpenSelectHeads(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  std::vector<int32_t> heads;
  Refusal refusal = backend::CheckSelectHeads(request, &dims, &heads);
  if (refusal.code == 0) refusal = CheckCount("SELECT_HEADS", std::max(dims['U'] + 1, dims['N']));
  if (refusal.code != 0) return refusal;
  WithType(dims.activation, [&](auto t) { *out = std::make_unique<SelectPlan<decltype(t)>>(request, dims, heads); });
  return {};
}

}  // namespace xh::gpu
