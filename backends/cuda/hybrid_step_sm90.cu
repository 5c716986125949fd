// HYBRID_STEP: one token of a hybrid mixer in one kernel. A cluster of thread blocks has a key/value head of a sequence
// and the query heads of its group. A block has a slice of the columns of one head's state, whose part of h then needs
// nobody else, and every so many slots of the window for all heads of the group: what it makes of them it sends, in
// pieces, to the blocks whose columns they are. Features, which every slice of a head needs, are made by each from the
// map in L2: cheaper than waiting for another block.
//
// A block is eight warps and a ninth for what are single numbers: gates in double precision, the output gate, the
// normaliser. Nobody waits for it before the state's turn.
//
// Memory is asked for as early as possible: weights are constants and come before the wait for earlier kernels. The
// state and the cache may not be read by then: kernels that let the next begin at once (matmul_thin.cu) say nothing
// about who wrote before them. They are fetched to L2, which is always right, and read behind the wait.
#include <algorithm>

#include "backends/cuda/attention.h"
#include "backends/cuda/mlstm_token.cuh"
#include "backends/cuda/ops.h"
#include "backends/cuda/rows.cuh"
#include "backends/cuda/sm90.cuh"

namespace xh::gpu {
namespace {

enum { kQ, kK, kV, kTable, kPosition, kQueryMap, kKeyMap, kI, kF, kW, kB, kS, kZ, kM, kCacheK, kCacheV, kH };

constexpr int kWorkers = 256, kWarps = kWorkers / kWarp, kThreads = kWorkers + kWarp;
constexpr int kMapRows = 4;     // rows of a map that are under way for a thread
constexpr int kKeys = 3;        // keys and as many values that are
constexpr int kMostPacks = 16;  // of the state that are
constexpr int kMostCluster = 16, kGoodCluster = 8;
constexpr int kMostMap = 256;  // columns of a map
constexpr int kLine = 128;     // bytes that L2 fetches
constexpr int kWorkerBarrier = 1;
constexpr int64_t kMostPairs = 1;  // heads of all sequences, for each multiprocessor
constexpr int kInboxMore = 4;      // behind the columns that a block gets: their maximum and sum

struct Slots {  // of each key/value head in the cache
  int32_t first[attention::kMostKvHeads], window[attention::kMostKvHeads];
};

template <class T>
struct StepArgs {
  View<const T> q, k, v, query_map, key_map, w, bias;
  View<const float> table, i, f;
  View<const int32_t> position;
  View<float> s, z, m;
  View<T> cache_k, cache_v, h;
  Slots slots;
  int64_t batch, positions;
  int kv_heads, group, slices, features, map_columns, sinks, most_slots;
  float mlstm_scale, scale;
  bool hedgehog, floored;
  FaultSink fault;

  XH_BOTH int cluster() const { return group * slices; }
};

// Where things lie in a block's shared memory, in floats.
struct Layout {
  int q, k, v, phi, z, scores, weights, out, most, sum, totals, inbox;  // q: all heads of the group, rotated
  int own_k, own_v;                                                     // k and v as they go to the cache
  int state;                                                            // by pack and thread
  int packs;                                                            // of the state, for a thread
  int size;

  XH_BOTH Layout(int dim, int group, int slices, int features, int map_columns, int slots, int heads_at_once,
                 int bytes) {
    const int columns = dim / slices, all = (features * columns / 4 + kWorkers - 1) / kWorkers;
    int at = 0;
    const auto take = [&at](int count) {
      const int first = at;
      at += (count + 3) / 4 * 4;
      return first;
    };
    q = take((group + 1) * dim);
    k = q + group * dim;
    v = take(dim);
    phi = take(2 * features);  // of q, then of k
    z = take(features);
    scores = take(kWarps * 2 * map_columns);
    weights = take((slots + group * slices - 1) / (group * slices) * heads_at_once);  // by row and head
    out = take(kWarps * heads_at_once * dim);
    most = take(heads_at_once);
    sum = take(heads_at_once);
    totals = take(kWarps * columns);
    inbox =
        take(group * slices * (columns + kInboxMore));  // by block of the cluster: a part of y, its maximum and its sum
    own_k = take(dim * bytes / 4);
    own_v = take(dim * bytes / 4);
    packs = all < kMostPacks ? all : kMostPacks;
    state = take(packs * kWorkers * 4);
    size = at;
  }
};

struct Scalars {
  mlstm::TokenGates gates;
  float mix, divisor;
};

// ---- clusters ----

__device__ inline void ClusterArrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ inline void ClusterWait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
// Writes to the place that `mine` has in this block, in another block of the cluster.
__device__ inline void StoreTo(int rank, float* mine, const Pack<float, 4>& four) {
  uint32_t place;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(place) : "r"(sm90::SharedAddress(mine)), "r"(rank));
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(place), "f"(four.value[0]), "f"(four.value[1]),
               "f"(four.value[2]), "f"(four.value[3])
               : "memory");
}

// ---- what a block has ----

struct Place {
  int64_t b, kv, head;
  int rank, member, slice;  // in the cluster: member of the group, slice of its columns

  template <class T>
  __device__ explicit Place(const StepArgs<T>& a) {
    const auto cluster = static_cast<unsigned>(a.cluster());
    const unsigned pair = blockIdx.x / cluster;
    rank = static_cast<int>(blockIdx.x % cluster);
    member = rank / a.slices;
    slice = rank % a.slices;
    b = pair / static_cast<unsigned>(a.kv_heads);
    kv = pair % static_cast<unsigned>(a.kv_heads);
    head = kv * a.group + member;
  }
};

