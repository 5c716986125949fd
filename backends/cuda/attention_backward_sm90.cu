// ATTENTION on Hopper, BACKWARD: scores computed again from the saved log sums. With p = exp(score - log sum),
//   dv_s = sum_t p_ts do_t         e_ts = p_ts (do_t.v_s - do_t.o_t)
//   dq_t = scale sum_s e_ts k_s    dk_s = scale sum_t e_ts q_t
// One kernel makes dk and dv, a block of keys visiting the queries of its group that see it; another dq, a block of
// queries visiting its keys. Nobody adds to another's sums, so that every run gives the same bits. What queries beyond
// the window give to the sinks is summed by segments of queries first, and added in order.
#include "backends/cuda/attention_sm90.cuh"

namespace xh::gpu::attention {
namespace {

using namespace sm90;

// What BACKWARD needs to know of a query besides its rows, for each tile of 64 queries of a head: the log sums, base 2,
// then do.o. Queries past the end have an infinite sum: no key has weight for them.
constexpr int kTileStats = 2 * kRows;

struct Stats {
  float* data;
  int tiles;  // of a head

  __device__ float* Tile(int64_t pair, int tile) const { return data + (pair * tiles + tile) * kTileStats; }
};

constexpr int kStatsThreads = 256;

// kDim / 8 lanes a row.
template <int kDim>
__global__ void __launch_bounds__(kStatsThreads)
    StatsKernel(Sizes s, View<const bf16> o, View<const bf16> d_out, const float* log_sums, Stats stats) {
  constexpr int kLanes = kDim / 8;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kStatsThreads + threadIdx.x) / kLanes;
  const int64_t padded = static_cast<int64_t>(stats.tiles) * kRows, pair = row / padded;
  const int t = static_cast<int>(row % padded), column = static_cast<int>(threadIdx.x) % kLanes * 8;
  if (pair >= static_cast<int64_t>(s.batch) * s.heads) return;  // whole warps: padded rows are a multiple of a block's
  float sum = 0.0f, log_sum = kInfinity;
  if (t < s.tokens) {
    const uint4 a = *reinterpret_cast<const uint4*>(o.At(pair / s.heads, pair % s.heads, t) + column);
    const uint4 b = *reinterpret_cast<const uint4*>(d_out.At(pair / s.heads, pair % s.heads, t) + column);
    const uint32_t x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 u = UnpackPair(x[i]), w = UnpackPair(y[i]);
      sum += u.x * w.x + u.y * w.y;
    }
    log_sum = log_sums[pair * s.tokens + t] * kLog2E;
  }
#pragma unroll
  for (int mask = kLanes / 2; mask > 0; mask /= 2) sum += XH_SHUFFLE_XOR(sum, mask);
  if (column != 0) return;
  float* const tile = stats.Tile(pair, t / kRows);
  tile[t % kRows] = log_sum;
  tile[kRows + t % kRows] = sum;
}

// A tile's rows to global memory, by a warpgroup.
template <int kDim>
__device__ inline void StoreRows(const char* tile, bf16* to, int64_t row_stride, int rows, bool accumulate) {
  constexpr int kPieces = kDim / 8;  // of 16 bytes, a row
  const int thread = Opaque(static_cast<int>(threadIdx.x)) % kWarpgroup;
#pragma unroll 4
  for (int i = 0; i < kRows * kPieces / kWarpgroup; ++i) {
    const int at = thread + i * kWarpgroup, row = at / kPieces, piece = at % kPieces;
    if (row >= rows) continue;
    uint4 value = *reinterpret_cast<const uint4*>(tile + piece / 8 * kRows * 128 + TileOffset(row, piece % 8 * 8));
    uint4* const place = reinterpret_cast<uint4*>(to + row * row_stride + piece * 8);
    if (accumulate) {
      const uint4 before = *place;
      const auto sum = [](uint32_t a, uint32_t b) {
        const float2 x = UnpackPair(a), y = UnpackPair(b);
        return PackPair(x.x + y.x, x.y + y.y);
      };
      value = {sum(value.x, before.x), sum(value.y, before.y), sum(value.z, before.z), sum(value.w, before.w)};
    }
    *place = value;
  }
}

// All column blocks of a tile of `rows` at token (or key) t; the barrier expects them, and `more` bytes.
template <int kDim>
__device__ inline void LoadTile(char* tile, const CUtensorMap& map, int rows, int t, int head, int b, uint64_t* barrier,
                                int more = 0) {
  BarrierExpect(barrier, kDim / 64 * rows * 128 + more);
  for (int i = 0; i < kDim / 64; ++i) LoadBox(tile + i * rows * 128, map, 64 * i, t, head, b, barrier);
}

struct BackwardMaps {
  CUtensorMap q, k, v, d_out, sink_k, sink_v;
};

__device__ inline char* AlignTiles(char* unaligned) {
  return unaligned + (1024 - SharedAddress(unaligned) % 1024) % 1024;
}
constexpr int kWorkerBarrier = 1;  // named barriers: and one more a warpgroup

// ---- dq ----

struct QueryArguments {
  Sizes sizes;
  Items items;
  Stats stats;
  View<bf16> dq;
  bool accumulate;
};

