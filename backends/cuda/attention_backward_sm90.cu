// ATTENTION on Hopper, BACKWARD: scores computed again from the saved log sums. With p = exp(score - log sum),
//   dv_s = sum_t p_ts do_t         e_ts = p_ts (do_t.v_s - do_t.o_t)
//   dq_t = scale sum_s e_ts k_s    dk_s = scale sum_t e_ts q_t
// One kernel makes dk and dv, a block of keys visiting the queries of its group that see it; another dq, a block of
// queries visiting its keys. Nobody adds to another's sums, so that every run gives the same bits. What queries beyond
// the window give to the sinks is summed by segments of queries first, and added in order.
#include "backends/cuda/attention_backward_key_sm90.cuh"
#include "backends/cuda/attention_backward_query_sm90.cuh"

namespace xh::gpu::attention {
namespace {

using namespace sm90;

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
