// HEAD_GATE (SPEC.md 1.2): o = sigmoid([q|k|v] w_h + b_h), one scalar a head and token. A warp works on one token and
// key/value head: k and v are read once for the query heads of its group.
// BACKWARD, with g = do o (1 - o): dq = g w_q; dk and dv sum g w over the group; dw_h sums g [q|k|v] over tokens, by
// slices of tokens, slices added in order.
//
// Where a lane has one pack of a row and there are many tokens, a warp keeps a key/value head's weights in registers
// and goes through tokens (KeptForward, KeptBackward); else every row fetches them anew.
#include "backends/cuda/ops.h"
#include "backends/cuda/rows.cuh"

namespace xh::gpu {
namespace {

constexpr int64_t kMostSlices = 256;
constexpr int64_t kFewItems = 4096;  // fewer warps would not fill a device

struct GateBias {
  const void* data;
  xh_dtype dtype;  // f32 or bf16
};

template <class T, class W>
struct GateArguments {
  View<const T> q, k, v;
  View<const W> w;
  GateBias bias;
  View<float> o;
  View<const float> dout;
  View<T> dq, dk, dv;
  bool adds_q, adds_k, adds_v;
  int64_t tokens, kv_heads, group, items;  // items: batch * tokens * kv_heads
  int d;
};

struct Item {
  int64_t b, t, kv;
};
template <class T, class W>
__device__ Item ItemAt(const GateArguments<T, W>& a, int64_t index) {
  const int64_t token = index / a.kv_heads;
  return {token / a.tokens, token % a.tokens, index % a.kv_heads};
}

template <class W, int N>
__device__ inline void LoadWeights(const W* from, float (&to)[N]) {  // rows of w need not be aligned
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = ToFloat(from[i]);
}

__device__ inline float LoadBias(const GateBias& bias, int64_t head) {
  return bias.dtype == XH_BF16 ? ToFloat(static_cast<const bf16*>(bias.data)[head])
                               : static_cast<const float*>(bias.data)[head];
}

// A warp takes one query head where there are few tokens, else the heads of a key/value head's group one by one.
template <class T, class W, int N>
__global__ void __launch_bounds__(kRowThreads) GateForward(const GateArguments<T, W> a, bool alone) {
  LetNextBegin();
  WaitForEarlier();
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * (kRowThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t index = alone ? warp / a.group : warp;
  if (index >= a.items) return;
  const Item at = ItemAt(a, index);
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const T *const k = a.k.At(at.b, at.kv, at.t), *const v = a.v.At(at.b, at.kv, at.t);
  const int64_t first = alone ? warp % a.group : 0, last = alone ? first + 1 : a.group;
  for (int64_t g = first; g < last; ++g) {
    const int64_t head = at.kv * a.group + g;
    const T* const q = a.q.At(at.b, head, at.t);
    const W* const w = a.w.At(head);
    float sum = 0.0f;
    for (int j = lane * N; j < a.d; j += kWarp * N) {
      const T* const rows[3] = {q + j, k + j, v + j};
#pragma unroll
      for (int part = 0; part < 3; ++part) {
        float value[N], weight[N];
        LoadPack<T, N>(rows[part], value);
        LoadWeights<W, N>(w + part * a.d + j, weight);
#pragma unroll
        for (int i = 0; i < N; ++i) sum += value[i] * weight[i];
      }
    }
    sum = WarpSum(sum);
    if (lane == 0) *a.o.At(at.b, head, at.t) = 1.0f / (1.0f + expf(-(sum + LoadBias(a.bias, head))));
  }
}

// ---- weights kept in registers ----

constexpr int kKeptHeads = 4;  // query heads of a warp
constexpr int kAhead = 2;      // tokens whose rows a warp asks for before it uses the first
constexpr int kBackAhead = 4;  // likewise in BACKWARD, whose registers leave room for few warps

// Warps: `columns` of them side by side take the heads of one token, `lanes` such rows of warps share the tokens.
struct WarpGrid {
  uint32_t lanes, tokens;  // of the batch
  uint32_t parts;          // warps of a key/value head's group
};

// The heads of a warp, and where its pack of their rows lies.
template <class T, class W, int N>
struct KeptRows {
  int64_t kv, head;
  int heads, column;
  uint32_t lane;
  float w[kKeptHeads][3][N];

  __device__ KeptRows(const GateArguments<T, W>& a, const WarpGrid& grid) {
    const uint32_t columns = static_cast<uint32_t>(a.kv_heads) * grid.parts;
    const uint32_t warp = blockIdx.x * (kRowThreads / kWarp) + threadIdx.x / kWarp;
    lane = warp / columns;
    kv = warp % columns / grid.parts;
    const int64_t part = warp % grid.parts, rest = a.group - part * kKeptHeads;
    head = kv * a.group + part * kKeptHeads;
    heads = static_cast<int>(rest < kKeptHeads ? rest : kKeptHeads);
    column = static_cast<int>(threadIdx.x % kWarp) * N;
#pragma unroll
    for (int g = 0; g < kKeptHeads; ++g) {
#pragma unroll
      for (int part_of = 0; part_of < 3; ++part_of) {
        const W* const from = a.w.At(head + (g < heads ? g : 0)) + part_of * a.d + column;
        LoadWeights<W, N>(from, w[g][part_of]);
      }
    }
  }
};

// q of the warp's heads, then k and v: a token's rows.
template <class T, int N>
struct TokenRows {
  Pack<T, N> q[kKeptHeads], k, v;

  template <class W>
  __device__ void Load(const GateArguments<T, W>& a, const KeptRows<T, W, N>& kept, int64_t b, int64_t t) {
#pragma unroll
    for (int g = 0; g < kKeptHeads; ++g) {
      const int64_t head = kept.head + (g < kept.heads ? g : 0);
      q[g] = *reinterpret_cast<const Pack<T, N>*>(a.q.At(b, head, t) + kept.column);
    }
    k = *reinterpret_cast<const Pack<T, N>*>(a.k.At(b, kept.kv, t) + kept.column);
    v = *reinterpret_cast<const Pack<T, N>*>(a.v.At(b, kept.kv, t) + kept.column);
  }
};

// Sums over a warp's lanes, kCount (a power of two) at once: lane l gets that of x[l / (kWarp / kCount)].
template <int kCount>
__device__ inline float SumApart(float (&x)[kCount]) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  int mask = kWarp / 2;
#pragma unroll
  for (int count = kCount / 2; count > 0; count /= 2, mask /= 2) {
    const bool upper = (lane & mask) != 0;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const float mine = upper ? x[i + count] : x[i], given = upper ? x[i] : x[i + count];
      x[i] = mine + XH_SHUFFLE_XOR(given, mask);
    }
  }
#pragma unroll
  for (int rest = kWarp / kCount / 2; rest > 0; rest /= 2) x[0] += XH_SHUFFLE_XOR(x[0], rest);
  return x[0];
}

template <class T, class W, int N>
__global__ void __launch_bounds__(kRowThreads) KeptForward(const GateArguments<T, W> a, const WarpGrid grid) {
  LetNextBegin();
  WaitForEarlier();
  const KeptRows<T, W, N> kept(a, grid);
  if (kept.lane >= grid.lanes) return;
  constexpr int kSums = kAhead * kKeptHeads;
  const int which = static_cast<int>(threadIdx.x % kWarp) / (kWarp / kSums), my_head = which % kKeptHeads;
  const bool writes = threadIdx.x % (kWarp / kSums) == 0 && my_head < kept.heads;
  const float bias = writes ? LoadBias(a.bias, kept.head + my_head) : 0.0f;
  const uint32_t row = static_cast<uint32_t>(a.tokens);
  for (uint32_t first = kept.lane * kAhead; first < grid.tokens; first += grid.lanes * kAhead) {
    TokenRows<T, N> rows[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const uint32_t token = first + i < grid.tokens ? first + i : first;
      rows[i].Load(a, kept, token / row, token % row);
    }
    float sums[kSums];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const TokenRows<T, N>& r = rows[i];
#pragma unroll
      for (int g = 0; g < kKeptHeads; ++g) {
        float sum = 0.0f;
#pragma unroll
        for (int c = 0; c < N; ++c) {
          sum += ToFloat(r.q[g].value[c]) * kept.w[g][0][c] + ToFloat(r.k.value[c]) * kept.w[g][1][c] +
                 ToFloat(r.v.value[c]) * kept.w[g][2][c];
        }
        sums[i * kKeptHeads + g] = sum;
      }
    }
    const float sum = SumApart(sums);
    const uint32_t token = first + which / kKeptHeads;
    if (writes && token < grid.tokens) {
      *a.o.At(token / row, kept.head + my_head, token % row) = 1.0f / (1.0f + expf(-(sum + bias)));
    }
  }
}

