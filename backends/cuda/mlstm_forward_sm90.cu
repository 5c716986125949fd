// MLSTM on Hopper, INFER and FORWARD: one pass over the sequence, everything of a chunk in shared memory and registers.
// Bytes of device memory: q, k, v are read and h is written once; a FORWARD also writes the states, n d bf16 a chunk.
#include "backends/cuda/mlstm_plans_sm90.cuh"

namespace xh::gpu::mlstm {
namespace {

using namespace sm90;

// Bytes in shared memory. A tile of k has 8 rows more than tokens: z stands in two of them as bf16 high and low parts,
// so that q.z falls out of the product with k.
template <int kN, int kD>
struct ForwardLayout {
  static constexpr int kStages = 2, kKeyBlock = 72 * 128, kBlock = 64 * 128;
  static constexpr int kGroups = kD / 64, kThreads = kGroups * kWarpgroup;
  static constexpr int kQ = 0;
  static constexpr int kK = kQ + kStages * kN / 64 * kBlock;
  static constexpr int kV = kK + kStages * kN / 64 * kKeyBlock;
  static constexpr int kKept = kV + kStages * kGroups * kBlock;  // v by its weight in the state; then h on its way out
  static constexpr int kState = kKept + kGroups * kBlock;
  static constexpr int kWeights = kState + kGroups * kN * 128;
  static constexpr int kZ = kWeights + kStages * static_cast<int>(sizeof(ChunkWeights));
  static constexpr int kBarriers = kZ + kN * 4;
  static constexpr int kBytes = kBarriers + kStages * 8 + 1024;  // the start is rounded up to 1024
  static constexpr uint32_t kLoaded = (2 * kN + kD) / 64 * kBlock;
};

// kOutputs 0: only the state after a segment, which began at 0, for the pass over segments.
template <int kN, int kD, bool kOutputs, bool kDocuments>
__global__ void __launch_bounds__(kD / 64 * kWarpgroup, 1)
    ForwardKernel(const __grid_constant__ CUtensorMap map_q, const __grid_constant__ CUtensorMap map_k,
                  const __grid_constant__ CUtensorMap map_v, const __grid_constant__ CUtensorMap map_h,
                  const ForwardArguments a) {
  using Layout = ForwardLayout<kN, kD>;
  constexpr int kBlocks = kN / 64, kGroups = Layout::kGroups, kBlock = Layout::kBlock, kKeyBlock = Layout::kKeyBlock;
  extern __shared__ char unaligned[];
  char* const shared = unaligned + (1024 - SharedAddress(unaligned) % 1024) % 1024;
  uint64_t* const loaded = reinterpret_cast<uint64_t*>(shared + Layout::kBarriers);
  float* const z = reinterpret_cast<float*>(shared + Layout::kZ);
  const auto weights = [&](int stage) { return reinterpret_cast<ChunkWeights*>(shared + Layout::kWeights) + stage; };

  const int64_t segment = blockIdx.x / a.pairs, pair = blockIdx.x % a.pairs;
  const int b = static_cast<int>(pair / a.heads), head = static_cast<int>(pair % a.heads);
  const int kv_head = head / a.group;
  const int64_t first_chunk = a.segments.First(segment), end_chunk = a.segments.End(segment, a.gates.chunks);
  const int thread = static_cast<int>(threadIdx.x), group = thread / kWarpgroup, lane = thread % 32;
  const int row = thread % kWarpgroup / 32 * 16 + lane / 4, pair_column = lane % 4 * 2;
  const bool leader = thread % kWarpgroup == 0;  // of its warpgroup

  char* const kept = shared + Layout::kKept + group * kBlock;
  char* const state_tile = shared + Layout::kState + group * kN * 128;
  const auto q_tile = [&](int stage) { return shared + Layout::kQ + stage * kBlocks * kBlock; };
  const auto k_tile = [&](int stage) { return shared + Layout::kK + stage * kBlocks * kKeyBlock; };
  const auto v_tile = [&](int stage) { return shared + Layout::kV + stage * kGroups * kBlock; };
  const auto load = [&](int64_t chunk, int stage) {
    const int t = static_cast<int>(chunk) * kChunk;
    BarrierExpect(&loaded[stage], kOutputs ? Layout::kLoaded : Layout::kLoaded - kBlocks * kBlock);
    for (int i = 0; i < kBlocks; ++i) {
      if (kOutputs) LoadBox(q_tile(stage) + i * kBlock, map_q, i * 64, t, head, b, &loaded[stage]);
      LoadBox(k_tile(stage) + i * kKeyBlock, map_k, i * 64, t, head, b, &loaded[stage]);
    }
    for (int i = 0; i < kGroups; ++i) LoadBox(v_tile(stage) + i * kBlock, map_v, i * 64, t, kv_head, b, &loaded[stage]);
  };
  // z as rows 64 (high part) and 65 (low part) of the tile of k; this warp's features.
  const auto store_z = [&](int stage, int feature, float value) {
    const float high = __bfloat162float(__float2bfloat16(value));
    char* const block = k_tile(stage) + feature / 64 * kKeyBlock;
    *reinterpret_cast<bf16*>(block + TileOffset(64, feature % 64)) = __float2bfloat16(high);
    *reinterpret_cast<bf16*>(block + TileOffset(65, feature % 64)) = __float2bfloat16(value - high);
  };

  if (thread == 0) {
    BarrierInit(&loaded[0], 1);
    BarrierInit(&loaded[1], 1);
    BarrierInitFence();
  }
  for (int i = thread; i < Layout::kStages * kBlocks * 8 * 32; i += Layout::kThreads) {  // rows 64 to 71 of k
    reinterpret_cast<uint32_t*>(k_tile(0) + i / 256 * kKeyBlock + 64 * 128)[i % 256] = 0;
  }
  StateView before = {nullptr, 0, nullptr};
  if (kOutputs && a.segments.count > 1) {
    before = a.local.Before(pair, segment);
  } else if (kOutputs && a.matrix.present()) {
    before = {a.matrix.At(b, head), a.matrix.stride[2], a.vector.At(b, head)};
  }
  float state[kBlocks][32];
  LoadState<kBlocks>(before, group * 64, state);
  if (thread < kChunk) PendingWeights(a.gates, pair, first_chunk, thread).Store(weights(0));
  __syncthreads();  // the zeros are written
  for (int i = thread; i < kN; i += Layout::kThreads) {
    z[i] = before.vector == nullptr ? 0.0f : before.vector[i];
    if (kOutputs) store_z(0, i, z[i]);
  }
  if (kOutputs) StoreStateTile<kBlocks>(state, state_tile);
  FenceForAsync();
  __syncthreads();
  if (thread == 0) load(first_chunk, 0);
  float decayed = 1.0f;  // product of the decays so far

  for (int64_t chunk = first_chunk; chunk < end_chunk; ++chunk) {
    const int index = static_cast<int>(chunk - first_chunk), stage = index % 2;
    const bool more = chunk + 1 < end_chunk;
    if (thread == 0 && more) load(chunk + 1, 1 - stage);
    const PendingWeights next(a.gates, pair, more ? chunk + 1 : chunk, thread % kChunk);
    const ChunkWeights& w = *weights(stage);
    if (kOutputs && a.states != nullptr && leader) {  // the state before this chunk, for BACKWARD
      StoreBytes(a.states + ((pair * a.gates.chunks + chunk) * kGroups + group) * kN * 128, state_tile, kN * 128);
      StoreCommit();
    }
    BarrierWait(&loaded[stage], index / 2 % 2);

    float out[32] = {}, divisor[2] = {};
    if constexpr (kOutputs) {
      float scores[36] = {};  // q k^T, and q.z in columns 64 and 65
      Hold(scores);
      Hold(out);
      ProductFence();
#pragma unroll
      for (int k = 0; k < kN; k += 16) {
        Product<72>::Shared<0, 0>(scores, RowOperand(q_tile(stage), kBlock, 0, k),
                                  RowOperand(k_tile(stage), kKeyBlock, 0, k), k > 0);
      }
#pragma unroll
      for (int k = 0; k < kN; k += 16) {
        Product<64>::Shared<0, 1>(out, RowOperand(q_tile(stage), kBlock, 0, k),
                                  ColumnOperand(state_tile, kN * 128, k, 0), k > 0);
      }
      ProductCommit();
      if (more && thread < kChunk) next.Store(weights(1 - stage));
      ProductWait<0>();
      Hold(scores);
      Hold(out);

      // Weights of the inputs of this chunk, rows `row` and row + 8.
      uint32_t weighted[4][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int u = row + 8 * half;
        const float most = w.most[u], carry = w.carry[u] * a.scale;
        const int first = kDocuments ? w.first[u] : 0;
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const int column = 8 * j + pair_column;
          const float2 x = *reinterpret_cast<const float2*>(&w.x[column]);
          const auto weight = [&](float score, float x_column, int at) {
            const bool visible = at <= u && (!kDocuments || at >= first);
            return visible ? score * (a.scale * exp2f(x_column - most)) : 0.0f;
          };
          const uint32_t word = PackPair(weight(scores[4 * j + 2 * half], x.x, column),
                                         weight(scores[4 * j + 2 * half + 1], x.y, column + 1));
          weighted[j / 2][j % 2 * 2 + half] = word;
          const float2 rounded = UnpackPair(word);
          sum += rounded.x + rounded.y;
        }
        sum += XH_SHUFFLE_XOR(sum, 1);
        sum += XH_SHUFFLE_XOR(sum, 2);
        const float state_sum = XH_SHUFFLE(scores[32 + 2 * half] + scores[33 + 2 * half], lane & ~3);
        const bool carries = carry != 0.0f;  // a state that has no weight does not matter, whatever it is
        const float denominator = sum + (carries ? carry * state_sum : 0.0f);
        const int64_t t = chunk * kChunk + u;
        if (a.denominators != nullptr && group == 0 && lane % 4 == 0 && t < a.gates.tokens) {
          a.denominators[pair * a.gates.tokens + t] = denominator;
        }
        divisor[half] = denominator;
        if (a.floored) divisor[half] = fabsf(denominator) < w.floor[u] ? w.floor[u] : fabsf(denominator);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          float* const o = out + 4 * j + 2 * half;
          o[0] = carries ? o[0] * carry : 0.0f;
          o[1] = carries ? o[1] * carry : 0.0f;
        }
      }
      Hold(out);
      ProductFence();
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        Product<64>::Registers<1>(out, weighted[k], ColumnOperand(v_tile(stage) + group * kBlock, kBlock, 16 * k, 0),
                                  1);
      }
      ProductCommit();
    }