__device__ inline void FetchToL2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

template <class T, int kDim>
__device__ void FetchMemory(const StepArgs<T>& a, const Place& at) {
  const int columns = kDim / a.slices, bytes = columns * 4, lines = bytes > kLine ? bytes / kLine : 1;
  for (int e = static_cast<int>(threadIdx.x); e < a.features * lines; e += kThreads) {
    FetchToL2(a.s.At(at.b, at.head, e / lines) + at.slice * columns + e % lines * (kLine / 4));
  }
  constexpr int kRowLines = kDim * static_cast<int>(sizeof(T)) / kLine;
  const int slots = a.sinks + a.slots.window[at.kv], cluster = a.cluster();
  for (int e = static_cast<int>(threadIdx.x); e / kRowLines * cluster + at.rank < slots; e += kThreads) {
    const int64_t slot = a.slots.first[at.kv] + e / kRowLines * cluster + at.rank;
    const int column = e % kRowLines * (kLine / static_cast<int>(sizeof(T)));
    FetchToL2(a.cache_k.At(at.b, slot) + column);
    FetchToL2(a.cache_v.At(at.b, slot) + column);
  }
}

// ---- shared memory ----

// Rows of q lie in fours: the first of every 16 bytes of a key, then the second. Threads with neighbouring pieces of a
// key then read neighbouring fours.
template <class T, int kDim>
__device__ inline int PlaceOf(int column) {
  if constexpr (kPack<T> == 4) {
    return column;
  } else {
    return (column & 4) * (kDim / 8) + (column >> 3) * 4 + (column & 3);
  }
}
__device__ inline Pack<float, 4>& FourAt(float* at) { return *reinterpret_cast<Pack<float, 4>*>(at); }

// ---- 16 bytes ----
//
// What is under way is held as words: a compiler that sees elements of 16 bits gives each a register.

template <class T>
__device__ inline uint4 LoadWords(const T* from) {
  return *reinterpret_cast<const uint4*>(from);
}
template <class T>
__device__ inline Pack<T, kPack<T>> Elements(const uint4& words) {
  union {
    uint4 words;
    Pack<T, kPack<T>> elements;
  } u = {words};
  return u.elements;
}
__device__ inline void CopyWords(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(sm90::SharedAddress(shared)), "l"(global) : "memory");
}
__device__ inline void WaitForCopies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// ---- rows of q, k and v ----

// A warp a row of the group's q and of k: two pairs a lane, rotated and rounded as XH_OP_ROPE leaves them.
template <class T, int kDim>
__device__ void Rotate(const StepArgs<T>& a, const Place& at, int64_t position, float* memory, const Layout& l) {
  constexpr int kHalf = kDim / 2;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  if (2 * lane >= kHalf) return;
  const float* const angles = a.table.At(position) + 2 * lane;
  for (int row = warp; row <= a.group; row += kWarps) {
    const T* const from = row < a.group ? a.q.At(at.b, at.kv * a.group + row) : a.k.At(at.b, at.kv);
    float low[2], high[2], cosine[2], sine[2];
    LoadPack<T, 2>(from + 2 * lane, low);
    LoadPack<T, 2>(from + kHalf + 2 * lane, high);
    LoadPack<float, 2>(angles, cosine);
    LoadPack<float, 2>(angles + kHalf, sine);
    float* const to = memory + l.q + row * kDim;
    T* const own = reinterpret_cast<T*>(memory + l.own_k) + 2 * lane;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const T first = FromFloat<T>(low[e] * cosine[e] - high[e] * sine[e]);
      const T second = FromFloat<T>(high[e] * cosine[e] + low[e] * sine[e]);
      to[PlaceOf<T, kDim>(2 * lane + e)] = ToFloat(first);
      to[PlaceOf<T, kDim>(kHalf + 2 * lane + e)] = ToFloat(second);
      if (row < a.group) continue;
      own[e] = first;
      own[kHalf + e] = second;
    }
  }
}

// ---- features ----

struct MapRows {
  uint4 q[kMapRows], k[kMapRows];
};

// A thread has a pack of columns of every so many rows.
template <class T>
struct MapWork {
  int packs, pack, first, step;

  __device__ explicit MapWork(int columns) {
    packs = columns / kPack<T>;
    pack = static_cast<int>(threadIdx.x) % packs;
    first = static_cast<int>(threadIdx.x) / packs;
    step = kWorkers / packs;
  }
};

template <class T, int kDim>
__device__ void LoadMaps(const StepArgs<T>& a, int64_t head, const MapWork<T>& work, int row, MapRows* rows) {
#pragma unroll
  for (int j = 0; j < kMapRows; ++j) {
    const int r = row + j * work.step;
    if (r >= kDim) break;
    rows->q[j] = LoadWords(a.query_map.At(head, r) + work.pack * kPack<T>);
    rows->k[j] = LoadWords(a.key_map.At(head, r) + work.pack * kPack<T>);
  }
}