template <class T, class W>
__device__ inline float Slope(const GateArguments<T, W>& a, int64_t b, int64_t head, int64_t t) {
  if (!a.dout.present()) return 0.0f;
  const float o = *a.o.At(b, head, t);
  return *a.dout.At(b, head, t) * o * (1.0f - o);
}

template <class T, class W, int N>
__global__ void __launch_bounds__(kRowThreads) GateBackward(const GateArguments<T, W> a) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * (kRowThreads / kWarp) + threadIdx.x / kWarp;
  if (index >= a.items) return;
  const Item at = ItemAt(a, index);
  for (int j = static_cast<int>(threadIdx.x % kWarp) * N; j < a.d; j += kWarp * N) {
    float dk[N] = {}, dv[N] = {};
    for (int64_t g = 0; g < a.group; ++g) {
      const int64_t head = at.kv * a.group + g;
      const float slope = Slope(a, at.b, head, at.t);
      const W* const w = a.w.At(head) + j;
      float dq[N], weight[N];
      LoadWeights<W, N>(w, dq);
#pragma unroll
      for (int i = 0; i < N; ++i) dq[i] *= slope;
      if (a.dq.present()) StoreGradient<T, N>(a.dq.At(at.b, head, at.t) + j, dq, a.adds_q);
      LoadWeights<W, N>(w + a.d, weight);
#pragma unroll
      for (int i = 0; i < N; ++i) dk[i] += slope * weight[i];
      LoadWeights<W, N>(w + 2 * a.d, weight);
#pragma unroll
      for (int i = 0; i < N; ++i) dv[i] += slope * weight[i];
    }
    if (a.dk.present()) StoreGradient<T, N>(a.dk.At(at.b, at.kv, at.t) + j, dk, a.adds_k);
    if (a.dv.present()) StoreGradient<T, N>(a.dv.At(at.b, at.kv, at.t) + j, dv, a.adds_v);
  }
}

