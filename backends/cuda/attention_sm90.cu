// ATTENTION on Hopper, INFER and FORWARD: softmax block by block with a running maximum and sum. A warpgroup feeds
// tiles of keys and values by TMA, two others each hold 64 queries of one head in registers; the scores of a tile are
// computed while the values of the one before are added up.
#include <cmath>

#include "backends/cuda/attention_sm90.cuh"
#include "backends/cuda/attention_stage.h"

namespace xh::gpu::attention {
namespace {

using namespace sm90;

struct ForwardArguments {
  Sizes sizes;
  Items items;
  float* log_sums;  // [B,H,T], or NULL
};

template <int kDim, int kKeys>
struct ForwardLayout {
  // Queries in registers leave shared memory's bandwidth to the keys; beside a tile of 128 keys there is no room.
  static constexpr bool kHoldsQueries = kDim == 64 || kKeys == 64;
  static constexpr int kBlocks = kDim / 64;  // of 64 columns
  static constexpr int kStages = kKeys * kDim > 64 * 128 && kDim == 128 ? 2 : 4;
  static constexpr int kRowBlock = kRows * 128, kKeyBlock = kKeys * 128, kSinkBlock = kSinkRows * 128;
  static constexpr int kRowTile = kBlocks * kRowBlock, kKeyTile = kBlocks * kKeyBlock, kSinkTile = kBlocks * kSinkBlock;
  static constexpr int kQ = 0;
  static constexpr int kOut = kQ + kWorkers * kRowTile;
  static constexpr int kK = kOut + kWorkers * kRowTile;
  static constexpr int kV = kK + kStages * kKeyTile;
  static constexpr int kSinkK = kV + kStages * kKeyTile;
  static constexpr int kSinkV = kSinkK + 2 * kSinkTile;
  static constexpr int kBarriers = kSinkV + 2 * kSinkTile;
  static constexpr int kBytes = kBarriers + static_cast<int>(sizeof(uint64_t)) * (4 * kStages + 2 * kWorkers + 4) +
                                1024;  // the start is rounded up to 1024
};

struct ForwardMaps {
  CUtensorMap q, k, v, o, sink_k, sink_v;
};

// Barriers of the ring and of what is loaded once an item.
template <int kStages>
struct ForwardBarriers {
  uint64_t k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
  uint64_t q_full[kWorkers], q_empty[kWorkers];
  uint64_t sink_full[2], sink_empty[2];
};

// Named barriers: 0 is __syncthreads'.
constexpr int kWorkerBarrier = 1;           // and one more a warpgroup
constexpr int kTurnBarrier = 1 + kWorkers;  // and one more a warpgroup

// Scores of keys that this warpgroup's rows do not see become -inf. `key` is the row of column 0, `t` that of this
// thread's first query, the other is t + 8; rows before `end_of_sinks` are sinks.
template <int kColumns>
__device__ inline void Mask(const Sizes& s, int key, int t, int end_of_sinks, float (&scores)[kColumns / 2]) {
  const int pair = threadIdx.x % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int newest = t + 8 * half - key, sinks = end_of_sinks - key;
    const int oldest = s.window == 0 ? -key : newest - s.window + 1;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = 8 * j + pair + e;
        const bool visible = column <= newest && (column >= oldest || column < sinks);
        float& score = scores[4 * j + 2 * half + e];
        score = visible ? score : -kInfinity;
      }
    }
  }
}

// Scores become exp2(scale score - most); `most` and `sum` those of all keys so far, `sum` of this thread's columns
// only. `decay`: what earlier sums are to be multiplied by.
template <int kCount>
__device__ inline void Softmax(float scale, float (&scores)[kCount], float (&most)[2], float (&sum)[2],
                               float (&decay)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float highest = most[half];
#pragma unroll
    for (int j = 0; j < kCount / 4; ++j) {
      highest = fmaxf(highest, fmaxf(scores[4 * j + 2 * half], scores[4 * j + 2 * half + 1]));
    }
    highest = fmaxf(highest, XH_SHUFFLE_XOR(highest, 1));
    highest = fmaxf(highest, XH_SHUFFLE_XOR(highest, 2));
    // A row that has seen no key yet keeps its sums of zero.
    const float shift = highest == -kInfinity ? 0.0f : highest * scale;
    decay[half] = Exp2(most[half] * scale - shift);
    most[half] = highest;
    float added[2] = {0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < kCount / 4; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = scores[4 * j + 2 * half + e];
        score = Exp2(fmaf(score, scale, -shift));
        added[e] += score;
      }
    }
    sum[half] = sum[half] * decay[half] + (added[0] + added[1]);
  }
}