// Scores of q and k by warp: scores[warp][q or k][column].
template <class T, int kDim>
__device__ void PutScores(const StepArgs<T>& a, int64_t head, const MapWork<T>& work, MapRows& rows, const float* q,
                          const float* k, float* scores) {
  constexpr int kEach = kPack<T>;
  float sum_q[kEach] = {}, sum_k[kEach] = {};
  for (int row = work.first; row < kDim; row += work.step * kMapRows) {
    if (row > work.first) LoadMaps<T, kDim>(a, head, work, row, &rows);
#pragma unroll
    for (int j = 0; j < kMapRows; ++j) {
      const int r = row + j * work.step;
      if (r >= kDim) break;
      const float q_r = q[PlaceOf<T, kDim>(r)], k_r = k[PlaceOf<T, kDim>(r)];
      const auto query = Elements<T>(rows.q[j]), key = Elements<T>(rows.k[j]);
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        sum_q[e] = fmaf(q_r, ToFloat(query.value[e]), sum_q[e]);
        sum_k[e] = fmaf(k_r, ToFloat(key.value[e]), sum_k[e]);
      }
    }
  }
  for (int mask = kWarp / 2; mask >= work.packs; mask /= 2) {
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      sum_q[e] += XH_SHUFFLE_XOR(sum_q[e], mask);
      sum_k[e] += XH_SHUFFLE_XOR(sum_k[e], mask);
    }
  }
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane >= work.packs) return;
  float* const to = scores + warp * 2 * a.map_columns + work.pack * kEach;
#pragma unroll
  for (int four = 0; four < kEach; four += 4) {
    FourAt(to + four) = {{sum_q[four], sum_q[four + 1], sum_q[four + 2], sum_q[four + 3]}};
    FourAt(to + a.map_columns + four) = {{sum_k[four], sum_k[four + 1], sum_k[four + 2], sum_k[four + 3]}};
  }
}

// A warp: one softmax, over n columns of sign * (the warps' scores added up).
__device__ inline void PutSoftmax(const float* scores, int n, float sign, float scale, float* phi) {
  constexpr int kColumns = kMostMap / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float score[kColumns], most = -kInfinity, sum = 0.0f;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (lane + c * kWarp >= n) continue;
    score[c] = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) score[c] += scores[w * 2 * n + lane + c * kWarp];
    score[c] *= sign;
    most = fmaxf(most, score[c]);
  }
  most = WarpMax(most);
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (lane + c * kWarp >= n) continue;
    score[c] = expf(score[c] - most);
    sum += score[c];
  }
  scale /= WarpSum(sum);
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (lane + c * kWarp < n) phi[lane + c * kWarp] = score[c] * scale;
  }
}

// Warps 0 to 3: features of q, then of k.
template <class T, int kDim>
__device__ void PutFeatures(const StepArgs<T>& a, const float* q, const float* k, const float* scores, float* phi) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, n = a.map_columns, halves = a.hedgehog ? 2 : 1;
  if (n == 0) {
    for (int c = static_cast<int>(threadIdx.x); c < kDim; c += kWorkers) {
      phi[c] = a.mlstm_scale * q[PlaceOf<T, kDim>(c)];
      phi[a.features + c] = k[PlaceOf<T, kDim>(c)];
    }
    return;
  }
  if (warp >= 2 * halves) return;
  const int which = warp / halves, half = warp % halves;
  PutSoftmax(scores + which * n, n, half == 0 ? 1.0f : -1.0f, which == 0 ? a.mlstm_scale : 1.0f,
             phi + which * a.features + half * n);
}

// ---- the window ----

struct Visible {
  int count, own;  // slots [0, count), one of which is the token's own
  int rows;        // of them, slots rank, rank + cluster, ...: this block's

  __device__ Visible(int64_t position, int window, int sinks, int rank, int cluster) {
    const int64_t recent = position - sinks + 1;
    count = static_cast<int>(position < sinks ? position + 1 : sinks + (recent < window ? recent : window));
    own = static_cast<int>(attention::SlotOf(position, window, sinks));
    rows = count > rank ? (count - rank + cluster - 1) / cluster : 0;
  }
};

// kLanes threads hold a row.
template <class T, int kDim>
struct RowWork {
  static constexpr int kLanes = kDim / kPack<T>, kRows = kWorkers / kLanes;  // rows that a block has at once
  static_assert(kLanes <= kWarp);
  int lane = static_cast<int>(threadIdx.x) % kLanes, row = static_cast<int>(threadIdx.x) / kLanes;
};

// Rows of a cache from `row` on. What lies there may be anything: how many are seen is not known yet.
template <class T, int kDim>
__device__ void LoadRows(const StepArgs<T>& a, const View<T>& cache, const Place& at, int row, uint4 (&words)[kKeys]) {
  const RowWork<T, kDim> work;
  const int slots = a.sinks + a.slots.window[at.kv], step = work.kRows * a.cluster();
  int slot = (row + work.row) * a.cluster() + at.rank;
  const T* from = cache.At(at.b, a.slots.first[at.kv] + slot) + work.lane * kPack<T>;
#pragma unroll
  for (int j = 0; j < kKeys; ++j) {
    if (slot >= slots) break;
    words[j] = LoadWords(from);
    from += step * cache.stride[1];
    slot += step;
  }
}

// The token's own slot is another block's to write: its row comes from where it is made.
template <class T, int kDim>
__device__ Pack<T, kPack<T>> SeenRow(uint4 words, bool own, const float* made) {
  const RowWork<T, kDim> work;
  if (own) words = *reinterpret_cast<const uint4*>(made + work.lane * 4);
  return Elements<T>(words);
}

