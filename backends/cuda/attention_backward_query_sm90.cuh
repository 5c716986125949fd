// ATTENTION on Hopper, BACKWARD: dq, a block of queries visiting its keys.
#ifndef XHYBRID_BACKENDS_CUDA_ATTENTION_BACKWARD_QUERY_SM90_CUH_
#define XHYBRID_BACKENDS_CUDA_ATTENTION_BACKWARD_QUERY_SM90_CUH_

#include "backends/cuda/attention_backward_sm90.cuh"

namespace xh::gpu::attention {

struct QueryArguments {
  Sizes sizes;
  Items items;
  Stats stats;
  View<bf16> dq;
  bool accumulate;
};

inline constexpr int kKeys = 64;  // of a tile

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

}  // namespace xh::gpu::attention

#endif  // XHYBRID_BACKENDS_CUDA_ATTENTION_BACKWARD_QUERY_SM90_CUH_