constexpr int kKeys = 64;  // of a tile

template <int kDim>
struct QueryLayout {
  static constexpr int kStages = kDim == 128 ? 3 : 4;
  static constexpr int kTile = kRows * kDim * 2, kSinkTile = kSinkRows * kDim * 2;
  static constexpr int kQ = 0, kDo = kQ + kWorkers * kTile, kOut = kDo + kWorkers * kTile;
  static constexpr int kK = kOut + kWorkers * kTile, kV = kK + kStages * kTile;
  static constexpr int kSinkK = kV + kStages * kTile, kSinkV = kSinkK + 2 * kSinkTile;
  static constexpr int kBarriers = kSinkV + 2 * kSinkTile;
  static constexpr int kBytes = kBarriers + 8 * (4 * kStages + 2 * kWorkers + 4) + 1024;  // the start is rounded up
};

template <int kStages>
struct QueryBarriers {
  uint64_t k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
  uint64_t rows_full[kWorkers], rows_empty[kWorkers];  // q and do
  uint64_t sink_full[2], sink_empty[2];
};

template <int kDim>
class QueryBlock {
 public:
  using Layout = QueryLayout<kDim>;
  using Pipeline = Ring<Layout::kStages>;

  __device__ QueryBlock(char* shared, const BackwardMaps& maps, const QueryArguments& a)
      : shared_(shared),
        barriers_(*reinterpret_cast<QueryBarriers<Layout::kStages>*>(shared + Layout::kBarriers)),
        maps_(maps),
        a_(a) {}

  __device__ void InitBarriers() const {
    for (int i = 0; i < Layout::kStages; ++i) {
      BarrierInit(&barriers_.k_full[i], 1);
      BarrierInit(&barriers_.v_full[i], 1);
      BarrierInit(&barriers_.k_empty[i], kWorkerWarps);
      BarrierInit(&barriers_.v_empty[i], kWorkerWarps);
    }
    for (int i = 0; i < kWorkers; ++i) {
      BarrierInit(&barriers_.rows_full[i], 1);
      BarrierInit(&barriers_.rows_empty[i], kWorkerWarps / kWorkers);
    }
    for (int i = 0; i < 2; ++i) {
      BarrierInit(&barriers_.sink_full[i], 1);
      BarrierInit(&barriers_.sink_empty[i], kWorkerWarps);
    }
    BarrierInitFence();
  }

  __device__ void Feed() const {
    uint32_t n = 0, round = 0, sink_round = 0;
    for (int index = blockIdx.x; index < a_.items.count; index += gridDim.x, ++round) {
      const Item item(a_.sizes, a_.items, index, kKeys);
      for (int tile = 0; tile < item.tiles; ++tile, ++n) {
        const int stage = Pipeline::Stage(n), key = item.first + tile * kKeys;
        BarrierWait(&barriers_.k_empty[stage], Pipeline::Parity(n) ^ 1);
        LoadTile<kDim>(Tile(Layout::kK, stage), maps_.k, kKeys, key, item.kv_head, item.b, &barriers_.k_full[stage]);
        BarrierWait(&barriers_.v_empty[stage], Pipeline::Parity(n) ^ 1);
        LoadTile<kDim>(Tile(Layout::kV, stage), maps_.v, kKeys, key, item.kv_head, item.b, &barriers_.v_full[stage]);
        if (tile != 0) continue;
        for (int w = 0; w < kWorkers; ++w) {
          const int t = item.t + w * item.t_step, head = item.head + w * item.head_step;
          BarrierWait(&barriers_.rows_empty[w], (round & 1) ^ 1);
          BarrierExpect(&barriers_.rows_full[w], 2 * Layout::kTile);
          for (int i = 0; i < kDim / 64; ++i) {
            LoadBox(Tile(Layout::kQ, w) + i * kRows * 128, maps_.q, 64 * i, t, head, item.b, &barriers_.rows_full[w]);
            LoadBox(Tile(Layout::kDo, w) + i * kRows * 128, maps_.d_out, 64 * i, t, head, item.b,
                    &barriers_.rows_full[w]);
          }
        }
        if (item.sinks == 0) continue;
        const int buffer = sink_round % 2;
        BarrierWait(&barriers_.sink_empty[buffer], (sink_round / 2 & 1) ^ 1);
        BarrierExpect(&barriers_.sink_full[buffer], 2 * Layout::kSinkTile);
        for (int i = 0; i < kDim / 64; ++i) {
          LoadBox(SinkTile(Layout::kSinkK, buffer) + i * kSinkRows * 128, maps_.sink_k, 64 * i, 0, item.kv_head, item.b,
                  &barriers_.sink_full[buffer]);
          LoadBox(SinkTile(Layout::kSinkV, buffer) + i * kSinkRows * 128, maps_.sink_v, 64 * i, 0, item.kv_head, item.b,
                  &barriers_.sink_full[buffer]);
        }
        ++sink_round;
      }
    }
  }