// The same, and the sums over tokens for dw and db in registers: `parts`, if any, gets those of a row of warps. One
// warp a group.
template <class T, class W, int N>
__global__ void __launch_bounds__(kRowThreads)
    KeptBackward(const GateArguments<T, W> a, const WarpGrid grid, float* parts) {
  const KeptRows<T, W, N> kept(a, grid);
  if (kept.lane >= grid.lanes) return;
  float dw[kKeptHeads][3][N] = {}, db[kKeptHeads] = {};
  const uint32_t row = static_cast<uint32_t>(a.tokens);
  for (uint32_t first = kept.lane * kBackAhead; first < grid.tokens; first += grid.lanes * kBackAhead) {
    TokenRows<T, N> rows[kBackAhead];
#pragma unroll
    for (int i = 0; i < kBackAhead; ++i) {
      const uint32_t token = first + i < grid.tokens ? first + i : first;
      rows[i].Load(a, kept, token / row, token % row);
    }
    // A lane finds the slope of one head and token.
    const int my_head = static_cast<int>(threadIdx.x) % kKeptHeads;
    const uint32_t my_token = first + threadIdx.x % kWarp / kKeptHeads % kBackAhead;
    float slope_here = 0.0f;
    if (my_head < kept.heads && my_token < grid.tokens) {
      slope_here = Slope(a, my_token / row, kept.head + my_head, my_token % row);
    }
#pragma unroll
    for (int i = 0; i < kBackAhead; ++i) {
      const uint32_t token = first + i;
      if (token >= grid.tokens) break;
      const int64_t b = token / row, t = token % row;
      float dk[N] = {}, dv[N] = {};
#pragma unroll
      for (int g = 0; g < kKeptHeads; ++g) {
        const float slope = XH_SHUFFLE(slope_here, i * kKeptHeads + g);
        float dq[N];
        db[g] += slope;
#pragma unroll
        for (int c = 0; c < N; ++c) {
          dq[c] = slope * kept.w[g][0][c];
          dk[c] += slope * kept.w[g][1][c];
          dv[c] += slope * kept.w[g][2][c];
          dw[g][0][c] += slope * ToFloat(rows[i].q[g].value[c]);
          dw[g][1][c] += slope * ToFloat(rows[i].k.value[c]);
          dw[g][2][c] += slope * ToFloat(rows[i].v.value[c]);
        }
        if (a.dq.present() && g < kept.heads) {
          StoreGradient<T, N>(a.dq.At(b, kept.head + g, t) + kept.column, dq, a.adds_q);
        }
      }
      if (a.dk.present()) StoreGradient<T, N>(a.dk.At(b, kept.kv, t) + kept.column, dk, a.adds_k);
      if (a.dv.present()) StoreGradient<T, N>(a.dv.At(b, kept.kv, t) + kept.column, dv, a.adds_v);
    }
  }
  if (parts == nullptr) return;
  const int64_t width = 3 * a.d + 1, heads = a.kv_heads * a.group;
#pragma unroll
  for (int g = 0; g < kKeptHeads; ++g) {
    if (g >= kept.heads) break;
    float* const to = parts + (kept.lane * heads + kept.head + g) * width;
#pragma unroll
    for (int part = 0; part < 3; ++part) {
#pragma unroll
      for (int c = 0; c < N; ++c) to[part * a.d + kept.column + c] = dw[g][part][c];
    }
    if (threadIdx.x % kWarp == 0) to[3 * a.d] = db[g];
  }
}