    // The state after the chunk. h of the chunk before must have left `kept`, and `state_tile` for the states saved.
    if (leader) StoreWaitRead<0>();
    NamedBarrier(1 + group, kWarpgroup);
    ScaleRows(v_tile(stage) + group * kBlock, w.keep, kept);
    FenceForAsync();
    NamedBarrier(1 + group, kWarpgroup);
    const float decay = w.decay;
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
#pragma unroll
      for (int j = 0; j < 32; ++j) state[i][j] = decay == 0.0f ? 0.0f : state[i][j] * decay;
      Hold(state[i]);
    }
    ProductFence();
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        Product<64>::Shared<1, 1>(state[i], ColumnOperand(k_tile(stage), kKeyBlock, 16 * k, 64 * i),
                                  ColumnOperand(kept, kBlock, 16 * k, 0), 1);
      }
    }
    ProductCommit();
    decayed *= decay;
    for (int which = thread / 4; which < kN / 2; which += Layout::kThreads / 4) {
      float2 sum = WeightedColumn(k_tile(stage), kKeyBlock, w.keep, which, lane % 4);
      sum.x += XH_SHUFFLE_XOR(sum.x, 1);
      sum.y += XH_SHUFFLE_XOR(sum.y, 1);
      sum.x += XH_SHUFFLE_XOR(sum.x, 2);
      sum.y += XH_SHUFFLE_XOR(sum.y, 2);
      if (lane % 4 < 2) {
        const int feature = 2 * which + lane % 4;
        if (kOutputs && a.vectors != nullptr) a.vectors[(pair * a.gates.chunks + chunk) * kN + feature] = z[feature];
        const float kept_z = decay == 0.0f ? 0.0f : z[feature] * decay;
        const float after = kept_z + (lane % 4 == 0 ? sum.x : sum.y);
        z[feature] = after;
        if (kOutputs) store_z(1 - stage, feature, after);
      }
    }
    ProductWait<0>();
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) Hold(state[i]);
    if constexpr (kOutputs) {
      Hold(out);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float inverse = 1.0f / divisor[half];
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float* const o = out + 4 * j + 2 * half;
          *reinterpret_cast<uint32_t*>(kept + TileOffset(row + 8 * half, 8 * j + pair_column)) =
              PackPair(o[0] * inverse, o[1] * inverse);
        }
      }
      StoreStateTile<kBlocks>(state, state_tile);
    }
    if (!kOutputs && more && thread < kChunk) next.Store(weights(1 - stage));
    FenceForAsync();
    __syncthreads();
    if (kOutputs && leader) {
      StoreBox(map_h, kept, group * 64, static_cast<int>(chunk) * kChunk, head, b);
      StoreCommit();
    }
  }

  if (leader) StoreWait();
  if (!kOutputs) {
    a.local.Write<kBlocks>(pair, segment, group * 64, state, z, decayed);
  } else if (a.matrix_out.present() && segment == a.segments.count - 1) {
    WriteState<kBlocks>(state, group * 64, a.matrix_out.At(b, head), a.matrix_out.stride[2]);
    float* const vector = a.vector_out.At(b, head);
    for (int i = thread; i < kN; i += Layout::kThreads) vector[i] = z[i];
    if (thread == 0) *a.most_out.At(b, head) = a.gates.before[pair * (a.gates.chunks + 1) + a.gates.chunks];
  }
}