  __device__ void Work(int worker) const {
    const Sizes& s = a_.sizes;
    const int lane = threadIdx.x % 32, row = threadIdx.x % kWarpgroup / 32 * 16 + lane / 4;
    const float scale = s.scale * kLog2E;
    const char* const do_tile = Tile(Layout::kDo, worker);
    uint32_t n = 0, round = 0, sink_round = 0;

    for (int index = blockIdx.x; index < a_.items.count; index += gridDim.x, ++round) {
      const Item item(s, a_.items, index, kKeys);
      const int t = item.t + worker * item.t_step, head = item.head + worker * item.head_step;
      const int64_t pair = static_cast<int64_t>(item.b) * s.heads + head;
      float log_sum[2] = {kInfinity, kInfinity}, product[2] = {0.0f, 0.0f};
      if (t < s.tokens) {
        const float* const stats = a_.stats.Tile(pair, t / kRows);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          log_sum[half] = stats[row + 8 * half];
          product[half] = stats[kRows + row + 8 * half];
        }
      }
      // Errors come in the place of scores: exp2(scale score - log sum) (do.v - do.o), zero where hidden.
      const auto errors = [&](auto& scores, const auto& values, auto visible) {
        constexpr int kCount = sizeof(scores) / sizeof(scores[0]);
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          const int half = i / 2 % 2;
          const float weight = Exp2(fmaf(scores[i], scale, -log_sum[half]));
          const float error = weight * (values[i] - product[half]);
          scores[i] = visible(i / 4 * 8 + lane % 4 * 2 + i % 2, half) ? error : 0.0f;
        }
      };
      const auto tile_errors = [&](int key, float(&scores)[kKeys / 2], const float(&values)[kKeys / 2]) {
        if (key + kKeys - 1 <= t && key >= s.Oldest(t + kRows - 1)) {
          errors(scores, values, [](int, int) { return true; });
          return;
        }
        const int newest = t + row - key, oldest = s.window == 0 ? -key - 8 : newest - s.window + 1;
        const int sinks = s.sinks - key;
        errors(scores, values, [&](int column, int half) {
          return column <= newest + 8 * half && (column >= oldest + 8 * half || column < sinks);
        });
      };

      float scores[kKeys / 2], values[kKeys / 2], dq[kDim / 2] = {};
      uint32_t packed[kKeys / 16][4], held[kDim / 16][4];
      float sink_scores[kSinkRows / 2] = {}, sink_values[kSinkRows / 2] = {};
      const int buffer = sink_round % 2;

      BarrierWait(&barriers_.rows_full[worker], round & 1);
      LoadRows<kDim>(Tile(Layout::kQ, worker), held);
      if (item.sinks > 0) BarrierWait(&barriers_.sink_full[buffer], sink_round / 2 & 1);
      BarrierWait(&barriers_.k_full[Pipeline::Stage(n)], Pipeline::Parity(n));
      BarrierWait(&barriers_.v_full[Pipeline::Stage(n)], Pipeline::Parity(n));
      Hold(sink_scores);
      Hold(sink_values);
      Hold(scores);
      Hold(values);
      if (item.sinks > 0) {
        ProductFence();
        Score<kSinkRows>(held, SinkTile(Layout::kSinkK, buffer), sink_scores);
        DotValues<kSinkRows>(do_tile, SinkTile(Layout::kSinkV, buffer), sink_values);
      }
      ProductFence();
      Score<kKeys>(held, Tile(Layout::kK, Pipeline::Stage(n)), scores);
      DotValues<kKeys>(do_tile, Tile(Layout::kV, Pipeline::Stage(n)), values);
      ProductCommit();
      ProductWait<0>();
      Hold(sink_scores);
      Hold(sink_values);
      Hold(scores);
      Hold(values);
      WarpArrive(&barriers_.v_empty[Pipeline::Stage(n)]);
      if (item.sinks > 0) {
        errors(sink_scores, sink_values, [&](int column, int) { return column < item.sinks; });
        uint32_t sink_packed[4];
        PackA(sink_scores, 0, sink_packed);
        Hold(dq);
        ProductFence();
        Product<kDim>::template Registers<1>(dq, sink_packed,
                                             ColumnOperand(SinkTile(Layout::kSinkK, buffer), kSinkRows * 128, 0, 0), 1);
        ProductCommit();
        ProductWait<0>();
        Hold(dq);
        WarpArrive(&barriers_.sink_empty[buffer]);
        ++sink_round;
      }
      tile_errors(item.first, scores, values);
#pragma unroll
      for (int k = 0; k < kKeys / 16; ++k) PackA(scores, k, packed[k]);

      // Scores of a tile, then what the tile before it gives to dq.
      for (int tile = 1; tile < item.tiles; ++tile) {
        const int before = Pipeline::Stage(n);
        ++n;
        const int stage = Pipeline::Stage(n);
        BarrierWait(&barriers_.k_full[stage], Pipeline::Parity(n));
        BarrierWait(&barriers_.v_full[stage], Pipeline::Parity(n));
        Hold(scores);
        Hold(values);
        Hold(dq);
        ProductFence();
        Score<kKeys>(held, Tile(Layout::kK, stage), scores);
        DotValues<kKeys>(do_tile, Tile(Layout::kV, stage), values);
        ProductCommit();
        AddKeys(before, packed, dq);
        ProductCommit();
        ProductWait<1>();
        Hold(scores);
        Hold(values);
        WarpArrive(&barriers_.v_empty[stage]);
        tile_errors(item.first + tile * kKeys, scores, values);
        ProductWait<0>();
        Hold(dq);
        WarpArrive(&barriers_.k_empty[before]);
#pragma unroll
        for (int k = 0; k < kKeys / 16; ++k) PackA(scores, k, packed[k]);
      }
      WarpArrive(&barriers_.rows_empty[worker]);
      const int stage = Pipeline::Stage(n);
      ++n;
      Hold(dq);
      ProductFence();
      AddKeys(stage, packed, dq);
      ProductCommit();
      ProductWait<0>();
      Hold(dq);
      WarpArrive(&barriers_.k_empty[stage]);