// weights[row][head] = scale q.k of heads `first` on.
template <class T, int kDim, int kHeads>
__device__ void ScoreKeys(const StepArgs<T>& a, const Place& at, const Visible& visible, int first, float* memory,
                          const Layout& l, uint4 (&words)[kKeys]) {
  constexpr int kEach = kPack<T>;
  const RowWork<T, kDim> work;
  for (int base = 0; base < visible.rows; base += work.kRows * kKeys) {
    if (base > 0 || first > 0) LoadRows<T, kDim>(a, a.cache_k, at, base, words);
    Pack<T, kEach> key[kKeys];
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const int slot = (base + work.row + j * work.kRows) * a.cluster() + at.rank;
      key[j] = SeenRow<T, kDim>(words[j], slot == visible.own, memory + l.own_k);
    }
    float score[kHeads][kKeys] = {};
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float* const q = memory + l.q + (first + h < a.group ? first + h : first) * kDim + work.lane * 4;
#pragma unroll
      for (int four = 0; four < kEach / 4; ++four) {
        const Pack<float, 4> part = FourAt(q + four * (kDim / 2));
#pragma unroll
        for (int j = 0; j < kKeys; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            score[h][j] = fmaf(part.value[e], ToFloat(key[j].value[four * 4 + e]), score[h][j]);
          }
        }
      }
    }
#pragma unroll
    for (int mask = work.kLanes / 2; mask > 0; mask /= 2) {
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
#pragma unroll
        for (int j = 0; j < kKeys; ++j) score[h][j] += XH_SHUFFLE_XOR(score[h][j], mask);
      }
    }
    if (work.lane != 0) continue;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const int row = base + work.row + j * work.kRows;
      if (row >= visible.rows) break;
#pragma unroll
      for (int h = 0; h < kHeads; ++h) memory[l.weights + row * kHeads + h] = a.scale * score[h][j];
    }
  }
}

// A warp a head, from the last warp on: its weights over the block's rows, their maximum and their sum.
template <int kHeads>
__device__ void WeighKeys(const Visible& visible, float* memory, const Layout& l) {
  const int h = kWarps - 1 - static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  if (h >= kHeads) return;
  float* const weights = memory + l.weights + h;
  float most = -kInfinity, sum = 0.0f;
  for (int row = lane; row < visible.rows; row += kWarp) most = fmaxf(most, weights[row * kHeads]);
  most = WarpMax(most);
  const float shift = most == -kInfinity ? 0.0f : most;
  for (int row = lane; row < visible.rows; row += kWarp) {
    const float weight = expf(weights[row * kHeads] - shift);
    weights[row * kHeads] = weight;
    sum += weight;
  }
  sum = WarpSum(sum);
  if (lane != 0) return;
  memory[l.most + h] = shift;
  memory[l.sum + h] = sum;
}

// out[warp][head][column]: the warp's rows of values, weighted.
template <class T, int kDim, int kHeads>
__device__ void AddValues(const StepArgs<T>& a, const Place& at, const Visible& visible, int first, float* memory,
                          const Layout& l, uint4 (&words)[kKeys]) {
  constexpr int kEach = kPack<T>;
  const RowWork<T, kDim> work;
  float out[kHeads][kEach] = {};
  for (int base = 0; base < visible.rows; base += work.kRows * kKeys) {
    if (base > 0 || first > 0) LoadRows<T, kDim>(a, a.cache_v, at, base, words);
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const int row = base + work.row + j * work.kRows;
      if (row >= visible.rows) break;
      const bool own = row * a.cluster() + at.rank == visible.own;
      const auto value = SeenRow<T, kDim>(words[j], own, memory + l.own_v);
      const auto weight = *reinterpret_cast<const Pack<float, kHeads>*>(memory + l.weights + row * kHeads);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
#pragma unroll
        for (int e = 0; e < kEach; ++e) out[h][e] = fmaf(weight.value[h], ToFloat(value.value[e]), out[h][e]);
      }
    }
  }
#pragma unroll
  for (int mask = kWarp / 2; mask >= work.kLanes; mask /= 2) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) out[h][e] += XH_SHUFFLE_XOR(out[h][e], mask);
    }
  }
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane >= work.kLanes) return;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
#pragma unroll
    for (int four = 0; four < kEach / 4; ++four) {
      Pack<float, 4> part;
#pragma unroll
      for (int e = 0; e < 4; ++e) part.value[e] = out[h][four * 4 + e];
      FourAt(memory + l.out + (warp * kHeads + h) * kDim + work.lane * 4 + four * (kDim / 2)) = part;
    }
  }
}

// Adds up the warps' rows and sends each column to the block that finishes it.
template <class T, int kDim, int kHeads>
__device__ void Send(const StepArgs<T>& a, const Place& at, int first, float* memory, const Layout& l) {
  const int columns = kDim / a.slices;
  for (int e = static_cast<int>(threadIdx.x); e < kHeads * kDim / 4; e += kWorkers) {
    const int h = e / (kDim / 4), c = e % (kDim / 4) * 4;
    if (first + h >= a.group) return;
    Pack<float, 4> out = {};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const Pack<float, 4> part = FourAt(memory + l.out + (w * kHeads + h) * kDim + PlaceOf<T, kDim>(c));
#pragma unroll
      for (int f = 0; f < 4; ++f) out.value[f] += part.value[f];
    }
    const int to = (first + h) * a.slices + c / columns;
    float* const place = memory + l.inbox + at.rank * (columns + kInboxMore);
    StoreTo(to, place + c % columns, out);
    if (c % columns != 0) continue;
    const float sum = memory[l.sum + h];
    StoreTo(to, place + columns, Pack<float, 4>{{sum == 0.0f ? -kInfinity : memory[l.most + h], sum, 0.0f, 0.0f}});
  }
}