// Block (head, slice): a thread a column of [q|k|v], the last one more for the bias.
template <class T, class W>
__global__ void __launch_bounds__(kRowThreads)
    WeightParts(const GateArguments<T, W> a, float* parts, int64_t all_tokens, int64_t tokens_each) {
  const int64_t head = blockIdx.x, slice = blockIdx.y, kv = head / a.group;
  const int64_t first = slice * tokens_each, last = min(first + tokens_each, all_tokens);
  const int64_t width = 3 * a.d + 1;
  for (int column = static_cast<int>(threadIdx.x); column < width; column += kRowThreads) {
    const int part = column / a.d, j = column % a.d;
    float sum = 0.0f;
#pragma unroll 4
    for (int64_t token = first; token < last; ++token) {
      const int64_t b = token / a.tokens, t = token % a.tokens;
      const float slope = Slope(a, b, head, t);
      float value = 1.0f;
      if (part == 0) value = ToFloat(a.q.At(b, head, t)[j]);
      if (part == 1) value = ToFloat(a.k.At(b, kv, t)[j]);
      if (part == 2) value = ToFloat(a.v.At(b, kv, t)[j]);
      sum += slope * value;
    }
    parts[(slice * gridDim.x + head) * width + column] = sum;
  }
}

__global__ void __launch_bounds__(kRowThreads) AddParts(const float* parts, int64_t slices, int64_t heads, int d,
                                                        View<float> dw, View<float> db, bool adds_w, bool adds_b) {
  const int64_t width = 3 * d + 1, index = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (index >= heads * width) return;
  float sum = 0.0f;
#pragma unroll 8
  for (int64_t slice = 0; slice < slices; ++slice) sum += parts[slice * heads * width + index];
  const int64_t head = index / width, column = index % width;
  if (column < 3 * d) {
    if (dw.present()) PutGradient(dw.At(head) + column, sum, adds_w);
  } else if (db.present()) {
    PutGradient(db.data + head, sum, adds_b);
  }
}