      char* const out = Tile(Layout::kOut, worker);
      const float by[2] = {s.scale, s.scale};
      NamedBarrier(kWorkerBarrier + worker, kWarpgroup);  // the item before has been read
      StoreTile<kDim>(dq, by, out);
      NamedBarrier(kWorkerBarrier + worker, kWarpgroup);
      StoreRows<kDim>(out, a_.dq.At(item.b, head, t), a_.dq.stride[2], s.tokens - t, a_.accumulate);
    }
  }

 private:
  __device__ char* Tile(int part, int index) const { return shared_ + part + index * Layout::kTile; }
  __device__ char* SinkTile(int part, int index) const { return shared_ + part + index * Layout::kSinkTile; }

  // Issues scores = Q K^T.
  template <int kColumns>
  static __device__ void Score(const uint32_t (&held)[kDim / 16][4], const char* k_tile,
                               float (&scores)[kColumns / 2]) {
    const uint64_t keys = Opaque(RowOperand(k_tile, kColumns * 128, 0, 0));
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      Product<kColumns>::template Registers<0>(scores, held[k], keys + RowStep(kColumns * 128, 16 * k), k > 0);
    }
  }
  // Issues values = dO V^T.
  template <int kColumns>
  static __device__ void DotValues(const char* do_tile, const char* v_tile, float (&values)[kColumns / 2]) {
    const uint64_t d_outs = Opaque(RowOperand(do_tile, kRows * 128, 0, 0));
    const uint64_t value_rows = Opaque(RowOperand(v_tile, kColumns * 128, 0, 0));
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      Product<kColumns>::template Shared<0, 0>(values, d_outs + RowStep(kRows * 128, 16 * k),
                                               value_rows + RowStep(kColumns * 128, 16 * k), k > 0);
    }
  }
  // Issues dq += E K.
  __device__ void AddKeys(int stage, const uint32_t (&packed)[kKeys / 16][4], float (&dq)[kDim / 2]) const {
    const uint64_t keys = Opaque(ColumnOperand(Tile(Layout::kK, stage), kKeys * 128, 0, 0));
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      Product<kDim>::template Registers<1>(dq, packed[k], keys + ColumnStep(16 * k), 1);
    }
  }

  char* shared_;
  QueryBarriers<Layout::kStages>& barriers_;
  const BackwardMaps& maps_;
  const QueryArguments& a_;
};

// ---- dk and dv ----

// Key blocks of 128, 64 a warpgroup; in the pass over sinks, segments of the queries that see sinks beyond their
// window.
struct KeyItems {
  static constexpr int kSegmentTiles = 16;
  int count, blocks, streams;  // streams: key/value heads of all sequences

  static KeyItems OfKeys(const Sizes& s) {
    const int blocks = (s.tokens + 2 * kRows - 1) / (2 * kRows), streams = s.batch * s.kv_heads;
    return {blocks * streams, blocks, streams};
  }
  static KeyItems OfSinks(const Sizes& s) {
    const int tiles = (s.tokens + kRows - 1) / kRows - s.window / kRows, streams = s.batch * s.kv_heads;
    const int segments = s.sinks == 0 ? 0 : (tiles + kSegmentTiles - 1) / kSegmentTiles;
    return {segments * streams, segments, streams};
  }
};

// For a stream, f32: dk of the sinks, [16][d], not yet scaled, then dv.
struct SinkSums {
  float* data;
  int dim;

  __host__ __device__ int64_t Floats() const { return 2 * kSinkRows * dim; }
  __device__ float* At(int64_t index) const { return data + index * Floats(); }
};

struct KeyArguments {
  Sizes sizes;
  KeyItems items;
  Stats stats;
  View<bf16> dk, dv;
  bool add_k, add_v;
  SinkSums sinks;  // of the streams, or no data; in the pass over sinks, of its items and warpgroups
};

// Query tiles that an item visits, for every head of the group.
struct KeyItem {
  int b, kv_head;
  int key, key_step;  // the first of the first warpgroup; from it to the second's
  int from, to;       // tiles

  template <bool kSinks>
  static __device__ KeyItem Of(const Sizes& s, const KeyItems& items, int index) {
    // Without a window the first keys have the most queries: they go first.
    const bool by_block = !kSinks && s.window == 0;
    const int stream = by_block ? index % items.streams : index / items.blocks;
    const int block = by_block ? index / items.streams : index % items.blocks;
    const int tiles = (s.tokens + kRows - 1) / kRows;
    KeyItem item;
    item.b = stream / s.kv_heads;
    item.kv_head = stream % s.kv_heads;
    if (kSinks) {
      item.key = item.key_step = 0;
      item.from = s.window / kRows + block * KeyItems::kSegmentTiles;
      item.to = min(tiles, item.from + KeyItems::kSegmentTiles);
    } else {
      item.key = block * 2 * kRows;
      item.key_step = kRows;
      item.from = item.key / kRows;
      item.to = s.window == 0 ? tiles : min(tiles, (item.key + 2 * kRows - 1 + s.window - 1) / kRows + 1);
    }
    return item;
  }
};

