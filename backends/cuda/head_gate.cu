// HEAD_GATE (SPEC.md 1.2): o = sigmoid([q|k|v] w_h + b_h), one scalar a head and token. A warp works on one token and
// key/value head: k and v are read once for the query heads of its group.
// BACKWARD, with g = do o (1 - o): dq = g w_q; dk and dv sum g w over the group; dw_h sums g [q|k|v] over tokens, by
// slices of tokens, slices added in order.
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
    if (backward_) {
      a_.adds_q = Accumulates(request.args[kDq]);
      a_.adds_k = Accumulates(request.args[kDk]);
      a_.adds_v = Accumulates(request.args[kDv]);
      adds_w_ = Accumulates(request.args[kDw]);
      adds_b_ = Accumulates(request.args[kDb]);
      wants_sums_ = Present(request.args[kDw]) || Present(request.args[kDb]);
      tokens_each_ = std::max<int64_t>(16, (all_tokens_ + kMostSlices - 1) / kMostSlices);
      slices_ = wants_sums_ ? (all_tokens_ + tokens_each_ - 1) / tokens_each_ : 0;
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
      if (a.items > 0) packs ? Forward<4>(launch, a) : Forward<1>(launch, a);
      return;
    }
    a.dout = ViewOf<const float>(args[kDo]);
    a.dq = ViewOf<T>(args[kDq]);
    a.dk = ViewOf<T>(args[kDk]);
    a.dv = ViewOf<T>(args[kDv]);
    packs = packs && MovesInPacks(args[kDq]) && MovesInPacks(args[kDk]) && MovesInPacks(args[kDv]);
    const bool wants_rows = a.dq.present() || a.dk.present() || a.dv.present();
    if (a.items > 0 && wants_rows) packs ? Backward<4>(launch, a) : Backward<1>(launch, a);
    if (wants_sums_) Sums(launch, a);
  }

 private:
  enum { kQ, kK, kV, kW, kB, kO, kDo, kDq, kDk, kDv, kDw, kDb };

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
    if (slices_ > 0) {
      WeightParts<<<dim3(static_cast<unsigned>(heads_), static_cast<unsigned>(slices_)), kRowThreads, 0,
                    launch.stream>>>(a, parts, all_tokens_, tokens_each_);
    }
    AddParts<<<Blocks(heads_ * (3 * a.d + 1), kRowThreads), kRowThreads, 0, launch.stream>>>(
        parts, slices_, heads_, a.d, ViewOf<float>(launch.args[kDw]), ViewOf<float>(launch.args[kDb]), adds_w_,
        adds_b_);
  }

  bool backward_;
  int64_t heads_, all_tokens_;
  xh_dtype bias_dtype_;
  GateArguments<T, W> a_ = {};
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