// Blocks of a kernel that the device runs at once.
template <class Kernel>
int64_t BlocksAtOnce(Kernel kernel, int threads, int bytes, const Facts& facts) {
  int blocks = 0;
  if (cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, static_cast<size_t>(bytes)) !=
      cudaSuccess) {
    blocks = 1;
  }
  return static_cast<int64_t>(std::max(blocks, 1)) * facts.multiprocessors;
}

template <int kN, int kD>
class ForwardPlan final : public Plan {
 public:
  ForwardPlan(const Shape& shape, const Request& request, std::unique_ptr<Plan> plain)
      : shape_(shape), plain_(std::move(plain)), gates_(shape, &workspace_bytes) {
    segments_ =
        SegmentsFor(shape.pairs(), shape.chunks(),
                    BlocksAtOnce(ForwardKernel<kN, kD, true, false>, Layout::kThreads, Layout::kBytes, *request.facts));
    local_ = SegmentStates::Reserve(&workspace_bytes, shape, segments_);
    if (request.pass == XH_FORWARD) saved_ = std::make_unique<Saved>(shape, &saved_bytes);
    // Either may run: pointers that the copy engine cannot take are known only then.
    workspace_bytes = std::max(workspace_bytes, plain_->workspace_bytes);
    if (saved_ != nullptr) saved_bytes = std::max(saved_bytes, plain_->saved_bytes);
    implementation = "wgmma";
  }

