// HYBRID_STEP of so many sequences that their heads fill the device, in three kernels. The first makes what is small,
// for 16 sequences of a head at a time: q and k rotated, their features, the output gate. Then the mLSTM's state
// streams through (mlstm_step_sm90.cu), and attention mixes its output with the mLSTM's (attention_decode_many.cu).
// State and cache are the bytes; op by op the small kernels between them took a fifth of the time.
#include "backends/cuda/feature_map_rows.cuh"
#include "backends/cuda/hybrid_step_sm90.cuh"
#include "backends/cuda/mlstm.h"

namespace xh::gpu::hybrid_step {
namespace {

using feature_map::kRows;

constexpr int kPrepareWarps = 4, kPrepareThreads = kPrepareWarps * kWarp;
constexpr int kMostMapElements = 128 * 64;  // two of them fit in the shared memory that a block has without asking

// ---- what is small ----

struct PrepareArgs {
  View<const bf16> q, k, v, query_map, key_map, w, bias;
  View<const float> table;
  View<const int32_t> position;
  bf16 *turned_q, *turned_k;  // [B, H, d], [B, KV, d]
  bf16 *phi_q, *phi_k;        // [B, H, p]
  float* gate;                // [B, H]
  int32_t* permit;            // 0: a position is not in the table
  int64_t batch, positions;
  int heads, kv_heads;
  bool hedgehog;
  FaultSink fault;
};

// What a block has.
struct Rows {
  int64_t first;  // sequence
  int head, kv_head;
  bool writes_key;  // a key is turned by every head of its group, and written by the first

  __device__ explicit Rows(const PrepareArgs& a) {
    const int group = a.heads / a.kv_heads;
    first = int64_t{blockIdx.x / static_cast<unsigned>(a.heads)} * kRows;
    head = static_cast<int>(blockIdx.x % static_cast<unsigned>(a.heads));
    kv_head = head / group;
    writes_key = head % group == 0;
  }
};

// Eight columns of both halves of a row, rotated and rounded as XH_OP_ROPE leaves them.
template <int kD>
__device__ void TurnPack(const bf16* from, const float* angles, int pack, int row, char* tile, bf16* to) {
  constexpr int kHalf = kD / 2;
  float low[8], high[8], cosine[8], sine[8], first[8], second[8];
  LoadPack<bf16, 8>(from + 8 * pack, low);
  LoadPack<bf16, 8>(from + kHalf + 8 * pack, high);
  LoadPack<float, 8>(angles + 8 * pack, cosine);
  LoadPack<float, 8>(angles + kHalf + 8 * pack, sine);
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    first[e] = low[e] * cosine[e] - high[e] * sine[e];
    second[e] = high[e] * cosine[e] + low[e] * sine[e];
  }
  StorePack<bf16, 8>(reinterpret_cast<bf16*>(tile + warp::PackOffset<kD * 2>(row, pack)), first);
  StorePack<bf16, 8>(reinterpret_cast<bf16*>(tile + warp::PackOffset<kD * 2>(row, kHalf / 8 + pack)), second);
  if (to == nullptr) return;
  StorePack<bf16, 8>(to + 8 * pack, first);
  StorePack<bf16, 8>(to + kHalf + 8 * pack, second);
}

// The rows of q, then of k, to tiles and to memory. Behind the last sequence its rows are taken again.
template <int kD>
__device__ void TurnRows(const PrepareArgs& a, const Rows& at, char (&tiles)[2][kRows * kD * 2]) {
  constexpr int kPacks = kD / 16;
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < 2 * kRows * kPacks; i += kPrepareThreads) {
    const int pack = i % kPacks, row = i / kPacks % kRows;
    const bool is_key = i >= kRows * kPacks, inside = at.first + row < a.batch;
    const int64_t b = inside ? at.first + row : a.batch - 1;
    const bf16* const from = is_key ? a.k.At(b, at.kv_head) : a.q.At(b, at.head);
    bf16* to = is_key ? a.turned_k + (b * a.kv_heads + at.kv_head) * kD : a.turned_q + (b * a.heads + at.head) * kD;
    if (!inside || (is_key && !at.writes_key)) to = nullptr;
    TurnPack<kD>(from, a.table.At(*a.position.At(b)), pack, row, tiles[is_key ? 1 : 0], to);
  }
}