template <int kCount>
__device__ inline void ScaleAccumulators(const float (&by)[2], float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) d[i] *= by[i / 2 % 2];
}

template <int kDim, int kKeys>
class ForwardBlock {
 public:
  using Layout = ForwardLayout<kDim, kKeys>;
  using Pipeline = Ring<Layout::kStages>;
  static constexpr int kBlocks = Layout::kBlocks, kRowBlock = Layout::kRowBlock, kKeyBlock = Layout::kKeyBlock;

  __device__ ForwardBlock(char* unaligned, const ForwardMaps& maps, const ForwardArguments& a)
      : shared_(unaligned + (1024 - SharedAddress(unaligned) % 1024) % 1024),
        barriers_(*reinterpret_cast<ForwardBarriers<Layout::kStages>*>(shared_ + Layout::kBarriers)),
        maps_(maps),
        a_(a) {}

  // One thread.
  __device__ void InitBarriers() const {
    for (int i = 0; i < Layout::kStages; ++i) {
      BarrierInit(&barriers_.k_full[i], 1);
      BarrierInit(&barriers_.v_full[i], 1);
      BarrierInit(&barriers_.k_empty[i], kWorkerWarps);
      BarrierInit(&barriers_.v_empty[i], kWorkerWarps);
    }
    for (int i = 0; i < kWorkers; ++i) {
      BarrierInit(&barriers_.q_full[i], 1);
      BarrierInit(&barriers_.q_empty[i], kWorkerWarps / kWorkers);
    }
    for (int i = 0; i < 2; ++i) {
      BarrierInit(&barriers_.sink_full[i], 1);
      BarrierInit(&barriers_.sink_empty[i], kWorkerWarps);
    }
    BarrierInitFence();
  }

  // One thread: brings all tiles, in the order in which they are used.
  __device__ void Feed() const {
    uint32_t n = 0, round = 0, sink_round = 0;
    for (int index = blockIdx.x; index < a_.items.count; index += gridDim.x, ++round) {
      const Item item(a_.sizes, a_.items, index, kKeys);
      for (int tile = 0; tile < item.tiles; ++tile, ++n) {
        const int stage = Pipeline::Stage(n), key = item.first + tile * kKeys;
        BarrierWait(&barriers_.k_empty[stage], Pipeline::Parity(n) ^ 1);
        LoadTile(Tile(Layout::kK, stage, Layout::kKeyTile), maps_.k, kKeyBlock, key, item.kv_head, item.b,
                 &barriers_.k_full[stage]);
        if (tile == 0) {
          for (int w = 0; w < kWorkers; ++w) {
            BarrierWait(&barriers_.q_empty[w], (round & 1) ^ 1);
            LoadTile(Tile(Layout::kQ, w, Layout::kRowTile), maps_.q, kRowBlock, item.t + w * item.t_step,
                     item.head + w * item.head_step, item.b, &barriers_.q_full[w]);
          }
          if (item.sinks > 0) {
            const int buffer = sink_round % 2;
            BarrierWait(&barriers_.sink_empty[buffer], (sink_round / 2 & 1) ^ 1);
            BarrierExpect(&barriers_.sink_full[buffer], 2 * Layout::kSinkTile);
            for (int i = 0; i < kBlocks; ++i) {
              LoadBox(Tile(Layout::kSinkK, buffer, Layout::kSinkTile) + i * Layout::kSinkBlock, maps_.sink_k, 64 * i, 0,
                      item.kv_head, item.b, &barriers_.sink_full[buffer]);
              LoadBox(Tile(Layout::kSinkV, buffer, Layout::kSinkTile) + i * Layout::kSinkBlock, maps_.sink_v, 64 * i, 0,
                      item.kv_head, item.b, &barriers_.sink_full[buffer]);
            }
            ++sink_round;
          }
        }
        BarrierWait(&barriers_.v_empty[stage], Pipeline::Parity(n) ^ 1);
        LoadTile(Tile(Layout::kV, stage, Layout::kKeyTile), maps_.v, kKeyBlock, key, item.kv_head, item.b,
                 &barriers_.v_full[stage]);
      }
    }
  }

