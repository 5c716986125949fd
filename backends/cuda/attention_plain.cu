// Softmax attention tile by tile for any GPU, f32 throughout (SPEC.md 1.4): a block of 64 queries of one head visits
// the tiles of keys that it sees with a running maximum and sum. Backward finds the scores again from the saved log
// sums: with p = exp(score - log sum),
//   dv_s = sum_t p_ts do_t         e_ts = p_ts (do_t.v_s - do_t.o_t)
//   dq_t = scale sum_s e_ts k_s    dk_s = scale sum_t e_ts q_t
// in one kernel that walks over keys and one that walks over queries, so that nothing is added up across blocks.
#include <algorithm>

#include "backends/cuda/attention.h"
#include "backends/cuda/plain_tiles.cuh"

namespace xh::gpu::attention {
namespace {

template <class T>
struct Args {
  View<const T> q, k, v, o, d_out;
  View<T> out;               // o of a forward pass
  View<T> cache_k, cache_v;  // written after they were read
  View<T> dq, dk, dv;
  View<const int32_t> position, start;
  bool add_dq, add_dk, add_dv;
  Windows windows;
  int64_t batch, heads, kv_heads, group, tokens, dim, sinks, capacity, most_position;
  int64_t column_groups;  // of kTiles tiles of columns: a block makes one
  float scale;
  float* log_sums;  // [pair, tokens] or NULL
  float* products;  // do.o, likewise
  FaultSink sink;

  // The first token of token t's document, 0 <= first <= t whatever `start` holds.
  __device__ int64_t First(int64_t b, int64_t t) const {
    if (!start.present()) return 0;
    const int64_t first = *start.At(b, t);
    return first < 0 ? 0 : first > t ? t : first;
  }
};

// Positions count from the sequence's first token, with a cache before this call. Where documents are packed they are
// tokens of the row.
struct Query {
  int64_t position, first;  // first: of its document
  bool valid;
};
__device__ bool Sees(const Query& query, int64_t key, int64_t window, int64_t sinks) {
  if (!query.valid || key < query.first || key > query.position) return false;
  return window == 0 || query.position - key < window || key - query.first < sinks;
}

__global__ void __launch_bounds__(kTileThreads)
    CheckStarts(View<const int32_t> start, int64_t tokens, int64_t count, FaultSink sink) {
  const int64_t e = static_cast<int64_t>(blockIdx.x) * kTileThreads + threadIdx.x;
  if (e >= count) return;
  const int64_t b = e / tokens, t = e % tokens, value = *start.At(b, t);
  const int64_t previous = t > 0 ? *start.At(b, t - 1) : t;
  if (value != t && value != previous) Report(sink, FaultKind::kStart, b, t, value, previous, t);
}

// ---- blocks of queries ----

// A block of queries of one head, and the keys that they see: those before their window that are sinks, then the rest.
struct QueryBlock {
  int64_t pair, b, head, kv_head, window;
  int64_t column;       // the first of the block's columns
  int64_t token, rows;  // of the queries, in this call
  int64_t before;       // tokens before this call
  int64_t document;     // first token of the first query's document
  int64_t sinks, from;  // keys `document` .. + sinks, then from `from` on
  int64_t count;        // keys