  static Refusal Allow(const Facts& facts) {
    Refusal refusal;
    const auto allow = [&](auto kernel) {
      if (refusal.code == 0) refusal = AllowShared(kernel, ForwardLayout<kN, kD>::kBytes, facts);
    };
    allow(ForwardKernel<kN, kD, true, false>);
    allow(ForwardKernel<kN, kD, true, true>);
    allow(ForwardKernel<kN, kD, false, false>);
    return refusal;
  }

  void Run(const Launch& launch) const override {
    if (!Aligned(launch, {kQ, kK, kV, kH})) return plain_->Run(launch);
    const GateArrays<float> gates = gates_.Arrays(shape_, launch.workspace);
    LaunchGates(launch, shape_, gates);
    ForwardArguments a = {};
    a.gates = gates;
    a.segments = segments_;
    a.pairs = shape_.pairs();
    a.heads = shape_.heads;
    a.group = static_cast<int>(shape_.group());
    a.scale = shape_.scale;
    a.floored = shape_.floored;
    a.local = {Part<float>(launch.workspace, local_), kN, kD, segments_.count};
    a.matrix = ViewOf<const float>(launch.args[kS]);
    a.vector = ViewOf<const float>(launch.args[kZ]);
    if (saved_ != nullptr) saved_->Point(launch.saved, &a.states, &a.vectors, &a.denominators);
    const CUtensorMap q = MakeTensorMap(launch.args[kQ], kChunk), k = MakeTensorMap(launch.args[kK], kChunk),
                      v = MakeTensorMap(launch.args[kV], kChunk), h = MakeTensorMap(launch.args[kH], kChunk);
    const unsigned blocks = static_cast<unsigned>(a.pairs * segments_.count);
    if (segments_.count > 1) {
      ForwardKernel<kN, kD, false, false><<<blocks, Layout::kThreads, Layout::kBytes, launch.stream>>>(q, k, v, h, a);
      LaunchSegmentScan(launch.stream, a.local, a.pairs, shape_.heads, a.matrix, a.vector, false);
    }
    a.matrix_out = ViewOf<float>(launch.args[kSOut]);
    a.vector_out = ViewOf<float>(launch.args[kZOut]);
    a.most_out = ViewOf<float>(launch.args[kMOut]);
    if (shape_.documents) {
      ForwardKernel<kN, kD, true, true><<<blocks, Layout::kThreads, Layout::kBytes, launch.stream>>>(q, k, v, h, a);
    } else {
      ForwardKernel<kN, kD, true, false><<<blocks, Layout::kThreads, Layout::kBytes, launch.stream>>>(q, k, v, h, a);
    }
  }

 private:
  using Layout = ForwardLayout<kN, kD>;
  Shape shape_;
  std::unique_ptr<Plan> plain_;
  GateLayout<float> gates_;
  Segments segments_;
  int64_t local_;
  std::unique_ptr<Saved> saved_;
};

template <int kN, int kD>
std::unique_ptr<Plan> Make(const Shape& shape, const Request& request, std::unique_ptr<Plan> plain) {
  using Kernels = ForwardPlan<kN, kD>;
  if (Kernels::Allow(*request.facts).code != 0) return plain;
  return std::make_unique<Kernels>(shape, request, std::move(plain));
}

}  // namespace

std::unique_ptr<Plan> MakeForwardSm90(const Shape& shape, const Request& request, std::unique_ptr<Plan> plain) {
  if (shape.columns == 128) return Make<128, 128>(shape, request, std::move(plain));
  if (shape.features == 128) return Make<128, 64>(shape, request, std::move(plain));
  return Make<64, 64>(shape, request, std::move(plain));
}

}  // namespace xh::gpu::mlstm