  // A warpgroup.
  __device__ void Work(int worker) const {
    const Sizes& s = a_.sizes;
    const int lane = threadIdx.x % 32, row = threadIdx.x % kWarpgroup / 32 * 16 + lane / 4;
    const float scale = s.scale * kLog2E;
    const char* const q_tile = Tile(Layout::kQ, worker, Layout::kRowTile);
    uint32_t n = 0, round = 0, sink_round = 0;
    if (worker > 0) NamedArrive(kTurnBarrier, kWorkers * kWarpgroup);  // the first turn is the first warpgroup's

    for (int index = blockIdx.x; index < a_.items.count; index += gridDim.x, ++round) {
      const Item item(s, a_.items, index, kKeys);
      const int t = item.t + worker * item.t_step + item.shift, end_of_sinks = s.sinks + item.offset;
      float scores[kKeys / 2], out[kDim / 2] = {};
      float most[2] = {-kInfinity, -kInfinity}, sum[2] = {0.0f, 0.0f}, decay[2];
      uint32_t weights[kKeys / 16][4], held[kDim / 16][4];

      // The first tile, and the sinks.
      BarrierWait(&barriers_.q_full[worker], round & 1);
      if constexpr (Layout::kHoldsQueries) {
        LoadRows<kDim>(q_tile, held);
        WarpArrive(&barriers_.q_empty[worker]);
      }
      float sink_scores[kSinkRows / 2] = {};
      const int buffer = sink_round % 2;
      if (item.sinks > 0) BarrierWait(&barriers_.sink_full[buffer], sink_round / 2 & 1);
      BarrierWait(&barriers_.k_full[Pipeline::Stage(n)], Pipeline::Parity(n));
      Hold(sink_scores);
      Hold(scores);
      if (item.sinks > 0) {
        ProductFence();
        Score<kSinkRows>(q_tile, held, Tile(Layout::kSinkK, buffer, Layout::kSinkTile), sink_scores);
      }
      ProductFence();
      Score<kKeys>(q_tile, held, Tile(Layout::kK, Pipeline::Stage(n), Layout::kKeyTile), scores);
      ProductCommit();
      ProductWait<0>();
      Hold(scores);
      WarpArrive(&barriers_.k_empty[Pipeline::Stage(n)]);
      Hold(sink_scores);
      if (item.sinks > 0) {
#pragma unroll
        for (int i = 0; i < kSinkRows / 2; ++i) {
          const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
          sink_scores[i] = column < item.sinks ? sink_scores[i] : -kInfinity;
        }
        Softmax(scale, sink_scores, most, sum, decay);
      }
      MaskEdges(item.first, t, row, end_of_sinks, scores);
      Softmax(scale, scores, most, sum, decay);
      if (item.sinks > 0) {
        ScaleAccumulators(decay, sink_scores);
        uint32_t sink_weights[4];
        PackA(sink_scores, 0, sink_weights);
        Hold(out);
        ProductFence();
        Product<kDim>::template Registers<1>(
            out, sink_weights, ColumnOperand(Tile(Layout::kSinkV, buffer, Layout::kSinkTile), Layout::kSinkBlock, 0, 0),
            1);
        ProductCommit();
        ProductWait<0>();
        Hold(out);
        WarpArrive(&barriers_.sink_empty[buffer]);
        ++sink_round;
      }
#pragma unroll
      for (int k = 0; k < kKeys / 16; ++k) PackA(scores, k, weights[k]);

      // The scores of a tile, then the values of the tile before it.
      for (int tile = 1; tile < item.tiles; ++tile) {
        const int v_stage = Pipeline::Stage(n);
        const uint32_t v_parity = Pipeline::Parity(n);
        ++n;
        const int stage = Pipeline::Stage(n);
        BarrierWait(&barriers_.k_full[stage], Pipeline::Parity(n));
        // Turns: while one warpgroup's products run, the other takes exponentials.
        NamedBarrier(kTurnBarrier + worker, kWorkers * kWarpgroup);
        Hold(scores);
        Hold(out);
        ProductFence();
        Score<kKeys>(q_tile, held, Tile(Layout::kK, stage, Layout::kKeyTile), scores);
        ProductCommit();
        BarrierWait(&barriers_.v_full[v_stage], v_parity);
        ProductFence();  // needed again after a wait
        AddValues(v_stage, weights, out);
        ProductCommit();
        NamedArrive(kTurnBarrier + (worker + 1) % kWorkers, kWorkers * kWarpgroup);
        ProductWait<1>();
        Hold(scores);
        WarpArrive(&barriers_.k_empty[stage]);
        MaskEdges(item.first + tile * kKeys, t, row, end_of_sinks, scores);
        Softmax(scale, scores, most, sum, decay);
        ProductWait<0>();
        Hold(out);
        WarpArrive(&barriers_.v_empty[v_stage]);
#pragma unroll
        for (int k = 0; k < kKeys / 16; ++k) PackA(scores, k, weights[k]);
        ScaleAccumulators(decay, out);
      }
      if constexpr (!Layout::kHoldsQueries) WarpArrive(&barriers_.q_empty[worker]);
      const int stage = Pipeline::Stage(n);
      BarrierWait(&barriers_.v_full[stage], Pipeline::Parity(n));
      ++n;
      Hold(out);
      ProductFence();
      AddValues(stage, weights, out);
      ProductCommit();
      ProductWait<0>();
      Hold(out);
      WarpArrive(&barriers_.v_empty[stage]);
      Finish(item, worker, row, scale, most, sum, out);
    }
    if (threadIdx.x % kWarpgroup == 0) StoreWait();
  }