  template <class T>
  __device__ QueryBlock(const Args<T>& a, int tiles) {
    int64_t item = blockIdx.x;
    column = item % a.column_groups * tiles * kTile;
    item /= a.column_groups;
    const int64_t pairs = a.batch * a.heads, blocks = (a.tokens + kTile - 1) / kTile;
    pair = item % pairs;
    token = (blocks - 1 - item / pairs) * kTile;  // late blocks see most keys: they go first
    rows = a.tokens - token < kTile ? a.tokens - token : kTile;
    b = pair / a.heads;
    head = pair % a.heads;
    kv_head = head / a.group;
    window = a.windows.at[kv_head];
    before = a.position.present() ? *a.position.At(b) : 0;
    document = a.First(b, token);
    from = document;
    if (window != 0 && before + token - window + 1 > from) from = before + token - window + 1;
    sinks = from - document < a.sinks ? from - document : a.sinks;
    if (window == 0) sinks = 0;
    count = sinks + before + token + rows - from;
  }
  __device__ int64_t KeyPosition(int64_t column_of_list) const {
    if (column_of_list >= count) return -1;
    return column_of_list < sinks ? document + column_of_list : from + column_of_list - sinks;
  }
  template <class T>
  __device__ Query QueryOf(const Args<T>& a, int row) const {
    const bool valid = row < rows;
    return {before + token + row, valid ? a.First(b, token + row) : 0, valid};
  }
};

// A tile of keys, each where it lies; position -1 and NULL past the last.
template <class T>
struct KeyTile {
  const T* key[kTile];
  const T* value[kTile];
  int64_t position[kTile];

  // By all threads; what they read of the tile before must be behind a barrier.
  __device__ void Find(const Args<T>& a, const QueryBlock& block, int64_t base) {
    const int c = static_cast<int>(threadIdx.x);
    if (c < kTile) {
      const int64_t p = block.KeyPosition(base + c);
      position[c] = p;
      key[c] = value[c] = nullptr;
      if (p >= block.before) {
        key[c] = a.k.At(block.b, block.kv_head, p - block.before);
        value[c] = a.v.At(block.b, block.kv_head, p - block.before);
      } else if (p >= 0) {
        const int64_t slot =
            FirstSlot(a.windows, block.kv_head, a.sinks, a.capacity) + SlotOf(p, block.window, a.sinks);
        key[c] = a.cache_k.At(block.b, slot);
        value[c] = a.cache_v.At(block.b, slot);
      }
    }
    __syncthreads();
  }
  __device__ static float Element(const T* row, int64_t column) { return row == nullptr ? 0.0f : ToFloat(row[column]); }
};

template <class T>
__device__ Rows<T> QueryRows(const View<const T>& x, const QueryBlock& block, int64_t dim) {
  return {x.At(block.b, block.head, block.token), x.stride[2], block.rows, dim};
}

// One row of a tile of scores in the threads that share it: scores become weights, the running maximum and sum those of
// all keys so far. Returns what earlier sums are to be multiplied by.
__device__ float SoftmaxRow(const bool (&seen)[4], float (&score)[4], float* most, float* sum) {
  float largest = -kInfinity;
#pragma unroll
  for (int j = 0; j < 4; ++j) largest = seen[j] ? fmaxf(largest, score[j]) : largest;
  const float after = fmaxf(*most, LaneMax(largest));
  const float shift = after == -kInfinity ? 0.0f : after;  // a row that has seen no key keeps its sums of zero
  float added = 0.0f;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    score[j] = seen[j] ? expf(score[j] - shift) : 0.0f;
    added += score[j];
  }
  const float decay = expf(*most - shift);
  *most = after;
  *sum = *sum * decay + LaneSum(added);
  return decay;
}

template <class T, int kTiles>
__global__ void __launch_bounds__(kTileThreads) Forward(Args<T> a) {
  __shared__ Slabs slabs;
  __shared__ LeftTile weights;
  __shared__ KeyTile<T> keys;
  if (a.position.present() && !PositionsFit(a.position, a.batch, a.most_position, blockIdx.x == 0, a.sink)) return;
  const QueryBlock block(a, kTiles);
  const Rows<T> q = QueryRows(a.q, block, a.dim);
  const int row = ThreadRow(), column = ThreadColumn();
  Query queries[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) queries[i] = block.QueryOf(a, row + i);
  Micro out[kTiles];
  float most[4] = {-kInfinity, -kInfinity, -kInfinity, -kInfinity}, sum[4] = {};
  for (int64_t base = 0; base < block.count; base += kTile) {
    __syncthreads();
    keys.Find(a, block, base);
    Micro score;
    AddProduct<true, true>(
        &slabs, a.dim, [&](int r, int64_t p) { return a.scale * q(r, p); },
        [&](int c, int64_t p) { return KeyTile<T>::Element(keys.key[c], p); }, &score);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      bool seen[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) seen[j] = Sees(queries[i], keys.position[column + j], block.window, a.sinks);
      const float decay = SoftmaxRow(seen, score.at[i], &most[i], &sum[i]);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) out[n].at[i][j] *= decay;
      }
    }
    StoreLeft(score, &weights);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const int64_t first = block.column + n * kTile;
      if (first >= a.dim) continue;
      AddTileProduct<false>(
          &slabs, weights, block.count - base,
          [&](int c, int64_t p) { return first + c < a.dim ? KeyTile<T>::Element(keys.value[p], first + c) : 0.0f; },
          &out[n]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (!queries[i].valid) continue;
    const int64_t t = block.token + row + i;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t c = block.column + n * kTile + column + j;
        if (c < a.dim) a.out.At(block.b, block.head, t)[c] = FromFloat<T>(out[n].at[i][j] / sum[i]);
      }
    }
    if (a.log_sums != nullptr && column == 0 && block.column == 0) {
      a.log_sums[block.pair * a.tokens + t] = most[i] + logf(sum[i]);
    }
  }
}