// sigmoid([q | k | v] w + b) of rows before RoPE, a warp a row.
template <int kD>
class Gates {
 public:
  __device__ Gates(const PrepareArgs& a, const Rows& at) {  // constants alone
#pragma unroll
    for (int part = 0; part < 3; ++part) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) weight_[part][e] = ToFloat(a.w.At(at.head)[part * kD + Column() + e]);
    }
    bias_ = ToFloat(*a.bias.At(at.head));
  }
  __device__ void Put(const PrepareArgs& a, const Rows& at) const {
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
    for (int row = warp; row < kRows; row += kPrepareWarps) {
      const int64_t b = at.first + row;
      if (b >= a.batch) return;
      const bf16* const from[3] = {a.q.At(b, at.head), a.k.At(b, at.kv_head), a.v.At(b, at.kv_head)};
      float sum = 0.0f;
#pragma unroll
      for (int part = 0; part < 3; ++part) {
        float x[kEach];
        LoadPack<bf16, kEach>(from[part] + Column(), x);
#pragma unroll
        for (int e = 0; e < kEach; ++e) sum = fmaf(x[e], weight_[part][e], sum);
      }
      sum = WarpSum(sum) + bias_;
      if (threadIdx.x % kWarp == 0) a.gate[b * a.heads + at.head] = 1.0f / (1.0f + expf(-sum));
    }
  }

 private:
  static constexpr int kEach = kD / kWarp;
  __device__ static int Column() { return static_cast<int>(threadIdx.x) % kWarp * kEach; }
  float weight_[3][kEach], bias_;
};

// Warp 0 has q, warp 1 k.
template <int kD, int kN>
__device__ void PutFeatures(const PrepareArgs& a, const Rows& at, const char (&maps)[2][kD * kN * 2],
                            const char (&tiles)[2][kRows * kD * 2]) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  if (warp >= 2) return;
  float scores[kN / 8][4] = {};
  feature_map::Score<kD, kN>(maps[warp], tiles[warp], 0, scores);
  const int64_t width = a.hedgehog ? 2 * kN : kN;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t b = at.first + lane / 4 + half * 8;
    bf16* const phi = (warp == 0 ? a.phi_q : a.phi_k) + (b * a.heads + at.head) * width + lane % 4 * 2;
    feature_map::PutSoftmax<kN>(scores, half, 1.0f, b < a.batch, phi);
    if (a.hedgehog) feature_map::PutSoftmax<kN>(scores, half, -1.0f, b < a.batch, phi + kN);
  }
}

template <int kD, int kN>
__global__ void __launch_bounds__(kPrepareThreads) Prepare(const __grid_constant__ PrepareArgs a) {
  __shared__ alignas(128) char maps[2][kD * kN * 2];
  __shared__ alignas(128) char tiles[2][kRows * kD * 2];
  LetNextBegin();
  const Rows at(a);
  feature_map::CopyMap<kD, kN, kPrepareThreads>(a.query_map, at.head, maps[0]);
  feature_map::CopyMap<kD, kN, kPrepareThreads>(a.key_map, at.head, maps[1]);
  warp::CommitCopies();
  const Gates<kD> gates(a, at);
  WaitForEarlier();
  const bool fit = attention::PositionsFit(a.position, a.batch, a.positions - 1, blockIdx.x == 0, a.fault);
  if (blockIdx.x == 0 && threadIdx.x == 0) *a.permit = fit ? 1 : 0;
  if (!fit) return warp::WaitForCopies<0>();
  TurnRows<kD>(a, at, tiles);
  gates.Put(a, at);
  warp::WaitForCopies<0>();
  __syncthreads();
  PutFeatures<kD, kN>(a, at, maps, tiles);
}

