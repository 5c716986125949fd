// ATTENTION on Hopper, BACKWARD: dk and dv, a block of keys visiting the queries of its group that see it.
#ifndef XHYBRID_BACKENDS_CUDA_ATTENTION_BACKWARD_KEY_SM90_CUH_
#define XHYBRID_BACKENDS_CUDA_ATTENTION_BACKWARD_KEY_SM90_CUH_

#include "backends/cuda/attention_backward_sm90.cuh"

namespace xh::gpu::attention {

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

}  // namespace xh::gpu::attention

#endif  // XHYBRID_BACKENDS_CUDA_ATTENTION_BACKWARD_KEY_SM90_CUH_