// A block a token of one key/value head: writes it to the slot that it keeps.
template <class T>
__global__ void __launch_bounds__(kTileThreads) WriteCache(Args<T> a) {
  if (!PositionsFit(a.position, a.batch, a.most_position, false, a.sink)) return;
  const int64_t t = blockIdx.x % a.tokens, item = blockIdx.x / a.tokens, b = item / a.kv_heads,
                head = item % a.kv_heads;
  const int64_t window = a.windows.at[head], start = *a.position.At(b), p = start + t;
  if (window != 0 && p >= a.sinks && p < start + a.tokens - window) return;  // overwritten within this call
  const int64_t slot = FirstSlot(a.windows, head, a.sinks, a.capacity) + SlotOf(p, window, a.sinks);
  for (int64_t c = threadIdx.x; c < a.dim; c += kTileThreads) {
    a.cache_k.At(b, slot)[c] = a.k.At(b, head, t)[c];
    a.cache_v.At(b, slot)[c] = a.v.At(b, head, t)[c];
  }
}

// ---- backward ----

// do_t.o_t, a warp a token.
template <class T>
__global__ void __launch_bounds__(kTileThreads) FindProducts(Args<T> a) {
  constexpr int kWarps = kTileThreads / kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= a.batch * a.heads * a.tokens) return;
  const int64_t t = row % a.tokens, pair = row / a.tokens;
  const T* const o = a.o.At(pair / a.heads, pair % a.heads, t);
  const T* const d_out = a.d_out.At(pair / a.heads, pair % a.heads, t);
  float sum = 0.0f;
  for (int64_t c = threadIdx.x % kWarp; c < a.dim; c += kWarp) sum = fmaf(ToFloat(o[c]), ToFloat(d_out[c]), sum);
  sum = WarpSum(sum);
  if (threadIdx.x % kWarp == 0) a.products[row] = sum;
}

