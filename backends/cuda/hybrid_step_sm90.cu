// HYBRID_STEP: one token of a hybrid mixer in one kernel. A cluster of thread blocks has a key/value head of a sequence
// and the query heads of its group. A block has a slice of the columns of one head's state, whose part of h then needs
// nobody else, and every so many slots of the window for all heads of the group: what it makes of them it sends, in
// pieces, to the blocks whose columns they are. Features, which every slice of a head needs, are made by each from the
// map in L2: cheaper than waiting for another block.
//
// A block is eight warps and a ninth for what are single numbers: the gates, the output gate, the normaliser. Nobody
// waits for it before the state's turn.
//
// Memory is asked for as early as possible: weights are constants and come before the wait for earlier kernels. The
// state and the cache may not be read by then: kernels that let the next begin at once (matmul_thin.cu) say nothing
// about who wrote before them. They are fetched to L2, which is always right, and read behind the wait.
#include <algorithm>

#include "backends/cuda/hybrid_step_features_sm90.cuh"
#include "backends/cuda/hybrid_step_state_sm90.cuh"
#include "backends/cuda/hybrid_step_window_sm90.cuh"
#include "backends/cuda/ops.h"

namespace xh::gpu {
namespace hybrid_step {
namespace {

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

// As many slices of a head as leave every block a multiprocessor of its own. Clusters of more than kGoodCluster blocks,
// of which few devices hold as many as their multiprocessors suggest, are for large groups alone.
int ChooseSlices(const Sizes& s, int multiprocessors) {
  int slices = 1;
  while (2 * slices * s.group() <= kGoodCluster && s.dim / (2 * slices) >= 16 &&
         s.batch * s.heads * 2 * slices <= multiprocessors) {
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
    CheckPointers(launch);
    const xh_tensor* const args = launch.args;
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
                       ", so many are no slower op by op");
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

// Checks a request and opens a plan for it.
Refusal Open(const Request& request, std::unique_ptr<Plan>* out) {
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
  refusal = CheckLayout(request, dims.activation);
  if (refusal.code != 0) return refusal;
  if (sizes.batch * sizes.heads > kManyPairs * request.facts->multiprocessors) {
    *out = OpenMany(request,
                    {sizes.batch, sizes.positions, sizes.heads, sizes.kv_heads, sizes.dim, sizes.features, dims['n']},
                    params);
    if (*out != nullptr) return {};
  }
  refusal = CheckSizes(sizes, dims.activation, *request.facts);
  if (refusal.code != 0) return refusal;
  sizes.slices = ChooseSlices(sizes, request.facts->multiprocessors);
  WithType(dims.activation, [&](auto type) {
    auto plan = std::make_unique<StepPlan<decltype(type)>>(sizes, params);
    refusal = plan->Prepare(*request.facts);
    if (refusal.code == 0) *out = std::move(plan);
  });
  return refusal;
}

}  // namespace
}  // namespace hybrid_step

Refusal OpenHybridStep(const Request& request, std::unique_ptr<Plan>* out) { return hybrid_step::Open(request, out); }

}  // namespace xh::gpu