template <class T, class W>
class GatePlan final : public Plan {
 public:
  GatePlan(const Request& request, const Dims& dims)
      : backward_(request.pass == XH_BACKWARD),
        heads_(dims['H']),
        all_tokens_(dims['B'] * dims['T']),
        bias_dtype_(request.args[kB].dtype) {
    a_.tokens = dims['T'];
    a_.kv_heads = dims['K'];
    a_.group = heads_ / a_.kv_heads;
    a_.items = all_tokens_ * a_.kv_heads;
    a_.d = static_cast<int>(dims['d']);
    PlanWarps(*request.facts);
    if (backward_) {
      a_.adds_q = Accumulates(request.args[kDq]);
      a_.adds_k = Accumulates(request.args[kDk]);
      a_.adds_v = Accumulates(request.args[kDv]);
      adds_w_ = Accumulates(request.args[kDw]);
      adds_b_ = Accumulates(request.args[kDb]);
      wants_sums_ = Present(request.args[kDw]) || Present(request.args[kDb]);
      tokens_each_ = std::max<int64_t>(16, (all_tokens_ + kMostSlices - 1) / kMostSlices);
      slices_ = wants_sums_ ? (all_tokens_ + tokens_each_ - 1) / tokens_each_ : 0;
      slices_ = std::max<int64_t>(slices_, wants_sums_ ? grid_.lanes : 0);
      Reserve(&workspace_bytes, slices_ * heads_ * (3 * a_.d + 1), 4);
    }
    implementation = "packs";
  }

  void Run(const Launch& launch) const override {
    const xh_tensor* const args = launch.args;
    GateArguments<T, W> a = a_;
    a.q = ViewOf<const T>(args[kQ]);
    a.k = ViewOf<const T>(args[kK]);
    a.v = ViewOf<const T>(args[kV]);
    a.w = ViewOf<const W>(args[kW]);
    a.o = ViewOf<float>(args[kO]);
    bool packs = MovesInPacks(args[kQ]) && MovesInPacks(args[kK]) && MovesInPacks(args[kV]);
    if (!backward_) {
      a.bias = {args[kB].data, bias_dtype_};
      if (packs && grid_.lanes > 0) return Kept(launch, a, nullptr);
      if (a.items > 0) packs ? Forward<4>(launch, a) : Forward<1>(launch, a);
      return;
    }
    a.dout = ViewOf<const float>(args[kDo]);
    a.dq = ViewOf<T>(args[kDq]);
    a.dk = ViewOf<T>(args[kDk]);
    a.dv = ViewOf<T>(args[kDv]);
    packs = packs && MovesInPacks(args[kDq]) && MovesInPacks(args[kDk]) && MovesInPacks(args[kDv]);
    if (packs && grid_.lanes > 0 && a.dout.present()) {
      float* const parts = wants_sums_ ? Part<float>(launch.workspace, 0) : nullptr;
      Kept(launch, a, parts);
      if (wants_sums_) Add(launch, parts, grid_.lanes);
      return;
    }
    const bool wants_rows = a.dq.present() || a.dk.present() || a.dv.present();
    if (a.items > 0 && wants_rows) packs ? Backward<4>(launch, a) : Backward<1>(launch, a);
    if (wants_sums_) Sums(launch, a);
  }

 private:
  enum { kQ, kK, kV, kW, kB, kO, kDo, kDq, kDk, kDv, kDw, kDb };