template <class T, int kTiles>
__global__ void __launch_bounds__(kTileThreads) QueryGradients(Args<T> a) {
  __shared__ Slabs slabs;
  __shared__ LeftTile errors;
  __shared__ KeyTile<T> keys;
  const QueryBlock block(a, kTiles);
  const Rows<T> q = QueryRows(a.q, block, a.dim), d_out = QueryRows(a.d_out, block, a.dim);
  const int row = ThreadRow(), column = ThreadColumn();
  Query queries[4];
  float log_sum[4], product[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    queries[i] = block.QueryOf(a, row + i);
    const int64_t at = block.pair * a.tokens + block.token + row + i;
    log_sum[i] = queries[i].valid ? a.log_sums[at] : 0.0f;
    product[i] = queries[i].valid ? a.products[at] : 0.0f;
  }
  Micro dq[kTiles];
  for (int64_t base = 0; base < block.count; base += kTile) {
    __syncthreads();
    keys.Find(a, block, base);
    Micro score, error;
    AddProduct<true, true>(
        &slabs, a.dim, [&](int r, int64_t p) { return a.scale * q(r, p); },
        [&](int c, int64_t p) { return KeyTile<T>::Element(keys.key[c], p); }, &score);
    AddProduct<true, true>(
        &slabs, a.dim, [&](int r, int64_t p) { return d_out(r, p); },
        [&](int c, int64_t p) { return KeyTile<T>::Element(keys.value[c], p); }, &error);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool seen = Sees(queries[i], keys.position[column + j], block.window, a.sinks);
        error.at[i][j] = seen ? expf(score.at[i][j] - log_sum[i]) * (error.at[i][j] - product[i]) : 0.0f;
      }
    }
    StoreLeft(error, &errors);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const int64_t first = block.column + n * kTile;
      if (first >= a.dim) continue;
      AddTileProduct<false>(
          &slabs, errors, block.count - base,
          [&](int c, int64_t p) { return first + c < a.dim ? KeyTile<T>::Element(keys.key[p], first + c) : 0.0f; },
          &dq[n]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (!queries[i].valid) continue;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t c = block.column + n * kTile + column + j;
        if (c >= a.dim) continue;
        PutGradient(a.dq.At(block.b, block.head, block.token + row + i) + c, a.scale * dq[n].at[i][j], a.add_dq);
      }
    }
  }
}

// Whether any key of a block is a sink of its document: every later query sees it.
template <class T>
__device__ bool HasSinks(const Args<T>& a, int64_t b, int64_t from, int64_t rows) {
  const int64_t s = from + threadIdx.x;
  const bool sink = threadIdx.x < rows && s - a.First(b, s) < a.sinks;
  return __syncthreads_or(sink ? 1 : 0) != 0;
}

// dk, or dv with kValues: a block of keys of one key/value head visits the queries that see it, head after head.
template <class T, int kTiles, bool kValues>
__global__ void __launch_bounds__(kTileThreads) KeyGradients(Args<T> a) {
  __shared__ Slabs slabs;
  __shared__ LeftTile left;
  int64_t item = blockIdx.x;
  const int64_t first_column = item % a.column_groups * kTiles * kTile;
  item /= a.column_groups;
  const int64_t kv_pairs = a.batch * a.kv_heads, from = item / kv_pairs * kTile;  // early blocks are seen most: first
  const int64_t b = item % kv_pairs / a.kv_heads, kv_head = item % kv_pairs % a.kv_heads;
  const int64_t rows = a.tokens - from < kTile ? a.tokens - from : kTile, window = a.windows.at[kv_head];
  const bool lasting = HasSinks(a, b, from, rows) || window == 0;
  const int64_t end = lasting || from + rows - 1 + window > a.tokens ? a.tokens : from + rows - 1 + window;
  const Rows<T> k = {a.k.At(b, kv_head, from), a.k.stride[2], rows, a.dim};
  const Rows<T> v = {a.v.At(b, kv_head, from), a.v.stride[2], rows, a.dim};
  const int row = ThreadRow(), column = ThreadColumn();
  Micro sum[kTiles];
  for (int64_t head = kv_head * a.group; head < (kv_head + 1) * a.group; ++head) {
    const int64_t pair = b * a.heads + head;
    for (int64_t token = from; token < end; token += kTile) {
      if (a.First(b, token) > from + rows - 1) break;  // documents that begin after these keys
      const int64_t count = a.tokens - token < kTile ? a.tokens - token : kTile;
      const Rows<T> q = {a.q.At(b, head, token), a.q.stride[2], count, a.dim};
      const Rows<T> d_out = {a.d_out.At(b, head, token), a.d_out.stride[2], count, a.dim};
      Micro weight, error;
      AddProduct<true, true>(
          &slabs, a.dim, [&](int r, int64_t p) { return k(r, p); }, [&](int c, int64_t p) { return a.scale * q(c, p); },
          &weight);
      if constexpr (!kValues) {
        AddProduct<true, true>(
            &slabs, a.dim, [&](int r, int64_t p) { return v(r, p); }, [&](int c, int64_t p) { return d_out(c, p); },
            &error);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t t = token + column + j;
        const bool valid = t < a.tokens;
        const Query query = {t, valid ? a.First(b, t) : 0, valid};
        const float log_sum = valid ? a.log_sums[pair * a.tokens + t] : 0.0f;
        const float product = valid && !kValues ? a.products[pair * a.tokens + t] : 0.0f;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const bool seen = row + i < rows && Sees(query, from + row + i, window, a.sinks);
          const float p = seen ? expf(weight.at[i][j] - log_sum) : 0.0f;
          weight.at[i][j] = kValues ? p : seen ? p * (error.at[i][j] - product) : 0.0f;
        }
      }
      __syncthreads();  // the last tile may still be read
      StoreLeft(weight, &left);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const int64_t first = first_column + n * kTile;
        if (first >= a.dim) continue;
        AddTileProduct<false>(
            &slabs, left, count,
            [&](int c, int64_t p) { return kValues ? d_out(p, first + c) : a.scale * q(p, first + c); }, &sum[n]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (row + i >= rows) continue;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t c = first_column + n * kTile + column + j;
        if (c >= a.dim) continue;
        const View<T>& to = kValues ? a.dv : a.dk;
        PutGradient(to.At(b, kv_head, from + row + i) + c, sum[n].at[i][j], kValues ? a.add_dv : a.add_dk);
      }
    }
  }
}

