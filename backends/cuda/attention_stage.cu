#include "backends/cuda/attention_stage.h"

namespace xh::gpu::attention {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = kPack<bf16>;
using Row = Pack<bf16, kEach>;

struct StageArguments {
  View<const bf16> k, v;
  View<bf16> cache_k, cache_v;
  View<const int32_t> position;
  Windows windows;
  int64_t batch, kv_heads, tokens, sinks, capacity, most_position, clear;
  int packs;                                      // of a row
  bf16 *keys, *values, *sink_keys, *sink_values;  // as in Staged
  FaultSink fault;
};

__device__ inline void CopyPack(const bf16* from, bf16* to) {
  *reinterpret_cast<Row*>(to) = *reinterpret_cast<const Row*>(from);
}
__device__ inline void ClearPack(bf16* to) { *reinterpret_cast<Row*>(to) = Row{}; }

// One pack of a row of one head.
struct Place {
  int64_t b, kv, row, column;

  __device__ Place(const StageArguments& a, int64_t rows) {
    int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    column = index % a.packs * kEach;
    index /= a.packs;
    row = index % rows;
    index /= rows;
    kv = index % a.kv_heads;
    b = index / a.kv_heads;
  }
};

__global__ void __launch_bounds__(kThreads) Stage(const StageArguments a) {
  if (!PositionsFit(a.position, a.batch, a.most_position, blockIdx.x == 0, a.fault)) return;
  const int64_t window = a.windows.at[0], history = window + a.tokens;
  const Place at(a, a.sinks + history);
  if (at.b >= a.batch) return;
  const bool sink = at.row < a.sinks;
  const int64_t before = *a.position.At(at.b), row = at.row - a.sinks;
  const int64_t position = sink ? at.row : before - window + row, pair = at.b * a.kv_heads + at.kv;
  if (position < 0) return;
  const int64_t to = (sink ? pair * a.sinks + at.row : pair * history + row) * a.packs * kEach + at.column;
  bf16 *const key = (sink ? a.sink_keys : a.keys) + to, *const value = (sink ? a.sink_values : a.values) + to;
  if (position < before) {
    const int64_t slot = FirstSlot(a.windows, at.kv, a.sinks, a.capacity) + SlotOf(position, window, a.sinks);
    CopyPack(a.cache_k.At(at.b, slot) + at.column, key);
    CopyPack(a.cache_v.At(at.b, slot) + at.column, value);
  } else if (position < before + a.tokens) {
    CopyPack(a.k.At(at.b, at.kv, position - before) + at.column, key);
    CopyPack(a.v.At(at.b, at.kv, position - before) + at.column, value);
  } else {  // a sink that is still to come
    ClearPack(key);
    ClearPack(value);
  }
}

__global__ void __launch_bounds__(kThreads) Keep(const StageArguments a) {
  if (!PositionsFit(a.position, a.batch, a.most_position, blockIdx.x == 0, a.fault)) return;
  const Place at(a, a.tokens + a.clear);
  if (at.b >= a.batch) return;
  const int64_t window = a.windows.at[at.kv], before = *a.position.At(at.b), position = before + at.row;
  const bool clears = at.row >= a.tokens;
  if (clears && (window != 0 || position >= a.capacity)) return;
  if (window != 0 && position >= a.sinks && at.row < a.tokens - window) return;  // overwritten within this call
  const int64_t slot = FirstSlot(a.windows, at.kv, a.sinks, a.capacity) + SlotOf(position, window, a.sinks);
  bf16* const key = a.cache_k.At(at.b, slot) + at.column;
  bf16* const value = a.cache_v.At(at.b, slot) + at.column;
  if (clears) {
    ClearPack(key);
    ClearPack(value);
  } else {
    CopyPack(a.k.At(at.b, at.kv, at.row) + at.column, key);
    CopyPack(a.v.At(at.b, at.kv, at.row) + at.column, value);
  }
}

StageArguments Arguments(const Shape& s, const Launch& launch) {
  StageArguments a = {};
  a.k = ViewOf<const bf16>(launch.args[kK]);
  a.v = ViewOf<const bf16>(launch.args[kV]);
  a.cache_k = ViewOf<bf16>(launch.args[kCacheK]);
  a.cache_v = ViewOf<bf16>(launch.args[kCacheV]);
  a.position = ViewOf<const int32_t>(launch.args[kPosition]);
  a.windows = s.windows;
  a.batch = s.batch;
  a.kv_heads = s.kv_heads;
  a.tokens = s.tokens;
  a.sinks = s.sinks;
  a.capacity = s.capacity;
  a.most_position = s.MostPosition();
  a.packs = static_cast<int>(s.dim / kEach);
  a.fault = launch.fault;
  return a;
}

}  // namespace

Staged ReserveStaged(const Shape& s, int64_t* bytes) {
  const int64_t heads = s.batch * s.kv_heads, rows = s.windows.at[0] + s.tokens;
  Staged staged = {};
  staged.keys = Reserve(bytes, heads * rows * s.dim, sizeof(bf16));
  staged.values = Reserve(bytes, heads * rows * s.dim, sizeof(bf16));
  staged.sink_keys = Reserve(bytes, heads * s.sinks * s.dim, sizeof(bf16));
  staged.sink_values = Reserve(bytes, heads * s.sinks * s.dim, sizeof(bf16));
  return staged;
}

bool StagesInPacks(const xh_tensor* args) {
  return MovesInPacks(args[kK]) && MovesInPacks(args[kV]) && MovesInPacks(args[kCacheK]) && MovesInPacks(args[kCacheV]);
}

void StageKeys(const Shape& s, const Staged& staged, const Launch& launch) {
  StageArguments a = Arguments(s, launch);
  a.keys = Part<bf16>(launch.workspace, staged.keys);
  a.values = Part<bf16>(launch.workspace, staged.values);
  a.sink_keys = Part<bf16>(launch.workspace, staged.sink_keys);
  a.sink_values = Part<bf16>(launch.workspace, staged.sink_values);
  const int64_t rows = s.sinks + s.windows.at[0] + s.tokens;
  Stage<<<Blocks(s.batch * s.kv_heads * rows * a.packs, kThreads), kThreads, 0, launch.stream>>>(a);
}

void KeepKeys(const Shape& s, int64_t clear, const Launch& launch) {
  StageArguments a = Arguments(s, launch);
  a.clear = clear;
  const int64_t rows = s.tokens + clear;
  Keep<<<Blocks(s.batch * s.kv_heads * rows * a.packs, kThreads), kThreads, 0, launch.stream>>>(a);
}

}  // namespace xh::gpu::attention