  // Lanes stay 0 where rows are no packs of a warp, or so few that their weights would be fetched for little.
  void PlanWarps(const Facts& facts) {
    constexpr int64_t kBlocksEach = 2;  // of threads, a multiprocessor
    const bool fits = (a_.d == 2 * kWarp || a_.d == 4 * kWarp) && (!backward_ || a_.group <= kKeptHeads);
    if (!fits || a_.items < kFewItems || all_tokens_ >= int64_t{1} << 30) return;
    grid_.tokens = static_cast<uint32_t>(all_tokens_);
    grid_.parts = static_cast<uint32_t>((a_.group + kKeptHeads - 1) / kKeptHeads);
    const int64_t warps = kBlocksEach * facts.multiprocessors * (kRowThreads / kWarp);
    const int64_t lanes = std::max<int64_t>(warps / (a_.kv_heads * grid_.parts), 1);
    grid_.lanes = static_cast<uint32_t>(std::min(std::min(lanes, kMostSlices), (all_tokens_ + kAhead - 1) / kAhead));
  }
  void Kept(const Launch& launch, const GateArguments<T, W>& a, float* parts) const {
    a.d == 4 * kWarp ? RunKept<4>(launch, a, parts) : RunKept<2>(launch, a, parts);
  }
  template <int N>
  void RunKept(const Launch& launch, const GateArguments<T, W>& a, float* parts) const {
    const unsigned blocks = Blocks(a.kv_heads * grid_.parts * grid_.lanes, kRowThreads / kWarp);
    if (backward_) {
      KeptBackward<T, W, N><<<blocks, kRowThreads, 0, launch.stream>>>(a, grid_, parts);
    } else {
      LaunchEarly(launch, KeptForward<T, W, N>, blocks, kRowThreads, 0, a, grid_);
    }
  }

  unsigned RowBlocks() const { return Blocks(a_.items, kRowThreads / kWarp); }
  template <int N>
  void Forward(const Launch& launch, const GateArguments<T, W>& a) const {
    const bool alone = a.items < kFewItems;
    const int64_t warps = a.items * (alone ? a.group : 1);
    LaunchEarly(launch, GateForward<T, W, N>, Blocks(warps, kRowThreads / kWarp), kRowThreads, 0, a, alone);
  }
  template <int N>
  void Backward(const Launch& launch, const GateArguments<T, W>& a) const {
    GateBackward<T, W, N><<<RowBlocks(), kRowThreads, 0, launch.stream>>>(a);
  }

  void Sums(const Launch& launch, const GateArguments<T, W>& a) const {
    float* const parts = Part<float>(launch.workspace, 0);
    const int64_t slices = (all_tokens_ + tokens_each_ - 1) / tokens_each_;
    if (slices > 0) {
      WeightParts<<<dim3(static_cast<unsigned>(heads_), static_cast<unsigned>(slices)), kRowThreads, 0,
                    launch.stream>>>(a, parts, all_tokens_, tokens_each_);
    }
    Add(launch, parts, slices);
  }
  void Add(const Launch& launch, const float* parts, int64_t slices) const {
    const xh_tensor* const args = launch.args;
    AddParts<<<Blocks(heads_ * (3 * a_.d + 1), kRowThreads), kRowThreads, 0, launch.stream>>>(
        parts, slices, heads_, a_.d, ViewOf<float>(args[kDw]), ViewOf<float>(args[kDb]), adds_w_, adds_b_);
  }

  bool backward_;
  int64_t heads_, all_tokens_;
  xh_dtype bias_dtype_;
  GateArguments<T, W> a_ = {};
  WarpGrid grid_ = {};
  bool adds_w_ = false, adds_b_ = false, wants_sums_ = false;
  int64_t tokens_each_ = 1, slices_ = 0;
};

}  // namespace

Refusal OpenHeadGate(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  const Refusal refusal = backend::CheckHeadGate(request, &dims);
  if (refusal.code != 0) return refusal;
  WithType(dims.activation, [&](auto t) {
    WithType(request.args[3].dtype,
             [&](auto w) { *out = std::make_unique<GatePlan<decltype(t), decltype(w)>>(request, dims); });
  });
  return {};
}

}  // namespace xh::gpu