 private:
  __device__ char* Tile(int part, int index, int bytes) const { return shared_ + part + index * bytes; }

  // All column blocks of a tile at token (or key) t.
  __device__ void LoadTile(char* tile, const CUtensorMap& map, int block_bytes, int t, int head, int b,
                           uint64_t* barrier) const {
    BarrierExpect(barrier, kBlocks * block_bytes);
    for (int i = 0; i < kBlocks; ++i) LoadBox(tile + i * block_bytes, map, 64 * i, t, head, b, barrier);
  }

  // Issues scores = Q K^T.
  template <int kColumns>
  __device__ void Score(const char* q_tile, const uint32_t (&held)[kDim / 16][4], const char* k_tile,
                        float (&scores)[kColumns / 2]) const {
    const uint64_t queries = Opaque(RowOperand(q_tile, kRowBlock, 0, 0));
    const uint64_t first_keys = Opaque(RowOperand(k_tile, kColumns * 128, 0, 0));
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      const uint64_t keys = first_keys + RowStep(kColumns * 128, 16 * k);
      if constexpr (Layout::kHoldsQueries) {
        Product<kColumns>::template Registers<0>(scores, held[k], keys, k > 0);
      } else {
        Product<kColumns>::template Shared<0, 0>(scores, queries + RowStep(kRowBlock, 16 * k), keys, k > 0);
      }
    }
  }

  // Issues out += P V.
  __device__ void AddValues(int stage, const uint32_t (&weights)[kKeys / 16][4], float (&out)[kDim / 2]) const {
    const uint64_t values = Opaque(ColumnOperand(Tile(Layout::kV, stage, Layout::kKeyTile), kKeyBlock, 0, 0));
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      Product<kDim>::template Registers<1>(out, weights[k], values + ColumnStep(16 * k), 1);
    }
  }

  // Only tiles on the diagonal or at the far edge of the window of any of the rows from token t on.
  __device__ void MaskEdges(int key, int t, int row, int end_of_sinks, float (&scores)[kKeys / 2]) const {
    if (key + kKeys - 1 <= t && key >= a_.sizes.Oldest(t + kRows - 1)) return;
    Mask<kKeys>(a_.sizes, key, t + row, end_of_sinks, scores);
  }

  __device__ void Finish(const Item& item, int worker, int row, float scale, const float (&most)[2], float (&sum)[2],
                         const float (&out)[kDim / 2]) const {
    const Sizes& s = a_.sizes;
    const int t = item.t + worker * item.t_step, head = item.head + worker * item.head_step, lane = threadIdx.x % 32;
    const bool leader = threadIdx.x % kWarpgroup == 0;
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum[half] += XH_SHUFFLE_XOR(sum[half], 1);
      sum[half] += XH_SHUFFLE_XOR(sum[half], 2);
      inverse[half] = 1.0f / sum[half];
      const int at = t + row + 8 * half;
      if (a_.log_sums != nullptr && lane % 4 == 0 && at < s.tokens) {
        a_.log_sums[(static_cast<int64_t>(item.b) * s.heads + head) * s.tokens + at] =
            (most[half] * scale + Log2(sum[half])) * kLn2;
      }
    }
    char* const tile = Tile(Layout::kOut, worker, Layout::kRowTile);
    if (leader) StoreWaitRead<0>();  // the item before has left the tile
    NamedBarrier(kWorkerBarrier + worker, kWarpgroup);
    StoreTile<kDim>(out, inverse, tile);
    FenceForAsync();
    NamedBarrier(kWorkerBarrier + worker, kWarpgroup);
    if (leader) {
      for (int i = 0; i < kBlocks; ++i) StoreBox(maps_.o, tile + i * kRowBlock, 64 * i, t, head, item.b);
      StoreCommit();
    }
  }

  char* shared_;
  ForwardBarriers<Layout::kStages>& barriers_;
  const ForwardMaps& maps_;
  const ForwardArguments& a_;
};