template <int kDim>
struct KeyLayout {
  static constexpr int kStages = kDim == 128 ? 3 : 4;
  static constexpr int kTile = kRows * kDim * 2, kStatsBytes = kTileStats * 4;
  static constexpr int kK = 0, kV = kK + kWorkers * kTile, kOut = kV + kWorkers * kTile;
  static constexpr int kQ = kOut + kWorkers * kTile, kDo = kQ + kStages * kTile;
  static constexpr int kStats = kDo + kStages * kTile, kBarriers = kStats + kStages * kStatsBytes;
  static constexpr int kBytes = kBarriers + 8 * (3 * kStages + 2 * kWorkers) + 1024;  // the start is rounded up
};

template <int kStages>
struct KeyBarriers {
  uint64_t q_full[kStages], do_full[kStages], empty[kStages];
  uint64_t keys_full[kWorkers], keys_empty[kWorkers];
};

template <int kDim, bool kSinks>
class KeyBlock {
 public:
  using Layout = KeyLayout<kDim>;
  using Pipeline = Ring<Layout::kStages>;

  __device__ KeyBlock(char* shared, const BackwardMaps& maps, const KeyArguments& a)
      : shared_(shared),
        barriers_(*reinterpret_cast<KeyBarriers<Layout::kStages>*>(shared + Layout::kBarriers)),
        maps_(maps),
        a_(a) {}

  __device__ void InitBarriers() const {
    for (int i = 0; i < Layout::kStages; ++i) {
      BarrierInit(&barriers_.q_full[i], 1);
      BarrierInit(&barriers_.do_full[i], 1);
      BarrierInit(&barriers_.empty[i], kWorkerWarps);
    }
    for (int i = 0; i < kWorkers; ++i) {
      BarrierInit(&barriers_.keys_full[i], 1);
      BarrierInit(&barriers_.keys_empty[i], kWorkerWarps / kWorkers);
    }
    BarrierInitFence();
  }

  __device__ void Feed() const {
    const Sizes& s = a_.sizes;
    uint32_t n = 0, round = 0;
    for (int index = blockIdx.x; index < a_.items.count; index += gridDim.x, ++round) {
      const KeyItem item = KeyItem::Of<kSinks>(s, a_.items, index);
      for (int i = 0; i < s.group; ++i) {
        const int head = item.kv_head * s.group + i;
        for (int tile = item.from; tile < item.to; ++tile, ++n) {
          const int stage = Pipeline::Stage(n), t = tile * kRows;
          BarrierWait(&barriers_.empty[stage], Pipeline::Parity(n) ^ 1);
          LoadTile<kDim>(Tile(Layout::kQ, stage), maps_.q, kRows, t, head, item.b, &barriers_.q_full[stage],
                         Layout::kStatsBytes);
          LoadBytes(StageStats(stage), a_.stats.Tile(static_cast<int64_t>(item.b) * s.heads + head, tile),
                    Layout::kStatsBytes, &barriers_.q_full[stage]);
          LoadTile<kDim>(Tile(Layout::kDo, stage), maps_.d_out, kRows, t, head, item.b, &barriers_.do_full[stage]);
          if (i != 0 || tile != item.from) continue;
          for (int w = 0; w < kWorkers; ++w) {
            const int key = item.key + w * item.key_step;
            BarrierWait(&barriers_.keys_empty[w], (round & 1) ^ 1);
            BarrierExpect(&barriers_.keys_full[w], 2 * Layout::kTile);
            for (int c = 0; c < kDim / 64; ++c) {
              LoadBox(Tile(Layout::kK, w) + c * kRows * 128, maps_.k, 64 * c, key, item.kv_head, item.b,
                      &barriers_.keys_full[w]);
              LoadBox(Tile(Layout::kV, w) + c * kRows * 128, maps_.v, 64 * c, key, item.kv_head, item.b,
                      &barriers_.keys_full[w]);
            }
          }
        }
      }
    }
  }