// ---- the mLSTM ----

struct StateWork {
  int lanes, lane, first, step;  // lanes: threads that hold a row's columns, a pack each

  __device__ explicit StateWork(int columns) {
    lanes = columns / 4;
    lane = static_cast<int>(threadIdx.x) % lanes;
    first = static_cast<int>(threadIdx.x) / lanes;
    step = kWorkers / lanes;
  }
};

// The first packs of a thread, or all of them: to shared memory, where it alone reads them.
template <class T>
__device__ void FetchState(const StepArgs<T>& a, const Place& at, const StateWork& work, int columns, int packs,
                           float* state) {
  const float* from = a.s.At(at.b, at.head, work.first) + at.slice * columns + work.lane * 4;
  float* to = state + threadIdx.x * 4;
  for (int j = 0; j < packs && work.first + j * work.step < a.features; ++j) {
    CopyWords(to, from);
    from += work.step * a.s.stride[2];
    to += kWorkers * 4;
  }
}

// S' and, by warp, phi(q) S'.
template <class T>
__device__ void UpdateState(const StepArgs<T>& a, const Place& at, const StateWork& work, int columns,
                            const mlstm::TokenGates& gates, float* memory, const Layout& l) {
  const float *const q = memory + l.phi, *const k = q + a.features, *const state = memory + l.state;
  float value[4], total[4] = {};
#pragma unroll
  for (int w = 0; w < 4; ++w) value[w] = gates.keep * memory[l.v + at.slice * columns + work.lane * 4 + w];
  float* place = a.s.At(at.b, at.head, work.first) + at.slice * columns + work.lane * 4;
  WaitForCopies();
#pragma unroll 4
  for (int r = work.first, j = 0; r < a.features; r += work.step, ++j, place += work.step * a.s.stride[2]) {
    Pack<float, 4> s;
    if (j < l.packs) {
      s = *reinterpret_cast<const Pack<float, 4>*>(state + (j * kWorkers + static_cast<int>(threadIdx.x)) * 4);
    } else {
      s = mlstm::LoadOnce<4>(place);
    }
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      s.value[w] = fmaf(gates.decay, s.value[w], k[r] * value[w]);
      total[w] = fmaf(q[r], s.value[w], total[w]);
    }
    mlstm::StoreOnce<4>(place, s);
  }
  for (int mask = kWarp / 2; mask >= work.lanes; mask /= 2) {
#pragma unroll
    for (int w = 0; w < 4; ++w) total[w] += XH_SHUFFLE_XOR(total[w], mask);
  }
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (static_cast<int>(threadIdx.x) % kWarp >= work.lanes) return;
#pragma unroll
  for (int w = 0; w < 4; ++w) memory[l.totals + warp * columns + work.lane * 4 + w] = total[w];
}

// ---- the ninth warp ----

template <class T, int kDim>
struct SingleNumbers {
  static constexpr int kEach = kDim / kWarp;
  float weight[3][kEach], bias, i, f, m, sum = 0.0f;

  __device__ void LoadWeights(const StepArgs<T>& a, const Place& at, int lane) {
    const T* const w = a.w.At(at.head);
#pragma unroll
    for (int part = 0; part < 3; ++part) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) weight[part][e] = ToFloat(w[part * kDim + e * kWarp + lane]);
    }
    bias = ToFloat(*a.bias.At(at.head));
  }
  __device__ void LoadRows(const StepArgs<T>& a, const Place& at, int lane, float* z) {
    for (int r = lane; r < a.features; r += kWarp) z[r] = a.z.At(at.b, at.head)[r];
    i = *a.i.At(at.b, at.head);
    f = *a.f.At(at.b, at.head);
    m = *a.m.At(at.b, at.head);
    const T* const rows[3] = {a.q.At(at.b, at.head), a.k.At(at.b, at.kv), a.v.At(at.b, at.kv)};
#pragma unroll
    for (int part = 0; part < 3; ++part) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) sum = fmaf(weight[part][e], ToFloat(rows[part][e * kWarp + lane]), sum);
    }
  }
  __device__ void Put(int lane, Scalars* to) {
    sum = WarpSum(sum);
    if (lane != 0) return;
    to->mix = 1.0f / (1.0f + expf(-(sum + bias)));
    to->gates = mlstm::FindGates(i, f, static_cast<double>(m));
  }
};

// z' in shared memory, and what numerators are divided by.
__device__ inline void UpdateNormalizer(const float* phi, int features, bool floored, int lane, float* z, Scalars* at) {
  const mlstm::TokenGates gates = at->gates;
  float dot = 0.0f;
  for (int r = lane; r < features; r += kWarp) {
    const float after = fmaf(gates.decay, z[r], gates.keep * phi[features + r]);
    z[r] = after;
    dot = fmaf(phi[r], after, dot);
  }
  dot = WarpSum(dot);
  if (floored) dot = fabsf(dot) < gates.floor ? gates.floor : fabsf(dot);  // NaN stays
  if (lane == 0) at->divisor = dot;
}