// ---- plans ----

// Calls body(T{}, tiles) with the number of tiles of columns that a block makes.
template <class Body>
void WithTiles(const Shape& s, Body body) {
  WithType(s.dtype, [&](auto type) {
    if (s.dim <= kTile) {
      body(type, std::integral_constant<int, 1>{});
    } else if (s.dim <= 2 * kTile) {
      body(type, std::integral_constant<int, 2>{});
    } else {
      body(type, std::integral_constant<int, 4>{});
    }
  });
}

template <class T>
Args<T> CommonArgs(const Shape& s, const Launch& launch, int tiles) {
  const xh_tensor* const args = launch.args;
  Args<T> a = {};
  a.q = ViewOf<const T>(args[kQ]);
  a.k = ViewOf<const T>(args[kK]);
  a.v = ViewOf<const T>(args[kV]);
  a.start = ViewOf<const int32_t>(args[kStart]);
  a.windows = s.windows;
  a.batch = s.batch;
  a.heads = s.heads;
  a.kv_heads = s.kv_heads;
  a.group = s.group();
  a.tokens = s.tokens;
  a.dim = s.dim;
  a.sinks = s.sinks;
  a.capacity = s.capacity;
  a.most_position = s.MostPosition();
  a.column_groups = (s.dim + tiles * kTile - 1) / (tiles * kTile);
  a.scale = s.scale;
  a.sink = launch.fault;
  return a;
}

void LaunchCheckStarts(const Shape& s, const Launch& launch) {
  if (!s.documents) return;
  const int64_t count = s.batch * s.tokens;
  CheckStarts<<<Blocks(count, kTileThreads), kTileThreads, 0, launch.stream>>>(
      ViewOf<const int32_t>(launch.args[kStart]), s.tokens, count, launch.fault);
}

class ForwardPlan final : public Plan {
 public:
  ForwardPlan(const Shape& shape, const Request& request) : s_(shape), keeps_(request.pass == XH_FORWARD) {
    if (keeps_) saved_bytes = SavedBytes(s_);
    implementation = "tiled";
  }

  void Run(const Launch& launch) const override {
    if (s_.pairs() == 0 || s_.tokens == 0) return;
    LaunchCheckStarts(s_, launch);
    WithTiles(s_, [&](auto type, auto tiles) { Run<decltype(type), decltype(tiles)::value>(launch); });
  }