  __device__ void Work(int worker) const {
    const Sizes& s = a_.sizes;
    const char* const k_tile = Tile(Layout::kK, worker);
    const char* const v_tile = Tile(Layout::kV, worker);
    uint32_t n = 0, round = 0;
    for (int index = blockIdx.x; index < a_.items.count; index += gridDim.x, ++round) {
      const KeyItem item = KeyItem::Of<kSinks>(s, a_.items, index);
      const int key = item.key + worker * item.key_step;
      float dk[kDim / 2] = {}, dv[kDim / 2] = {}, scores[kRows / 2], values[kRows / 2];
      BarrierWait(&barriers_.keys_full[worker], round & 1);
      int tile = item.from, head = 0;
      const auto advance = [&] {
        ++n;
        if (++tile < item.to) return;
        tile = item.from;
        ++head;
      };
      while (head < s.group) {
        int stage = Pipeline::Stage(n);
        if (!Sees(key, tile, worker)) {
          BarrierWait(&barriers_.q_full[stage], Pipeline::Parity(n));
          BarrierWait(&barriers_.do_full[stage], Pipeline::Parity(n));
          WarpArrive(&barriers_.empty[stage]);
          advance();
          continue;
        }
        // A run of tiles that are seen: the scores of the next are under way while this one is finished.
        StartScores(k_tile, n, scores);
        for (;;) {
          stage = Pipeline::Stage(n);
          BarrierWait(&barriers_.do_full[stage], Pipeline::Parity(n));
          Hold(values);
          ProductFence();
          MultiplyRows(v_tile, Tile(Layout::kDo, stage), values);
          ProductCommit();
          ProductWait<1>();
          Hold(scores);

          uint32_t packed[kRows / 16][4];
          Weights(StageStats(stage), key, tile * kRows, scores);
#pragma unroll
          for (int k = 0; k < kRows / 16; ++k) PackA(scores, k, packed[k]);
          Hold(dv);
          ProductFence();
          AddRows(packed, Tile(Layout::kDo, stage), dv);
          ProductCommit();
          ProductWait<1>();
          Hold(values);
          Errors(StageStats(stage), values, scores);
          ProductWait<0>();
          Hold(dv);
#pragma unroll
          for (int k = 0; k < kRows / 16; ++k) PackA(scores, k, packed[k]);
          Hold(dk);
          ProductFence();
          AddRows(packed, Tile(Layout::kQ, stage), dk);
          ProductCommit();
          advance();
          if (head == s.group || !Sees(key, tile, worker)) break;
          StartScores(k_tile, n, scores);
          ProductWait<1>();
          Hold(dk);
          WarpArrive(&barriers_.empty[stage]);
        }
        ProductWait<0>();
        Hold(dk);
        WarpArrive(&barriers_.empty[stage]);
      }
      WarpArrive(&barriers_.keys_empty[worker]);
      if constexpr (kSinks) {
        WriteSinks(static_cast<int64_t>(index) * kWorkers + worker, dk, dv);
      } else {
        AddSinks(item, key, dk, dv);
        Finish(item, key, worker, dk, dv);
      }
    }
  }

 private:
  __device__ char* Tile(int part, int index) const { return shared_ + part + index * Layout::kTile; }
  __device__ float* StageStats(int stage) const {
    return reinterpret_cast<float*>(shared_ + Layout::kStats + stage * Layout::kStatsBytes);
  }

  // Whether queries of this tile give anything to keys [key, key + 64). Sinks: warpgroups take tiles in turn.
  __device__ bool Sees(int key, int tile, int worker) const {
    const Sizes& s = a_.sizes;
    if (kSinks) return tile % kWorkers == worker;
    const int t = tile * kRows;
    return key < s.tokens && t + kRows > key && (s.window == 0 || t - (key + kRows - 1) < s.window);
  }