// ---- the plan ----

// [B, heads, 1, width] without gaps.
xh_tensor Whole(xh_dtype dtype, int64_t batch, int64_t heads, int64_t width, void* data) {
  xh_tensor x = {};
  x.dtype = dtype;
  x.rank = 4;
  const int64_t shape[4] = {batch, heads, 1, width}, stride[4] = {heads * width, width, width, 1};
  std::copy(shape, shape + 4, x.shape);
  std::copy(stride, stride + 4, x.stride);
  x.data = data;
  return x;
}

class ManyPlan final : public Plan {
 public:
  ManyPlan(const ManySizes& sizes, std::unique_ptr<Plan> mlstm, std::unique_ptr<Plan> attention)
      : s_(sizes), mlstm_(std::move(mlstm)), attention_(std::move(attention)) {
    const int64_t heads = s_.batch * s_.heads;
    turned_q_ = Reserve(&workspace_bytes, heads * s_.dim, 2);
    turned_k_ = Reserve(&workspace_bytes, s_.batch * s_.kv_heads * s_.dim, 2);
    phi_q_ = Reserve(&workspace_bytes, heads * s_.features, 2);
    phi_k_ = Reserve(&workspace_bytes, heads * s_.features, 2);
    x_ = Reserve(&workspace_bytes, heads * s_.dim, 2);
    gate_ = Reserve(&workspace_bytes, heads, 4);
    permit_ = Reserve(&workspace_bytes, 1, 4);
    implementation = "streams";
  }

  void Run(const Launch& launch) const override {
    CheckPointers(launch);
    RunPrepare(launch);
    RunMlstm(launch);
    RunAttention(launch);
  }

 private:
  template <class T>
  T* At(const Launch& launch, int64_t offset) const {
    return Part<T>(launch.workspace, offset);
  }
  xh_tensor Inner(const Launch& launch, int64_t offset, int64_t heads, int64_t width) const {
    return Whole(XH_BF16, s_.batch, heads, width, launch.workspace + offset);
  }

  void RunPrepare(const Launch& launch) const {
    const xh_tensor* const args = launch.args;
    const PrepareArgs a = {ViewOf<const bf16>(args[kQ]),
                           ViewOf<const bf16>(args[kK]),
                           ViewOf<const bf16>(args[kV]),
                           ViewOf<const bf16>(args[kQueryMap]),
                           ViewOf<const bf16>(args[kKeyMap]),
                           ViewOf<const bf16>(args[kW]),
                           ViewOf<const bf16>(args[kB]),
                           ViewOf<const float>(args[kTable]),
                           ViewOf<const int32_t>(args[kPosition]),
                           At<bf16>(launch, turned_q_),
                           At<bf16>(launch, turned_k_),
                           At<bf16>(launch, phi_q_),
                           At<bf16>(launch, phi_k_),
                           At<float>(launch, gate_),
                           At<int32_t>(launch, permit_),
                           s_.batch,
                           s_.positions,
                           static_cast<int>(s_.heads),
                           static_cast<int>(s_.kv_heads),
                           s_.features == 2 * s_.map_columns,
                           launch.fault};
    const unsigned blocks = static_cast<unsigned>(s_.heads) * Blocks(s_.batch, kRows);
    const auto kernel = s_.dim == 128 ? Prepare<128, 64> : s_.map_columns == 64 ? Prepare<64, 64> : Prepare<64, 128>;
    LaunchEarly(launch, kernel, blocks, kPrepareThreads, 0, a);
  }