 private:
  template <class T, int kTiles>
  void Run(const Launch& launch) const {
    Args<T> a = CommonArgs<T>(s_, launch, kTiles);
    a.out = ViewOf<T>(launch.args[kO]);
    a.cache_k = ViewOf<T>(launch.args[kCacheK]);
    a.cache_v = ViewOf<T>(launch.args[kCacheV]);
    a.position = ViewOf<const int32_t>(launch.args[kPosition]);
    a.log_sums = keeps_ ? reinterpret_cast<float*>(launch.saved) : nullptr;
    const int64_t blocks = s_.pairs() * TilesOf(s_.tokens) * a.column_groups;
    Forward<T, kTiles><<<static_cast<unsigned>(blocks), kTileThreads, 0, launch.stream>>>(a);
    // Only now: until here the ring held tokens that queries of this call still saw.
    if (!s_.cached) return;
    const int64_t rows = s_.batch * s_.kv_heads * s_.tokens;
    WriteCache<T><<<static_cast<unsigned>(rows), kTileThreads, 0, launch.stream>>>(a);
  }

  Shape s_;
  bool keeps_;
};

class BackwardPlan final : public Plan {
 public:
  BackwardPlan(const Shape& shape, const Request&) : s_(shape) {
    products_ = Reserve(&workspace_bytes, s_.pairs() * s_.tokens, 4);
    saved_bytes = SavedBytes(s_);
    implementation = "tiled";
  }

  void Run(const Launch& launch) const override {
    if (s_.pairs() == 0 || s_.tokens == 0) return;
    LaunchCheckStarts(s_, launch);
    if (!Present(launch.args[kDo])) {
      for (int slot = kDq; slot <= kDv; ++slot) LaunchZero(launch.args[slot], launch.stream);
      return;
    }
    WithTiles(s_, [&](auto type, auto tiles) { Run<decltype(type), decltype(tiles)::value>(launch); });
  }

 private:
  template <class T, int kTiles>
  void Run(const Launch& launch) const {
    const xh_tensor* const args = launch.args;
    const gpuStream_t stream = launch.stream;
    Args<T> a = CommonArgs<T>(s_, launch, kTiles);
    a.o = ViewOf<const T>(args[kO]);
    a.d_out = ViewOf<const T>(args[kDo]);
    a.dq = ViewOf<T>(args[kDq]);
    a.dk = ViewOf<T>(args[kDk]);
    a.dv = ViewOf<T>(args[kDv]);
    a.add_dq = Accumulates(args[kDq]);
    a.add_dk = Accumulates(args[kDk]);
    a.add_dv = Accumulates(args[kDv]);
    a.log_sums = reinterpret_cast<float*>(launch.saved);
    a.products = Part<float>(launch.workspace, products_);
    FindProducts<T><<<Blocks(s_.pairs() * s_.tokens, kTileThreads / kWarp), kTileThreads, 0, stream>>>(a);
    const int64_t tiles = TilesOf(s_.tokens) * a.column_groups;
    const auto query_blocks = static_cast<unsigned>(s_.pairs() * tiles);
    const auto key_blocks = static_cast<unsigned>(s_.batch * s_.kv_heads * tiles);
    if (a.dq.present()) QueryGradients<T, kTiles><<<query_blocks, kTileThreads, 0, stream>>>(a);
    if (a.dk.present()) KeyGradients<T, kTiles, false><<<key_blocks, kTileThreads, 0, stream>>>(a);
    if (a.dv.present()) KeyGradients<T, kTiles, true><<<key_blocks, kTileThreads, 0, stream>>>(a);
  }

  Shape s_;
  int64_t products_;
};

}  // namespace

std::unique_ptr<Plan> MakeAttentionPlainForward(const Shape& shape, const Request& request) {
  return std::make_unique<ForwardPlan>(shape, request);
}
std::unique_ptr<Plan> MakeAttentionPlainBackward(const Shape& shape, const Request& request) {
  return std::make_unique<BackwardPlan>(shape, request);
}

}  // namespace xh::gpu::attention