// ---- the end ----

// A thread a column: y from all blocks of the cluster, x from all warps, the gate between them.
template <class T>
__device__ void Finish(const StepArgs<T>& a, const Place& at, int columns, const float* memory, const Layout& l,
                       const Scalars& scalars) {
  const int c = static_cast<int>(threadIdx.x), cluster = a.cluster();
  if (c >= columns) return;
  float total = 0.0f, most = -kInfinity, sum = 0.0f, out = 0.0f;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += memory[l.totals + w * columns + c];
#pragma unroll 4
  for (int r = 0; r < cluster; ++r) most = fmaxf(most, memory[l.inbox + r * (columns + kInboxMore) + columns]);
#pragma unroll 4
  for (int r = 0; r < cluster; ++r) {
    const float* const part = memory + l.inbox + r * (columns + kInboxMore);
    const float weight = most == -kInfinity ? 1.0f : expf(part[columns] - most);
    sum = fmaf(weight, part[columns + 1], sum);
    out = fmaf(weight, part[c], out);
  }
  const float x = total / scalars.divisor, y = out / sum;
  a.h.At(at.b, at.head)[at.slice * columns + c] = FromFloat<T>(scalars.mix * x + (1.0f - scalars.mix) * y);
}

template <class T>
__device__ bool PositionsFit(const StepArgs<T>& a) {
  bool bad = false;
  for (int64_t b = threadIdx.x; b < a.batch; b += kThreads) {
    const int64_t p = *a.position.At(b);
    if (p >= 0 && p < a.positions) continue;
    bad = true;
    if (blockIdx.x == 0) Report(a.fault, FaultKind::kPosition, b, -1, p, 0, a.positions - 1);
  }
  return __syncthreads_or(bad ? 1 : 0) == 0;
}

template <class T, int kDim, int kHeads>
__global__ void __launch_bounds__(kThreads, 2) HybridStep(const __grid_constant__ StepArgs<T> a) {
  extern __shared__ __align__(16) float memory[];
  __shared__ Scalars scalars;
  const Layout l(kDim, a.group, a.slices, a.features, a.map_columns, a.most_slots, kHeads, sizeof(T));
  const Place at(a);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, columns = kDim / a.slices;
  const bool works = thread < kWorkers;
  ClusterArrive();  // the others of the cluster have begun when it is waited for: they can be written to
  const MapWork<T> map_work(a.map_columns > 0 ? a.map_columns : kPack<T>);
  const StateWork state_work(columns);
  MapRows maps;
  uint4 keys[kKeys], values[kKeys];
  SingleNumbers<T, kDim> single;
  if (works) {
    if (a.map_columns > 0) LoadMaps<T, kDim>(a, at.head, map_work, map_work.first, &maps);
  } else {
    single.LoadWeights(a, at, lane);
  }
  FetchMemory<T, kDim>(a, at);
  WaitForEarlier();
  const int64_t position = *a.position.At(at.b);
  if (works) {
    FetchState(a, at, state_work, columns, l.packs, memory + l.state);
    LoadRows<T, kDim>(a, a.cache_k, at, 0, keys);
    LoadRows<T, kDim>(a, a.cache_v, at, 0, values);
    if (thread < kDim) {
      const T value = a.v.At(at.b, at.kv)[thread];
      memory[l.v + thread] = ToFloat(value);
      reinterpret_cast<T*>(memory + l.own_v)[thread] = value;
    }
    if (position >= 0 && position < a.positions) Rotate<T, kDim>(a, at, position, memory, l);
  } else {
    single.LoadRows(a, at, lane, memory + l.z);
  }
  const bool fit = PositionsFit(a);
  if (!fit) return ClusterWait();
  const Visible visible(position, a.slots.window[at.kv], a.sinks, at.rank, a.cluster());
  if (works) {
    const float* const q = memory + l.q + at.member * kDim;
    if (a.map_columns > 0) PutScores<T, kDim>(a, at.head, map_work, maps, q, memory + l.k, memory + l.scores);
    ScoreKeys<T, kDim, kHeads>(a, at, visible, 0, memory, l, keys);
    sm90::NamedBarrier(kWorkerBarrier, kWorkers);
    PutFeatures<T, kDim>(a, q, memory + l.k, memory + l.scores, memory + l.phi);
    WeighKeys<kHeads>(visible, memory, l);
    if (at.rank == 0 && thread < kDim) {
      const int64_t slot = a.slots.first[at.kv] + visible.own;
      a.cache_k.At(at.b, slot)[thread] = reinterpret_cast<const T*>(memory + l.own_k)[thread];
      a.cache_v.At(at.b, slot)[thread] = reinterpret_cast<const T*>(memory + l.own_v)[thread];
    }
    sm90::NamedBarrier(kWorkerBarrier, kWorkers);
    AddValues<T, kDim, kHeads>(a, at, visible, 0, memory, l, values);
  } else {
    single.Put(lane, &scalars);
  }
  ClusterWait();
  __syncthreads();
  if (works) {
    Send<T, kDim, kHeads>(a, at, 0, memory, l);
    for (int first = kHeads; first < a.group; first += kHeads) {
      ScoreKeys<T, kDim, kHeads>(a, at, visible, first, memory, l, keys);
      sm90::NamedBarrier(kWorkerBarrier, kWorkers);  // what was sent is read, too
      WeighKeys<kHeads>(visible, memory, l);
      sm90::NamedBarrier(kWorkerBarrier, kWorkers);
      AddValues<T, kDim, kHeads>(a, at, visible, first, memory, l, values);
      sm90::NamedBarrier(kWorkerBarrier, kWorkers);
      Send<T, kDim, kHeads>(a, at, first, memory, l);
    }
  }
  LetNextBegin();
  if (works) {
    UpdateState(a, at, state_work, columns, scalars.gates, memory, l);
  } else {
    UpdateNormalizer(memory + l.phi, a.features, a.floored, lane, memory + l.z, &scalars);
  }
  ClusterArrive();
  ClusterWait();
  Finish(a, at, columns, memory, l, scalars);
  // Every slice of a head reads z and m: they change when all have.
  if (works || at.slice != 0) return;
  for (int r = lane; r < a.features; r += kWarp) a.z.At(at.b, at.head)[r] = memory[l.z + r];
  if (lane == 0) *a.m.At(at.b, at.head) = scalars.gates.m;
}