template <int kDim, int kKeys>
__global__ void __launch_bounds__(kBlockThreads, 1)
    ForwardKernel(const __grid_constant__ ForwardMaps maps, const __grid_constant__ ForwardArguments a) {
  extern __shared__ char unaligned[];
  if (a.sizes.position != nullptr) {  // a stage before has reported it
    View<const int32_t> position;
    position.data = a.sizes.position;
    position.stride[0] = a.sizes.position_stride;
    if (!PositionsFit(position, a.sizes.batch, a.sizes.most_position, false, {})) return;
  }
  const ForwardBlock<kDim, kKeys> block(unaligned, maps, a);
  if (threadIdx.x == 0) block.InitBarriers();
  __syncthreads();
  // The same for a whole warp, and known to be.
  const int worker = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  if (worker == kWorkers) {
    GiveRegisters<kFeederRegisters>();
    if (threadIdx.x % kWarpgroup == 0) block.Feed();
  } else {
    TakeRegisters<kWorkerRegisters>();
    block.Work(worker);
  }
}

template <int kDim, int kKeys>
class ForwardPlan final : public Plan {
 public:
  using Layout = ForwardLayout<kDim, kKeys>;

  ForwardPlan(const Shape& shape, const Request& request, std::unique_ptr<Plan> plain)
      : shape_(shape),
        sizes_(Sizes::Of(shape)),
        items_(Items::Of(sizes_, kDim)),
        saves_(request.pass == XH_FORWARD),
        grid_(std::min(items_.count, request.facts->multiprocessors)),
        plain_(std::move(plain)) {
    // Either may run: pointers that the copy engine cannot take are known only then.
    if (IsStaged()) staged_ = ReserveStaged(shape_, &workspace_bytes);
    workspace_bytes = std::max(workspace_bytes, plain_->workspace_bytes);
    saved_bytes = plain_->saved_bytes;
    implementation = "wgmma";
  }

  static Refusal Allow(const Facts& facts) { return AllowShared(ForwardKernel<kDim, kKeys>, Layout::kBytes, facts); }

  void Run(const Launch& launch) const override {
    if (!Aligned(launch, {kQ, kK, kV, kO}) || (shape_.cached && !StagesInPacks(launch.args))) {
      return plain_->Run(launch);
    }
    ForwardArguments a = {sizes_, items_, saves_ ? Part<float>(launch.saved, 0) : nullptr};
    xh_tensor k = launch.args[kK], v = launch.args[kV], sink_k = k, sink_v = v;
    if (shape_.cached) {
      a.sizes.position = static_cast<const int32_t*>(launch.args[kPosition].data);
      a.sizes.position_stride = launch.args[kPosition].stride[0];
      if (IsStaged()) StageKeys(shape_, staged_, launch);
      KeepKeys(shape_, IsStaged() ? 0 : kKeys, launch);
      k = KeysOf(launch, kCacheK, staged_.keys);
      v = KeysOf(launch, kCacheV, staged_.values);
      sink_k = SinksOf(launch, staged_.sink_keys, k);
      sink_v = SinksOf(launch, staged_.sink_values, v);
    }
    const ForwardMaps maps = {
        MakeTensorMap(launch.args[kQ], kRows), MakeTensorMap(k, kKeys),          MakeTensorMap(v, kKeys),
        MakeTensorMap(launch.args[kO], kRows), MakeTensorMap(sink_k, kSinkRows), MakeTensorMap(sink_v, kSinkRows)};
    ForwardKernel<kDim, kKeys><<<static_cast<unsigned>(grid_), kBlockThreads, Layout::kBytes, launch.stream>>>(maps, a);
  }

 private:
  bool IsStaged() const { return shape_.cached && sizes_.window > 0; }