  void RunMlstm(const Launch& launch) const {
    const xh_tensor* const args = launch.args;
    xh_tensor inner[mlstm::kPermit + 1] = {};
    inner[mlstm::kQ] = Inner(launch, phi_q_, s_.heads, s_.features);
    inner[mlstm::kK] = Inner(launch, phi_k_, s_.heads, s_.features);
    inner[mlstm::kV] = args[kV];
    inner[mlstm::kI] = args[kI];
    inner[mlstm::kF] = args[kF];
    inner[mlstm::kS] = inner[mlstm::kSOut] = args[kS];
    inner[mlstm::kZ] = inner[mlstm::kZOut] = args[kZ];
    inner[mlstm::kM] = inner[mlstm::kMOut] = args[kM];
    inner[mlstm::kH] = Inner(launch, x_, s_.heads, s_.dim);
    inner[mlstm::kPermit].data = At<int32_t>(launch, permit_);
    RunInner(*mlstm_, launch, inner);
  }

  void RunAttention(const Launch& launch) const {
    const xh_tensor* const args = launch.args;
    xh_tensor inner[attention::kX + 1] = {};
    inner[attention::kQ] = Inner(launch, turned_q_, s_.heads, s_.dim);
    inner[attention::kK] = Inner(launch, turned_k_, s_.kv_heads, s_.dim);
    inner[attention::kV] = args[kV];
    inner[attention::kCacheK] = args[kCacheK];
    inner[attention::kCacheV] = args[kCacheV];
    inner[attention::kPosition] = args[kPosition];
    inner[attention::kO] = args[kH];
    inner[attention::kGate] = Whole(XH_F32, s_.batch, s_.heads, 1, At<float>(launch, gate_));
    inner[attention::kX] = Inner(launch, x_, s_.heads, s_.dim);
    RunInner(*attention_, launch, inner);
  }

  static void RunInner(const Plan& plan, const Launch& launch, const xh_tensor* args) {
    Launch inner = launch;
    inner.args = args;
    plan.Run(inner);
  }

  ManySizes s_;
  std::unique_ptr<Plan> mlstm_, attention_;
  int64_t turned_q_, turned_k_, phi_q_, phi_k_, x_, gate_, permit_;
};

std::unique_ptr<Plan> OpenMlstm(const Request& request, const ManySizes& s, const xh_hybrid_step_params& params) {
  Request inner = request;
  inner.args.assign(mlstm::kPermit + 1, {});
  inner.args[mlstm::kS] = inner.args[mlstm::kSOut] = request.args[kS];
  inner.args[mlstm::kZ] = inner.args[mlstm::kZOut] = request.args[kZ];
  inner.args[mlstm::kM] = inner.args[mlstm::kMOut] = request.args[kM];
  const bool floored = params.normalizer == XH_NORMALIZER_MAX;
  return mlstm::MakeMlstmStream(
      {s.batch, s.heads, s.kv_heads, 1, s.features, s.dim, params.mlstm_scale, floored, false, XH_BF16}, inner);
}

std::unique_ptr<Plan> OpenAttention(const Request& request, const ManySizes& s, const xh_hybrid_step_params& params) {
  attention::Shape shape = {s.batch,      s.heads, s.kv_heads, 1,    s.dim, params.sinks,
                            params.scale, {},      0,          true, false, XH_BF16};
  std::copy_n(params.windows, s.kv_heads, shape.windows.at);
  return attention::MakeAttentionDecodeMixed(shape, *request.facts, s.positions - 1);
}

}  // namespace

std::unique_ptr<Plan> OpenMany(const Request& request, const ManySizes& s, const xh_hybrid_step_params& params) {
  const bool maps = (s.map_columns == 64 || s.map_columns == 128) && s.dim * s.map_columns <= kMostMapElements;
  if (request.args[kQ].dtype != XH_BF16 || (s.dim != 64 && s.dim != 128) || !maps) return nullptr;
  if (s.kv_heads > attention::kMostKvHeads) return nullptr;
  std::unique_ptr<Plan> mlstm = OpenMlstm(request, s, params), attention = OpenAttention(request, s, params);
  if (mlstm == nullptr || attention == nullptr) return nullptr;
  return std::make_unique<ManyPlan>(s, std::move(mlstm), std::move(attention));
}

}  // namespace xh::gpu::hybrid_step