// ---- plans ----

struct Sizes {
  int64_t batch, positions;
  int dim, heads, kv_heads, features, map_columns;
  int most_slots;  // of a key/value head in the cache
  int bytes;       // of an element
  int slices;

  int group() const { return heads / kv_heads; }
  int heads_at_once() const { return group() >= 3 ? 4 : group(); }
  unsigned blocks() const { return static_cast<unsigned>(batch * heads * slices); }
  int64_t shared() const {
    return int64_t{4} * Layout(dim, group(), slices, features, map_columns, most_slots, heads_at_once(), bytes).size;
  }
};

template <class T>
using Kernel = void (*)(const StepArgs<T>);

template <class T, int kDim>
Kernel<T> KernelFor(int heads_at_once) {
  if (heads_at_once == 1) return HybridStep<T, kDim, 1>;
  if (heads_at_once == 2) return HybridStep<T, kDim, 2>;
  return HybridStep<T, kDim, 4>;
}
template <class T>
Kernel<T> KernelFor(const Sizes& s) {
  return s.dim == 64 ? KernelFor<T, 64>(s.heads_at_once()) : KernelFor<T, 128>(s.heads_at_once());
}

// As many slices of a head as still find room in the device all at once. Clusters of more than kGoodCluster blocks, of
// which few devices hold as many as their multiprocessors suggest, are for large groups alone.
int ChooseSlices(const Sizes& s, int multiprocessors) {
  int slices = 1;
  while (2 * slices * s.group() <= kGoodCluster && s.dim / (2 * slices) >= 16 &&
         s.batch * s.heads * 2 * slices <= 2 * multiprocessors) {
    slices *= 2;
  }
  return slices;
}

template <class T>
class StepPlan final : public Plan {
 public:
  StepPlan(const Sizes& sizes, const xh_hybrid_step_params& params) : s_(sizes), kernel_(KernelFor<T>(sizes)) {
    int64_t first = 0;
    for (int j = 0; j < s_.kv_heads; ++j) {
      a_.slots.first[j] = static_cast<int32_t>(first);
      a_.slots.window[j] = params.windows[j];
      first += params.sinks + int64_t{params.windows[j]};
    }
    a_.batch = s_.batch;
    a_.positions = s_.positions;
    a_.kv_heads = s_.kv_heads;
    a_.group = s_.group();
    a_.slices = s_.slices;
    a_.features = s_.features;
    a_.map_columns = s_.map_columns;
    a_.sinks = params.sinks;
    a_.most_slots = s_.most_slots;
    a_.mlstm_scale = params.mlstm_scale;
    a_.scale = params.scale;
    a_.hedgehog = s_.map_columns > 0 && params.map == XH_FEATURE_HEDGEHOG;
    a_.floored = params.normalizer == XH_NORMALIZER_MAX;
    implementation = "cluster";
  }