  // [B,KV,rows,d] of a workspace.
  xh_tensor InWorkspace(const Launch& launch, int64_t offset, int64_t rows) const {
    xh_tensor tensor = launch.args[kK];
    tensor.data = launch.workspace + offset;
    tensor.shape[2] = rows;
    tensor.stride[0] = shape_.kv_heads * rows * kDim;
    tensor.stride[1] = rows * kDim;
    tensor.stride[2] = kDim;
    return tensor;
  }
  xh_tensor KeysOf(const Launch& launch, int cache, int64_t staged) const {
    if (IsStaged()) return InWorkspace(launch, staged, sizes_.window + shape_.tokens);
    xh_tensor tensor = launch.args[kK];  // the cache, [B, KV * capacity, d], as [B,KV,capacity,d]
    const int64_t* const stride = launch.args[cache].stride;
    tensor.data = launch.args[cache].data;
    tensor.shape[2] = shape_.capacity;
    tensor.stride[0] = stride[0];
    tensor.stride[1] = shape_.capacity * stride[1];
    tensor.stride[2] = stride[1];
    return tensor;
  }
  xh_tensor SinksOf(const Launch& launch, int64_t staged, const xh_tensor& otherwise) const {
    return IsStaged() && sizes_.sinks > 0 ? InWorkspace(launch, staged, sizes_.sinks) : otherwise;
  }

  Shape shape_;
  Sizes sizes_;
  Items items_;
  bool saves_;
  int grid_;
  Staged staged_ = {};
  std::unique_ptr<Plan> plain_;
};

template <int kDim, int kKeys>
std::unique_ptr<Plan> Make(const Shape& shape, const Request& request) {
  if (ForwardPlan<kDim, kKeys>::Allow(*request.facts).code != 0) return nullptr;
  return std::make_unique<ForwardPlan<kDim, kKeys>>(shape, request, MakeAttentionPlainForward(shape, request));
}

// The copy engine maps q, k, v and the output or the gradients, and the sizes are among the instances.
bool Applies(const Shape& s, const Request& request) {
  constexpr int64_t kMostTokens = 1 << 30, kMostRows = int64_t{1} << 36;
  if (!request.facts->wgmma || s.dtype != XH_BF16 || (s.dim != 64 && s.dim != 128)) return false;
  if (s.documents || s.batch == 0 || s.tokens == 0) return false;
  if (s.cached && (s.windows.at[0] > kMostTokens || s.capacity > kMostTokens)) return false;
  if (s.cached && s.windows.at[0] == 0 && s.capacity < s.tokens) return false;
  if (s.tokens > kMostTokens || s.pairs() * s.tokens > kMostRows) return false;  // indices of 32 bits
  if (!(s.scale > 0.0f) || !std::isfinite(s.scale)) return false;                // the largest score is the largest q.k
  for (int64_t j = 1; j < s.kv_heads; ++j) {
    if (s.windows.at[j] != s.windows.at[0]) return false;
  }
  if (Sizes::Of(s).sinks > kSinkRows) return false;
  for (const int slot : {kQ, kK, kV, kO}) {
    if (!sm90::MapsTensor(request.args[slot])) return false;
  }
  if (request.pass != XH_BACKWARD) return true;
  for (const int slot : {kDq, kDk, kDv}) {
    if (Present(request.args[slot]) && !sm90::MapsTensor(request.args[slot])) return false;
  }
  return sm90::MapsTensor(request.args[kDo]);
}

}  // namespace

std::unique_ptr<Plan> MakeForwardSm90(const Shape& shape, const Request& request) {
  // Short tiles visit fewer keys outside of a window, long ones keep the tensor cores busier.
  constexpr int kLongWindow = 2048;
  const int window = Sizes::Of(shape).window;
  const bool long_tiles = window == 0 || window >= kLongWindow;
  if (shape.dim == 64) return long_tiles ? Make<64, 128>(shape, request) : Make<64, 64>(shape, request);
  return long_tiles ? Make<128, 128>(shape, request) : Make<128, 64>(shape, request);
}

std::unique_ptr<Plan> MakeAttentionSm90(const Shape& shape, const Request& request) {
  if (!Applies(shape, request)) return nullptr;
  return request.pass == XH_BACKWARD ? MakeBackwardSm90(shape, request) : MakeForwardSm90(shape, request);
}

}  // namespace xh::gpu::attention
