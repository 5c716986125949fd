// One token against the cache. The slot that it takes holds the position that has just left the window, and what is
// visible with it is one stretch of slots from the first; order does not matter to a softmax. The stretch is cut into
// as many splits as keep the device busy, a block each, which handles several heads of a group so that keys and values
// are read once; a second kernel puts the splits together. How long the stretch is only the device knows: blocks past
// its end have nothing to do.
#include <algorithm>

#include "backends/cuda/attention.h"

namespace xh::gpu::attention {
namespace {

constexpr int kThreads = 256;
constexpr int kCombineThreads = 128;
constexpr int kEach = 8;         // columns of a row that a thread holds
constexpr int kKeys = 4;         // rows that are in flight for a thread
constexpr int kLeastSlots = 64;  // of a split
constexpr int64_t kMostSplits = 64;
static_assert(kMostDecodeDim <= kEach * 32, "a row is held by threads of one warp");

template <class T>
struct Args {
  View<const T> q, k, v;
  View<T> cache_k, cache_v, o;
  View<const int32_t> position;
  Windows windows;
  int64_t batch, heads, kv_heads, group, sinks, capacity, most_position;
  int dim, passes, splits;
  int lanes;  // threads that hold a row together, a power of two
  float scale;
  float* partial;  // [batch, heads, splits, dim], not divided by the sums
  float* sums;     // [batch, heads, splits, 2]: maximum and sum
  FaultSink sink;
};

template <class T>
struct alignas(16) Piece {
  T value[kEach];
};

// Columns from `column` on, zero past the last.
template <class T, bool kWide>
__device__ Piece<T> LoadPiece(const T* row, int column, int dim) {
  if constexpr (kWide) {
    if (row != nullptr && column < dim) return *reinterpret_cast<const Piece<T>*>(row + column);
  }
  Piece<T> x;
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    x.value[e] = !kWide && row != nullptr && column + e < dim ? row[column + e] : FromFloat<T>(0.0f);
  }
  return x;
}

// The slots of a split, and the token's own, which is not read from the cache: another block may be writing it.
struct Span {
  int64_t from, to, own, first;

  template <class T>
  __device__ Span(const Args<T>& a, int64_t b, int64_t kv_head, int split) {
    const int64_t position = *a.position.At(b), window = a.windows.at[kv_head];
    const int64_t visible = VisibleSlots(position, window, a.sinks);
    int64_t each = (visible + a.splits - 1) / a.splits;
    if (each < kLeastSlots) each = kLeastSlots;
    from = split * each;
    to = from + each < visible ? from + each : visible;
    own = SlotOf(position, window, a.sinks);
    first = FirstSlot(a.windows, kv_head, a.sinks, a.capacity);
  }
};

// Running softmax sums of kHeads heads over the rows that a thread has seen, its columns of them.
template <int kHeads>
struct Sums {
  float most[kHeads], sum[kHeads], out[kHeads][kEach];
};

template <class T, int kHeads>
__device__ void AddRows(const Piece<T> (&k)[kKeys], const Piece<T> (&v)[kKeys], const bool (&seen)[kKeys], int lanes,
                        const float (&q)[kHeads][kEach], Sums<kHeads>* s) {
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    float score[kKeys];
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      score[j] = 0.0f;
#pragma unroll
      for (int e = 0; e < kEach; ++e) score[j] = fmaf(q[h][e], ToFloat(k[j].value[e]), score[j]);
    }
    for (int mask = lanes / 2; mask > 0; mask /= 2) {
#pragma unroll
      for (int j = 0; j < kKeys; ++j) score[j] += XH_SHUFFLE_XOR(score[j], mask);
    }
    float most = s->most[h];
#pragma unroll
    for (int j = 0; j < kKeys; ++j) most = seen[j] ? fmaxf(most, score[j]) : most;
    const float shift = most == -kInfinity ? 0.0f : most;  // nothing seen yet: the sums stay zero
    const float decay = expf(s->most[h] - shift);
    s->most[h] = most;
    s->sum[h] *= decay;
#pragma unroll
    for (int e = 0; e < kEach; ++e) s->out[h][e] *= decay;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const float weight = seen[j] ? expf(score[j] - shift) : 0.0f;
      s->sum[h] += weight;
#pragma unroll
      for (int e = 0; e < kEach; ++e) s->out[h][e] = fmaf(weight, ToFloat(v[j].value[e]), s->out[h][e]);
    }
  }
}