  // Whether this device runs such clusters.
  Refusal Prepare(const Facts& facts) const {
    Refusal refusal = AllowShared(kernel_, static_cast<int>(s_.shared()), facts);
    if (refusal.code != 0) return refusal;
    gpuError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel_), cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    cudaLaunchAttribute attributes[2];
    const cudaLaunchConfig_t config = Config(nullptr, false, attributes);
    int clusters = 0;
    if (error == cudaSuccess) error = cudaOccupancyMaxActiveClusters(&clusters, kernel_, &config);
    if (error == cudaSuccess && clusters > 0) return {};
    cudaGetLastError();
    return Unsupported("HYBRID_STEP: this device runs no cluster of " + std::to_string(a_.cluster()) + " blocks");
  }

  void Run(const Launch& launch) const override {
    if (s_.blocks() == 0) return;
    const xh_tensor* const args = launch.args;
    for (int slot : {kQ, kK, kV, kTable, kQueryMap, kKeyMap, kS, kCacheK, kCacheV}) {
      if (args[slot].dtype == 0 || reinterpret_cast<uintptr_t>(args[slot].data) % 16 == 0) continue;
      throw RunError{XH_INVALID_ARGUMENT,
                     "HYBRID_STEP: argument " + std::to_string(slot) + " does not begin at a multiple of 16 bytes"};
    }
    StepArgs<T> a = a_;
    a.q = ViewOf<const T>(args[kQ]);
    a.k = ViewOf<const T>(args[kK]);
    a.v = ViewOf<const T>(args[kV]);
    a.table = ViewOf<const float>(args[kTable]);
    a.position = ViewOf<const int32_t>(args[kPosition]);
    a.query_map = ViewOf<const T>(args[kQueryMap]);
    a.key_map = ViewOf<const T>(args[kKeyMap]);
    a.i = ViewOf<const float>(args[kI]);
    a.f = ViewOf<const float>(args[kF]);
    a.w = ViewOf<const T>(args[kW]);
    a.bias = ViewOf<const T>(args[kB]);
    a.s = ViewOf<float>(args[kS]);
    a.z = ViewOf<float>(args[kZ]);
    a.m = ViewOf<float>(args[kM]);
    a.cache_k = ViewOf<T>(args[kCacheK]);
    a.cache_v = ViewOf<T>(args[kCacheV]);
    a.h = ViewOf<T>(args[kH]);
    a.fault = launch.fault;
    cudaLaunchAttribute attributes[2];
    const cudaLaunchConfig_t config = Config(launch.stream, launch.overlaps, attributes);
    cudaLaunchKernelEx(&config, kernel_, a);  // its error is looked for behind Run
  }

 private:
  cudaLaunchConfig_t Config(gpuStream_t stream, bool overlaps, cudaLaunchAttribute* attributes) const {
    attributes[0] = {};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = static_cast<unsigned>(a_.cluster());
    attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
    attributes[1] = {};
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(std::max(s_.blocks(), static_cast<unsigned>(a_.cluster())));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = static_cast<size_t>(s_.shared());
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = overlaps ? 2 : 1;
    return config;
  }

  Sizes s_;
  Kernel<T> kernel_;
  StepArgs<T> a_ = {};
};

// Sizes that the kernel was written for.
Refusal CheckSizes(const Sizes& s, xh_dtype dtype, const Facts& facts) {
  const int pack = dtype == XH_BF16 ? kPack<bf16> : kPack<float>, packs = s.map_columns / pack;
  if (!facts.wgmma) return Unsupported("HYBRID_STEP: it needs compute capability 9.0");
  if (s.dim != 64 && s.dim != 128) {
    return Unsupported("HYBRID_STEP: d is " + std::to_string(s.dim) + ", 64 and 128 are there");
  }
  if (s.group() > kMostCluster || s.kv_heads > attention::kMostKvHeads) {
    return Unsupported("HYBRID_STEP: H is " + std::to_string(s.heads) + " and KV " + std::to_string(s.kv_heads) +
                       ", at most 16 heads a group and 128 groups are there");
  }
  if (s.map_columns > 0 && (s.map_columns % pack != 0 || packs > kWarp || (packs & (packs - 1)) != 0)) {
    return Unsupported("HYBRID_STEP: n is " + std::to_string(s.map_columns) + ", powers of two from " +
                       std::to_string(pack) + " to " + std::to_string(pack * kWarp) + " are there");
  }
  if (s.batch * s.heads > kMostPairs * facts.multiprocessors) {
    return Unsupported("HYBRID_STEP: B is " + std::to_string(s.batch) + " with H " + std::to_string(s.heads) +
                       ", so many are faster op by op");
  }
  return {};
}

Refusal CheckLayout(const Request& request, xh_dtype activation) {
  for (int slot : {kQueryMap, kKeyMap, kW, kB}) {
    if (!Present(request.args[slot]) || request.args[slot].dtype == activation) continue;
    return Unsupported("HYBRID_STEP: argument " + std::to_string(slot) + " has another dtype than q");
  }
  for (int slot : {kQ, kK, kV, kTable, kQueryMap, kKeyMap, kS, kCacheK, kCacheV}) {
    xh_tensor tensor = request.args[slot];
    tensor.data = nullptr;  // known when the plan runs
    if (MovesInPacks(tensor)) continue;
    return Unsupported("HYBRID_STEP: argument " + std::to_string(slot) +
                       " has strides that are not multiples of 16 bytes");
  }
  return {};
}

}  // namespace

Refusal OpenHybridStep(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_hybrid_step_params params = {};
  Refusal refusal = backend::CheckHybridStep(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  const int32_t most = *std::max_element(params.windows, params.windows + params.kv_heads);
  Sizes sizes = {dims['B'],
                 dims['P'],
                 static_cast<int>(dims['d']),
                 static_cast<int>(dims['H']),
                 static_cast<int>(dims['K']),
                 static_cast<int>(dims['p']),
                 static_cast<int>(std::max<int64_t>(dims['n'], 0)),
                 params.sinks + most,
                 static_cast<int>(backend::ElementBytes(dims.activation)),
                 1};
  refusal = CheckSizes(sizes, dims.activation, *request.facts);
  if (refusal.code == 0) refusal = CheckLayout(request, dims.activation);
  if (refusal.code != 0) return refusal;
  sizes.slices = ChooseSlices(sizes, request.facts->multiprocessors);
  WithType(dims.activation, [&](auto type) {
    auto plan = std::make_unique<StepPlan<decltype(type)>>(sizes, params);
    refusal = plan->Prepare(*request.facts);
    if (refusal.code == 0) *out = std::move(plan);
  });
  return refusal;
}

}  // namespace xh::gpu