  // Scores [key][query] become weights, zero where hidden.
  __device__ void Weights(const float* stats, int key, int t, float (&scores)[kRows / 2]) const {
    const Sizes& s = a_.sizes;
    const int lane = threadIdx.x % 32, row = threadIdx.x % kWarpgroup / 32 * 16 + lane / 4;
    const float scale = s.scale * kLog2E;
#pragma unroll
    for (int j = 0; j < kRows / 8; ++j) {
      const float2 log_sum = *reinterpret_cast<const float2*>(stats + 8 * j + lane % 4 * 2);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float* const score = scores + 4 * j + 2 * half;
        score[0] = Exp2(fmaf(score[0], scale, -log_sum.x));
        score[1] = Exp2(fmaf(score[1], scale, -log_sum.y));
      }
    }
    const bool edge = t < key + kRows - 1 || (s.window > 0 && t + kRows - 1 - key >= s.window);
    if (!kSinks && !edge) return;
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) {
      const int at = key + row + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      const int first = at - t, end = s.window == 0 ? first + s.tokens : first + s.window;
      const bool visible = kSinks ? at < s.sinks && column >= end : column >= first && column < end;
      scores[i] = visible ? scores[i] : 0.0f;
    }
  }
  // Weights become errors.
  __device__ void Errors(const float* stats, const float (&values)[kRows / 2], float (&weights)[kRows / 2]) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < kRows / 8; ++j) {
      const float2 product = *reinterpret_cast<const float2*>(stats + kRows + 8 * j + lane % 4 * 2);
#pragma unroll
      for (int i = 4 * j; i < 4 * j + 4; ++i) weights[i] *= values[i] - (i % 2 == 0 ? product.x : product.y);
    }
  }
  // Issues products = A B^T of two tiles [64][kDim].
  static __device__ void MultiplyRows(const char* a_tile, const char* b_tile, float (&products)[kRows / 2]) {
    const uint64_t a = Opaque(RowOperand(a_tile, kRows * 128, 0, 0)), b = Opaque(RowOperand(b_tile, kRows * 128, 0, 0));
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      const uint64_t step = RowStep(kRows * 128, 16 * k);
      Product<kRows>::template Shared<0, 0>(products, a + step, b + step, k > 0);
    }
  }
  // Issues and commits the scores [key][query] of the n-th tile of queries.
  __device__ void StartScores(const char* k_tile, uint32_t n, float (&scores)[kRows / 2]) const {
    const int stage = Pipeline::Stage(n);
    BarrierWait(&barriers_.q_full[stage], Pipeline::Parity(n));
    Hold(scores);
    ProductFence();
    MultiplyRows(k_tile, Tile(Layout::kQ, stage), scores);
    ProductCommit();
  }
  // Issues sums += W^T rows, over the queries of a tile.
  static __device__ void AddRows(const uint32_t (&packed)[kRows / 16][4], const char* tile, float (&sums)[kDim / 2]) {
    const uint64_t rows = Opaque(ColumnOperand(tile, kRows * 128, 0, 0));
#pragma unroll
    for (int k = 0; k < kRows / 16; ++k) {
      Product<kDim>::template Registers<1>(sums, packed[k], rows + ColumnStep(16 * k), 1);
    }
  }

  // The first warp of a warpgroup holds rows 0 to 15 of its keys: the sinks, where they are the first of all.
  template <class Body>
  static __device__ void ForSinkPairs(Body body) {
    if (threadIdx.x % kWarpgroup >= 32) return;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kDim / 2; i += 2) body(i, (lane / 4 + i / 2 % 2 * 8) * kDim + i / 4 * 8 + lane % 4 * 2);
  }
  __device__ void WriteSinks(int64_t index, const float (&dk)[kDim / 2], const float (&dv)[kDim / 2]) const {
    float* const to = a_.sinks.At(index);
    ForSinkPairs([&](int i, int at) {
      *reinterpret_cast<float2*>(to + at) = make_float2(dk[i], dk[i + 1]);
      *reinterpret_cast<float2*>(to + kSinkRows * kDim + at) = make_float2(dv[i], dv[i + 1]);
    });
  }
  __device__ void AddSinks(const KeyItem& item, int key, float (&dk)[kDim / 2], float (&dv)[kDim / 2]) const {
    if (a_.sinks.data == nullptr || key != 0) return;
    const float* const from = a_.sinks.At(static_cast<int64_t>(item.b) * a_.sizes.kv_heads + item.kv_head);
    ForSinkPairs([&](int i, int at) {
      const float2 k = *reinterpret_cast<const float2*>(from + at);
      const float2 v = *reinterpret_cast<const float2*>(from + kSinkRows * kDim + at);
      dk[i] += k.x;
      dk[i + 1] += k.y;
      dv[i] += v.x;
      dv[i + 1] += v.y;
    });
  }

  __device__ void Finish(const KeyItem& item, int key, int worker, const float (&dk)[kDim / 2],
                         const float (&dv)[kDim / 2]) const {
    const Sizes& s = a_.sizes;
    char* const out = Tile(Layout::kOut, worker);
    const auto write = [&](const float(&sums)[kDim / 2], float by, const View<bf16>& to, bool accumulate) {
      if (!to.present()) return;
      const float both[2] = {by, by};
      NamedBarrier(kWorkerBarrier + worker, kWarpgroup);  // what was there has been read
      StoreTile<kDim>(sums, both, out);
      NamedBarrier(kWorkerBarrier + worker, kWarpgroup);
      StoreRows<kDim>(out, to.At(item.b, item.kv_head, key), to.stride[2], s.tokens - key, accumulate);
    };
    write(dk, s.scale, a_.dk, a_.add_k);
    write(dv, 1.0f, a_.dv, a_.add_v);
  }

  char* shared_;
  KeyBarriers<Layout::kStages>& barriers_;
  const BackwardMaps& maps_;
  const KeyArguments& a_;
};

constexpr int kSumThreads = 256;

// Sums of the items of a stream, in order.
__global__ void __launch_bounds__(kSumThreads) SinkSumKernel(SinkSums parts, int parts_of_stream, SinkSums sums) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;  // whole blocks
  const int64_t stream = at / sums.Floats(), element = at % sums.Floats();
  float sum = 0.0f;
  for (int i = 0; i < parts_of_stream; ++i) sum += parts.At(stream * parts_of_stream + i)[element];
  sums.At(stream)[element] = sum;
}