template <class T, int kHeads, bool kWide>
__global__ void __launch_bounds__(kThreads, 2) Decode(Args<T> a) {
  __shared__ float shared_most[kHeads][kThreads], shared_sum[kHeads][kThreads];
  __shared__ float shared_out[kHeads][kThreads * kEach];
  LetNextBegin();
  WaitForEarlier();
  if (!PositionsFit(a.position, a.batch, a.most_position, blockIdx.x == 0, a.sink)) return;
  unsigned item = blockIdx.x;
  const auto splits = static_cast<unsigned>(a.splits), passes = static_cast<unsigned>(a.passes);
  const int split = static_cast<int>(item % splits);
  item /= splits;
  const int pass = static_cast<int>(item % passes);
  item /= passes;
  const int64_t kv_head = item % static_cast<unsigned>(a.kv_heads), b = item / static_cast<unsigned>(a.kv_heads);
  const int64_t head = kv_head * a.group + pass * kHeads;
  const int heads = a.group - pass * kHeads < kHeads ? static_cast<int>(a.group - pass * kHeads) : kHeads;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % a.lanes, row = thread / a.lanes;
  const int rows = kThreads / a.lanes, column = lane * kEach;
  const Span span(a, b, kv_head, split);
  const T* const own_k = a.k.At(b, kv_head);
  const T* const own_v = a.v.At(b, kv_head);
  if (split == 0 && pass == 0) {
    for (int c = thread; c < a.dim; c += kThreads) {
      a.cache_k.At(b, span.first + span.own)[c] = own_k[c];
      a.cache_v.At(b, span.first + span.own)[c] = own_v[c];
    }
  }
  float q[kHeads][kEach];
  Sums<kHeads> sums;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    sums.most[h] = -kInfinity;
    sums.sum[h] = 0.0f;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      q[h][e] = h < heads && column + e < a.dim ? a.scale * ToFloat(a.q.At(b, head + h)[column + e]) : 0.0f;
      sums.out[h][e] = 0.0f;
    }
  }
  for (int64_t base = span.from; base < span.to; base += rows * kKeys) {
    Piece<T> k[kKeys], v[kKeys];
    bool seen[kKeys];
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const int64_t slot = base + row + j * rows;
      seen[j] = slot < span.to;
      const bool own = slot == span.own;
      const T* const key = !seen[j] ? nullptr : own ? own_k : a.cache_k.At(b, span.first + slot);
      const T* const value = !seen[j] ? nullptr : own ? own_v : a.cache_v.At(b, span.first + slot);
      k[j] = LoadPiece<T, kWide>(key, column, a.dim);
      v[j] = LoadPiece<T, kWide>(value, column, a.dim);
    }
    AddRows<T, kHeads>(k, v, seen, a.lanes, q, &sums);
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (lane == 0) {
      shared_most[h][row] = sums.most[h];
      shared_sum[h][row] = sums.sum[h];
    }
#pragma unroll
    for (int e = 0; e < kEach; ++e) shared_out[h][thread * kEach + e] = sums.out[h][e];
  }
  __syncthreads();
  for (int e = thread; e < heads * a.dim; e += kThreads) {
    const int h = e / a.dim, c = e % a.dim;
    float most = -kInfinity, sum = 0.0f, out = 0.0f;
    for (int r = 0; r < rows; ++r) most = fmaxf(most, shared_most[h][r]);
    const float shift = most == -kInfinity ? 0.0f : most;
    for (int r = 0; r < rows; ++r) {
      const float weight = expf(shared_most[h][r] - shift);
      sum = fmaf(weight, shared_sum[h][r], sum);
      out = fmaf(weight, shared_out[h][r * a.lanes * kEach + c], out);
    }
    if (a.splits == 1) {
      a.o.At(b, head + h)[c] = FromFloat<T>(out / sum);
      continue;
    }
    const int64_t at = (b * a.heads + head + h) * a.splits + split;
    a.partial[at * a.dim + c] = out;
    if (c == 0) {
      a.sums[2 * at] = most;
      a.sums[2 * at + 1] = sum;
    }
  }
}

// A block a head: the weights of the splits, then its columns.
template <class T>
__global__ void __launch_bounds__(kCombineThreads) Combine(Args<T> a) {
  __shared__ float weights[kMostSplits];
  LetNextBegin();
  WaitForEarlier();
  if (!PositionsFit(a.position, a.batch, a.most_position, false, a.sink)) return;
  const int64_t pair = blockIdx.x, at = pair * a.splits;
  if (threadIdx.x < kWarp) {  // two splits a lane
    static_assert(kMostSplits <= 2 * kWarp);
    float most[2], sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int s = static_cast<int>(threadIdx.x) + i * kWarp;
      most[i] = s < a.splits ? a.sums[2 * (at + s)] : -kInfinity;
    }
    const float highest = WarpMax(fmaxf(most[0], most[1])), shift = highest == -kInfinity ? 0.0f : highest;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int s = static_cast<int>(threadIdx.x) + i * kWarp;
      most[i] = expf(most[i] - shift);
      if (s < a.splits) sum = fmaf(most[i], a.sums[2 * (at + s) + 1], sum);
    }
    sum = WarpSum(sum);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int s = static_cast<int>(threadIdx.x) + i * kWarp;
      if (s < a.splits) weights[s] = most[i] / sum;
    }
  }
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < a.dim; c += kCombineThreads) {
    float out = 0.0f;
#pragma unroll 8
    for (int s = 0; s < a.splits; ++s) out = fmaf(weights[s], a.partial[(at + s) * a.dim + c], out);
    a.o.At(pair / a.heads, pair % a.heads)[c] = FromFloat<T>(out);
  }
}

