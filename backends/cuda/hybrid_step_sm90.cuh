// What the parts of HYBRID_STEP share: arguments, where things lie in shared memory, clusters and who has what.
#ifndef XHYBRID_BACKENDS_CUDA_HYBRID_STEP_SM90_CUH_
#define XHYBRID_BACKENDS_CUDA_HYBRID_STEP_SM90_CUH_

#include "backends/cuda/attention.h"
#include "backends/cuda/mlstm_token.cuh"
#include "backends/cuda/rows.cuh"
#include "backends/cuda/sm90.cuh"

namespace xh::gpu::hybrid_step {

enum { kQ, kK, kV, kTable, kPosition, kQueryMap, kKeyMap, kI, kF, kW, kB, kS, kZ, kM, kCacheK, kCacheV, kH };

constexpr int kWorkers = 256, kWarps = kWorkers / kWarp, kThreads = kWorkers + kWarp;
constexpr int kMapRows = 4;     // rows of a map that are under way for a thread
constexpr int kKeys = 3;        // keys and as many values that are
constexpr int kMostPacks = 16;  // of the state that are
constexpr int kMostCluster = 16, kGoodCluster = 8;
constexpr int kMostMap = 256;  // columns of a map
constexpr int kLine = 128;     // bytes that L2 fetches
constexpr int kWorkerBarrier = 1;
constexpr int kInboxMore = 4;  // behind the columns that a block gets: their maximum and sum
// Heads of all sequences, for each multiprocessor: more than the first are faster in three kernels where there are such
// for their sizes, more than the second op by op.
constexpr int64_t kManyPairs = 4, kMostPairs = 8;

// Throws where a pointer does not allow packs of 16 bytes. Strides were looked at when the plan opened.
inline void CheckPointers(const Launch& launch) {
  for (int slot : {kQ, kK, kV, kTable, kQueryMap, kKeyMap, kS, kCacheK, kCacheV}) {
    const xh_tensor& x = launch.args[slot];
    if (x.dtype == 0 || reinterpret_cast<uintptr_t>(x.data) % 16 == 0) continue;
    throw RunError{XH_INVALID_ARGUMENT,
                   "HYBRID_STEP: argument " + std::to_string(slot) + " does not begin at a multiple of 16 bytes"};
  }
}

// For so many sequences that heads fill the device: NULL where that does not apply.
struct ManySizes {
  int64_t batch, positions, heads, kv_heads, dim, features, map_columns;
};
std::unique_ptr<Plan> OpenMany(const Request& request, const ManySizes& sizes, const xh_hybrid_step_params& params);

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

}  // namespace xh::gpu::hybrid_step

#endif  // XHYBRID_BACKENDS_CUDA_HYBRID_STEP_SM90_CUH_