// Block: QueryBlock or KeyBlock.
template <class Block, class Arguments>
__global__ void __launch_bounds__(kBlockThreads, 1)
    BackwardKernel(const __grid_constant__ BackwardMaps maps, const __grid_constant__ Arguments a) {
  extern __shared__ char unaligned[];
  const Block block(AlignTiles(unaligned), maps, a);
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

template <int kDim>
class BackwardPlan final : public Plan {
 public:
  BackwardPlan(const Shape& shape, const Request& request, std::unique_ptr<Plan> plain)
      : sizes_(Sizes::Of(shape)),
        items_(Items::Of(sizes_, kDim)),
        key_items_(KeyItems::OfKeys(sizes_)),
        sink_items_(KeyItems::OfSinks(sizes_)),
        multiprocessors_(request.facts->multiprocessors),
        tiles_(static_cast<int>((shape.tokens + kRows - 1) / kRows)),
        plain_(std::move(plain)) {
    stats_ = Reserve(&workspace_bytes, shape.pairs() * tiles_, kTileStats * 4);
    const SinkSums sums = {nullptr, kDim};
    if (sink_items_.count > 0) {
      parts_ = Reserve(&workspace_bytes, int64_t{kWorkers} * sink_items_.count, sums.Floats() * 4);
      sums_ = Reserve(&workspace_bytes, sink_items_.streams, sums.Floats() * 4);
    }
    // Either may run: pointers that the copy engine cannot take are known only then.
    workspace_bytes = std::max(workspace_bytes, plain_->workspace_bytes);
    saved_bytes = plain_->saved_bytes;
    implementation = "wgmma";
  }

  static Refusal Allow(const Facts& facts) {
    Refusal refusal = AllowShared(kQueryKernel, QueryLayout<kDim>::kBytes, facts);
    if (refusal.code == 0) refusal = AllowShared(kKeyKernel, KeyLayout<kDim>::kBytes, facts);
    if (refusal.code == 0) refusal = AllowShared(kSinkKernel, KeyLayout<kDim>::kBytes, facts);
    return refusal;
  }

  void Run(const Launch& launch) const override {
    if (!Aligned(launch, {kQ, kK, kV, kO, kDo, kDq, kDk, kDv})) return plain_->Run(launch);
    const Stats stats = {Part<float>(launch.workspace, stats_), tiles_};
    const int64_t rows = int64_t{sizes_.batch} * sizes_.heads * tiles_ * kRows;
    StatsKernel<kDim><<<Blocks(rows * (kDim / 8), kStatsThreads), kStatsThreads, 0, launch.stream>>>(
        sizes_, ViewOf<const bf16>(launch.args[kO]), ViewOf<const bf16>(launch.args[kDo]), Part<float>(launch.saved, 0),
        stats);
    const BackwardMaps maps = {MakeTensorMap(launch.args[kQ], kRows),     MakeTensorMap(launch.args[kK], kRows),
                               MakeTensorMap(launch.args[kV], kRows),     MakeTensorMap(launch.args[kDo], kRows),
                               MakeTensorMap(launch.args[kK], kSinkRows), MakeTensorMap(launch.args[kV], kSinkRows)};
    if (Present(launch.args[kDk]) || Present(launch.args[kDv])) RunKeys(launch, maps, stats);
    if (!Present(launch.args[kDq])) return;
    const QueryArguments a = {sizes_, items_, stats, ViewOf<bf16>(launch.args[kDq]), Accumulates(launch.args[kDq])};
    kQueryKernel<<<Grid(items_.count), kBlockThreads, QueryLayout<kDim>::kBytes, launch.stream>>>(maps, a);
  }

 private:
  static constexpr auto kQueryKernel = BackwardKernel<QueryBlock<kDim>, QueryArguments>;
  static constexpr auto kKeyKernel = BackwardKernel<KeyBlock<kDim, false>, KeyArguments>;
  static constexpr auto kSinkKernel = BackwardKernel<KeyBlock<kDim, true>, KeyArguments>;

  unsigned Grid(int items) const { return static_cast<unsigned>(std::min(items, multiprocessors_)); }

  void RunKeys(const Launch& launch, const BackwardMaps& maps, const Stats& stats) const {
    KeyArguments a = {};
    a.sizes = sizes_;
    a.stats = stats;
    if (sink_items_.count > 0) {
      a.items = sink_items_;
      a.sinks = {Part<float>(launch.workspace, parts_), kDim};
      kSinkKernel<<<Grid(sink_items_.count), kBlockThreads, KeyLayout<kDim>::kBytes, launch.stream>>>(maps, a);
      const SinkSums sums = {Part<float>(launch.workspace, sums_), kDim};
      SinkSumKernel<<<Blocks(sink_items_.streams * sums.Floats(), kSumThreads), kSumThreads, 0, launch.stream>>>(
          a.sinks, kWorkers * sink_items_.blocks, sums);
      a.sinks = sums;
    }
    a.items = key_items_;
    a.dk = ViewOf<bf16>(launch.args[kDk]);
    a.dv = ViewOf<bf16>(launch.args[kDv]);
    a.add_k = Accumulates(launch.args[kDk]);
    a.add_v = Accumulates(launch.args[kDv]);
    kKeyKernel<<<Grid(key_items_.count), kBlockThreads, KeyLayout<kDim>::kBytes, launch.stream>>>(maps, a);
  }

  Sizes sizes_;
  Items items_;
  KeyItems key_items_, sink_items_;
  int multiprocessors_, tiles_;
  int64_t stats_, parts_ = 0, sums_ = 0;
  std::unique_ptr<Plan> plain_;
};

template <int kDim>
std::unique_ptr<Plan> Make(const Shape& shape, const Request& request) {
  if (BackwardPlan<kDim>::Allow(*request.facts).code != 0) return nullptr;
  return std::make_unique<BackwardPlan<kDim>>(shape, request, MakeAttentionPlainBackward(shape, request));
}

}  // namespace

std::unique_ptr<Plan> MakeBackwardSm90(const Shape& shape, const Request& request) {
  return shape.dim == 64 ? Make<64>(shape, request) : Make<128>(shape, request);
}

}  // namespace xh::gpu::attention