class DecodePlan final : public Plan {
 public:
  DecodePlan(const Shape& shape, const Request& request) : s_(shape) {
    heads_at_once_ = s_.group() >= 3 ? 4 : static_cast<int>(s_.group());
    passes_ = (s_.group() + heads_at_once_ - 1) / heads_at_once_;
    int64_t slots = 1;
    for (int64_t j = 0; j < s_.kv_heads; ++j) slots = std::max(slots, s_.HeadSlots(j));
    const int64_t blocks = std::max<int64_t>(1, s_.batch * s_.kv_heads * passes_);
    const int64_t wanted = (2 * request.facts->multiprocessors + blocks - 1) / blocks;
    const int64_t most = std::min(kMostSplits, (slots + kLeastSlots - 1) / kLeastSlots);
    splits_ = std::clamp<int64_t>(wanted, 1, most);
    if (splits_ > 1) {
      partial_ = Reserve(&workspace_bytes, s_.pairs() * splits_ * s_.dim, 4);
      sums_ = Reserve(&workspace_bytes, s_.pairs() * splits_ * 2, 4);
    }
    implementation = "one token";
  }

  void Run(const Launch& launch) const override {
    if (s_.pairs() == 0) return;
    WithType(s_.dtype, [&](auto type) { Run<decltype(type)>(launch); });
  }

 private:
  template <class T>
  void Run(const Launch& launch) const {
    const xh_tensor* const args = launch.args;
    const Args<T> a = Arguments<T>(launch);
    const bool wide = s_.dim % kEach == 0 && MovesInPacks(args[kK]) && MovesInPacks(args[kV]) &&
                      MovesInPacks(args[kCacheK]) && MovesInPacks(args[kCacheV]);
    if (heads_at_once_ == 1) {
      Start<T, 1>(a, wide, launch);
    } else if (heads_at_once_ == 2) {
      Start<T, 2>(a, wide, launch);
    } else {
      Start<T, 4>(a, wide, launch);
    }
    if (splits_ > 1) LaunchEarly(launch, Combine<T>, static_cast<unsigned>(s_.pairs()), kCombineThreads, 0, a);
  }

  template <class T, int kHeads>
  void Start(const Args<T>& a, bool wide, const Launch& launch) const {
    const auto blocks = static_cast<unsigned>(s_.batch * s_.kv_heads * passes_ * splits_);
    if (wide) {
      LaunchEarly(launch, Decode<T, kHeads, true>, blocks, kThreads, 0, a);
    } else {
      LaunchEarly(launch, Decode<T, kHeads, false>, blocks, kThreads, 0, a);
    }
  }

  template <class T>
  Args<T> Arguments(const Launch& launch) const {
    const xh_tensor* const args = launch.args;
    Args<T> a = {};
    a.q = ViewOf<const T>(args[kQ]);
    a.k = ViewOf<const T>(args[kK]);
    a.v = ViewOf<const T>(args[kV]);
    a.cache_k = ViewOf<T>(args[kCacheK]);
    a.cache_v = ViewOf<T>(args[kCacheV]);
    a.o = ViewOf<T>(args[kO]);
    a.position = ViewOf<const int32_t>(args[kPosition]);
    a.windows = s_.windows;
    a.batch = s_.batch;
    a.heads = s_.heads;
    a.kv_heads = s_.kv_heads;
    a.group = s_.group();
    a.sinks = s_.sinks;
    a.capacity = s_.capacity;
    a.most_position = s_.MostPosition();
    a.dim = static_cast<int>(s_.dim);
    a.passes = static_cast<int>(passes_);
    a.splits = static_cast<int>(splits_);
    a.lanes = 1;
    while (a.lanes * kEach < a.dim) a.lanes *= 2;
    a.scale = s_.scale;
    if (splits_ > 1) {
      a.partial = Part<float>(launch.workspace, partial_);
      a.sums = Part<float>(launch.workspace, sums_);
    }
    a.sink = launch.fault;
    return a;
  }

  Shape s_;
  int heads_at_once_;
  int64_t passes_, splits_, partial_ = 0, sums_ = 0;
};

}  // namespace

std::unique_ptr<Plan> MakeAttentionDecode(const Shape& shape, const Request& request) {
  return std::make_unique<DecodePlan>(shape, request);
}

}  // namespace xh::gpu::attention
