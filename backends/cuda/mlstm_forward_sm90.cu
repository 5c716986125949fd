// MLSTM on Hopper, INFER and FORWARD: one pass over the sequence, everything of a chunk in shared memory and registers.
// Bytes of device memory: q, k, v are read and h is written once; a FORWARD also writes the states, n d bf16 a chunk.
#include "backends/cuda/mlstm_plans_sm90.cuh"

namespace xh::gpu::mlstm {
namespace {

using namespace sm90;

// Roles. The first warpgroup (scores) makes of q, k and the gates what the others need of a chunk: the weighted scores
// P, v by its weight in the state, the factors of every row of h, and z. One warpgroup a 64 columns of v (state) holds
// the state and makes h of it. The scores run ahead of the state by up to kBuffers chunks, so that neither waits for
// the other's arithmetic. The last state warpgroup to finish a chunk asks for the chunk that takes its place.
//
// Bytes in shared memory. A tile of k has 8 rows more than tokens: z stands in two of them as bf16 high and low parts,
// so that q.z falls out of the product with k. Likewise the weights of tokens in the state are two rows of a tile of 8,
// whose product with k is what the chunk adds to z.
template <int kN, int kD, bool kOutputs>
struct ForwardLayout {
  static constexpr int kBlocks = kN / 64, kGroups = kD / 64, kThreads = (1 + kGroups) * kWarpgroup;
  static constexpr int kKeyBlock = 72 * 128, kBlock = 64 * 128, kKeepBlock = 8 * 128;
  // Heads of 64 columns leave room for two blocks of threads a multiprocessor.
  static constexpr int kBlocksAtOnce = kD == 64 ? 2 : 1;
  // What fits.
  static constexpr int kStages = kN == 256   ? (kOutputs ? 1 : 3)
                                 : kD == 128 ? (kOutputs ? 2 : 4)
                                             : (kN == 64 || !kOutputs ? 2 : 1);
  static constexpr int kBuffers = kD == 64 && kN == 128 && kOutputs ? 1 : 2;
  static constexpr int kQ = 0;
  static constexpr int kK = kQ + (kOutputs ? kStages * kBlocks * kBlock : 0);
  static constexpr int kV = kK + kStages * kBlocks * kKeyBlock;
  static constexpr int kKept = kV + kStages * kGroups * kBlock;
  static constexpr int kScores = kKept + kBuffers * kGroups * kBlock;
  static constexpr int kH = kScores + (kOutputs ? kBuffers * kBlock : 0);
  static constexpr int kState = kH + (kOutputs ? kGroups * kBlock : 0);
  static constexpr int kKeep = kState + (kOutputs ? kGroups * kN * 128 : 0);
  static constexpr int kWeights = kKeep + 2 * kKeepBlock;
  static constexpr int kFactors = kWeights + 2 * static_cast<int>(sizeof(ChunkWeights));
  static constexpr int kBarriers = kFactors + kBuffers * static_cast<int>(sizeof(RowFactors));
  static constexpr int kBytes = kBarriers + (2 * kStages + 2 * kBuffers) * 8 + 1024;  // the start is rounded up to 1024
  static constexpr uint32_t kLoaded = ((kOutputs ? 2 : 1) * kN + kD) / 64 * kBlock;
};

struct ForwardMaps {
  CUtensorMap q, k, v, h;
};

// A block of threads: where everything lies, and its two roles. kOutputs 0: only the state after a segment, which began
// at 0, for the pass over segments.
template <int kN, int kD, bool kOutputs, bool kDocuments>
class ForwardBlock {
  using Layout = ForwardLayout<kN, kD, kOutputs>;
  static constexpr int kBlocks = Layout::kBlocks, kGroups = Layout::kGroups, kBlock = Layout::kBlock;
  static constexpr int kKeyBlock = Layout::kKeyBlock, kStages = Layout::kStages, kBuffers = Layout::kBuffers;

 public:
  __device__ ForwardBlock(const ForwardMaps& maps, const ForwardArguments& arguments, char* unaligned)
      : m(maps), a(arguments), shared(unaligned + (1024 - SharedAddress(unaligned) % 1024) % 1024) {
    loaded = reinterpret_cast<uint64_t*>(shared + Layout::kBarriers);
    ready = loaded + kStages;
    done = ready + kBuffers;
    finished = reinterpret_cast<int*>(done + kBuffers);
    segment = blockIdx.x / a.pairs;
    pair = blockIdx.x % a.pairs;
    b = static_cast<int>(pair / a.heads);
    head = static_cast<int>(pair % a.heads);
    first_chunk = a.segments.First(segment);
    count = static_cast<int>(a.segments.End(segment, a.gates.chunks) - first_chunk);
    thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    lane = thread % 32;
    row = thread / 32 * 16 + lane / 4;
    if (kOutputs && a.segments.count > 1) {
      before = a.local.Before(pair, segment);
    } else if (kOutputs && a.matrix.present()) {
      before = {a.matrix.At(b, head), a.matrix.stride[2], a.vector.At(b, head)};
    }
  }

  __device__ void InitBarriers() {
    for (int i = 0; i < kStages; ++i) BarrierInit(&loaded[i], 1);
    // Every thread that wrote or read a buffer says so itself: an order that racecheck sees too.
    for (int i = 0; i < kBuffers; ++i) BarrierInit(&ready[i], kWarpgroup);
    for (int i = 0; i < kBuffers; ++i) BarrierInit(&done[i], kGroups * kWarpgroup);
    for (int i = 0; i < kStages; ++i) finished[i] = 0;
    BarrierInitFence();
  }

  __device__ void BeginScores(float (&z)[kBlocks][4]) {
    for (int i = thread; i < kStages * kBlocks * 256; i += kWarpgroup) {  // rows 64 to 71 of k
      reinterpret_cast<uint32_t*>(Key(0) + i / 256 * kKeyBlock + kBlock)[i % 256] = 0;
    }
    for (int i = thread; i < 2 * 256; i += kWarpgroup) reinterpret_cast<uint32_t*>(Keep(0))[i] = 0;
#pragma unroll
    for (int c = 0; c < kBlocks; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool mine = lane % 4 == 0 && i % 2 == 0 && before.vector != nullptr;
        z[c][i] = mine ? before.vector[64 * c + row + 4 * i] : 0.0f;
      }
    }
    NamedBarrier(1, kWarpgroup);  // the zeros are written
    if (kOutputs) StoreVector(z, 0);
    if (thread < kChunk) StoreWeights(PendingWeights(a.gates, pair, first_chunk, thread), 0);
  }

  __device__ void RunScores(float (&z)[kBlocks][4]) {
    for (int index = 0; index < count; ++index) {
      const int64_t chunk = first_chunk + index;
      const int stage = index % kStages, buffer = index % kBuffers;
      const bool more = index + 1 < count;
      const PendingWeights next(a.gates, pair, more ? chunk + 1 : chunk, thread % kChunk);
      const ChunkWeights& w = *Weights(index);
      const float decay = w.decay;
      BarrierWait(&loaded[stage], index / kStages % 2);
      float scores[36] = {};  // q k^T, and q.z in columns 64 and 65
      if constexpr (kOutputs) {
        if (a.vectors != nullptr) WriteVector(z, a.vectors + (pair * a.gates.chunks + chunk) * kN);
      }
#pragma unroll
      for (int c = 0; c < kBlocks; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) z[c][i] *= decay;
        Hold(z[c]);
      }
      Hold(scores);
      ProductFence();
      if constexpr (kOutputs) {
#pragma unroll
        for (int k = 0; k < kN; k += 16) {
          Product<72>::Shared<0, 0>(scores, RowOperand(Query(stage), kBlock, 0, k),
                                    RowOperand(Key(stage), kKeyBlock, 0, k), k > 0);
        }
      }
#pragma unroll
      for (int c = 0; c < kBlocks; ++c) {
#pragma unroll
        for (int k = 0; k < kChunk; k += 16) {
          Product<8>::Shared<1, 0>(z[c], ColumnOperand(Key(stage), kKeyBlock, k, 64 * c),
                                   RowOperand(Keep(index), 0, 0, k), k > 0 || decay != 0.0f);
        }
      }
      ProductCommit();
      if (index >= kBuffers) BarrierWait(&done[buffer], (index / kBuffers + 1) % 2);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) ScaleRows(Value(stage, g), w.keep, Kept(buffer, g));
      if (more && thread < kChunk) StoreWeights(next, index + 1);
      ProductWait<0>();
      Hold(scores);
#pragma unroll
      for (int c = 0; c < kBlocks; ++c) Hold(z[c]);
      if (kOutputs && more) StoreVector(z, (index + 1) % kStages);
      if (kOutputs) WeighScores(scores, w, chunk, buffer);
      if (thread == 0) Factors(buffer)->decay = decay;
      FenceForAsync();
      BarrierArrive(&ready[buffer]);
      NamedBarrier(1, kWarpgroup);
    }
  }

  __device__ void EndScores(const float (&z)[kBlocks][4]) {
    if (!kOutputs) {
      WriteVector(z, a.local.At(pair, segment) + kN * kD);
    } else if (a.matrix_out.present() && segment == a.segments.count - 1) {
      WriteVector(z, a.vector_out.At(b, head));
      if (thread == 0) *a.most_out.At(b, head) = a.gates.before[pair * (a.gates.chunks + 1) + a.gates.chunks];
    }
  }

  __device__ void BeginState(int group, float (&state)[kBlocks][32]) {
    LoadState<kBlocks>(before, group * 64, state);
    if (kOutputs) StoreStateTile<kBlocks>(state, State(group));
  }

  __device__ void RunState(int group, float (&state)[kBlocks][32]) {
    const bool leader = thread == 0, saves = kOutputs && a.states != nullptr;
    float decayed = 1.0f;  // product of the decays so far
    for (int index = 0; index < count; ++index) {
      const int64_t chunk = first_chunk + index;
      const int stage = index % kStages, buffer = index % kBuffers;
      if (saves && leader) {  // the state before this chunk, for BACKWARD
        StoreBytes(a.states + ((pair * a.gates.chunks + chunk) * kGroups + group) * kN * 128, State(group), kN * 128);
        StoreCommit();
      }
      BarrierWait(&loaded[stage], index / kStages % 2);
      // Before the products: with a wait or a condition among them the compiler would put one behind the other.
      BarrierWait(&ready[buffer], index / kBuffers % 2);
      float out[32] = {};
      if constexpr (kOutputs) {
        Hold(out);
        ProductFence();
#pragma unroll
        for (int k = 0; k < kN; k += 16) {
          Product<64>::Shared<0, 1>(out, RowOperand(Query(stage), kBlock, 0, k),
                                    ColumnOperand(State(group), kN * 128, k, 0), k > 0);
        }
        ProductCommit();
      }
      const RowFactors& factors = *Factors(buffer);
      const float decay = factors.decay;
      const int carries = decay != 0.0f;  // else the product begins anew, whatever the state was
#pragma unroll
      for (int c = 0; c < kBlocks; ++c) {
#pragma unroll
        for (int i = 0; i < 32; ++i) state[c][i] *= decay;
        Hold(state[c]);
      }
      decayed *= decay;
      ProductFence();
#pragma unroll
      for (int c = 0; c < kBlocks; ++c) {
#pragma unroll
        for (int k = 0; k < kChunk; k += 16) {
          Product<64>::Shared<1, 1>(state[c], ColumnOperand(Key(stage), kKeyBlock, k, 64 * c),
                                    ColumnOperand(Kept(buffer, group), kBlock, k, 0), k > 0 || carries);
        }
      }
      ProductCommit();
      if constexpr (kOutputs) {
        ProductWait<1>();
        Hold(out);
        ScaleOut<true>(factors.carry, out);
        if (leader) StoreWaitRead<0>();  // the state's tile and the h before have left
        NamedBarrier(2 + group, kWarpgroup);
        ProductFence();
#pragma unroll
        for (int k = 0; k < kChunk; k += 16) {
          Product<64>::Shared<0, 1>(out, RowOperand(Scores(buffer), kBlock, 0, k),
                                    ColumnOperand(Value(stage, group), kBlock, k, 0), 1);
        }
        ProductCommit();
        ProductWait<1>();
      } else {
        ProductWait<0>();
      }
#pragma unroll
      for (int c = 0; c < kBlocks; ++c) Hold(state[c]);
      if constexpr (kOutputs) {
        StoreStateTile<kBlocks>(state, State(group));
        ProductWait<0>();
        Hold(out);
        ScaleOut<false>(factors.inverse, out);
        StoreTile16(out, Tile16(Out(group)));
        FenceForAsync();
      }
      BarrierArrive(&done[buffer]);
      NamedBarrier(2 + group, kWarpgroup);
      if (leader) {
        if (kOutputs) {
          StoreBox(m.h, Out(group), group * 64, static_cast<int>(chunk) * kChunk, head, b);
          StoreCommit();
        }
        if (index + kStages < count && LastToFinish(stage)) Load(index + kStages);
      }
    }
    if (leader) StoreWait();
    EndState(group, state, decayed);
  }

  // One thread: k, v and q of a chunk, counted from the segment's first.
  __device__ void Load(int index) {
    const int stage = index % kStages, t = static_cast<int>(first_chunk + index) * kChunk;
    uint64_t* const barrier = &loaded[stage];
    BarrierExpect(barrier, Layout::kLoaded);
    for (int i = 0; i < kBlocks; ++i) {
      if (kOutputs) LoadBox(Query(stage) + i * kBlock, m.q, i * 64, t, head, b, barrier);
      LoadBox(Key(stage) + i * kKeyBlock, m.k, i * 64, t, head, b, barrier);
    }
    for (int i = 0; i < kGroups; ++i) LoadBox(Value(stage, i), m.v, i * 64, t, head / a.group, b, barrier);
  }
  __device__ void LoadFirst() {
    for (int i = 0; i < kStages && i < count; ++i) Load(i);
  }

 private:
  __device__ char* Query(int stage) const { return shared + Layout::kQ + stage * kBlocks * kBlock; }
  __device__ char* Key(int stage) const { return shared + Layout::kK + stage * kBlocks * kKeyBlock; }
  __device__ char* Value(int stage, int g) const { return shared + Layout::kV + (stage * kGroups + g) * kBlock; }
  __device__ char* Kept(int buffer, int g) const { return shared + Layout::kKept + (buffer * kGroups + g) * kBlock; }
  __device__ char* Scores(int buffer) const { return shared + Layout::kScores + buffer * kBlock; }
  __device__ char* Out(int g) const { return shared + Layout::kH + g * kBlock; }
  __device__ char* State(int g) const { return shared + Layout::kState + g * kN * 128; }
  __device__ char* Keep(int index) const { return shared + Layout::kKeep + index % 2 * Layout::kKeepBlock; }
  __device__ ChunkWeights* Weights(int index) const {
    return reinterpret_cast<ChunkWeights*>(shared + Layout::kWeights) + index % 2;
  }
  __device__ RowFactors* Factors(int buffer) const {
    return reinterpret_cast<RowFactors*>(shared + Layout::kFactors) + buffer;
  }

  // The value of a thread that has one: lanes that are multiples of 4 hold z of the features row and row + 8 of a block
  // in two parts.
  __device__ void WriteVector(const float (&z)[kBlocks][4], float* to) const {
    if (lane % 4 != 0) return;
#pragma unroll
    for (int c = 0; c < kBlocks; ++c) {
      to[64 * c + row] = z[c][0] + z[c][1];
      to[64 * c + row + 8] = z[c][2] + z[c][3];
    }
  }
  __device__ void StoreVector(const float (&z)[kBlocks][4], int stage) const {
    if (lane % 4 != 0) return;
#pragma unroll
    for (int c = 0; c < kBlocks; ++c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        StoreParts(Key(stage) + c * kKeyBlock, 64, row + 8 * half, z[c][2 * half] + z[c][2 * half + 1]);
      }
    }
  }
  __device__ void StoreWeights(const PendingWeights& pending, int index) const {
    ChunkWeights* const to = Weights(index);
    pending.Store(to);
    StoreParts(Keep(index), 0, thread, to->keep[thread]);
  }
  // `value` in a column of two rows of a tile, as bf16 high and low parts.
  __device__ static void StoreParts(char* tile, int to_row, int column, float value) {
    const bf16 high = __float2bfloat16(value);
    *reinterpret_cast<bf16*>(tile + TileOffset(to_row, column)) = high;
    *reinterpret_cast<bf16*>(tile + TileOffset(to_row + 1, column)) = __float2bfloat16(value - __bfloat162float(high));
  }

  // P and the factors of this thread's rows of the chunk.
  __device__ void WeighScores(float (&scores)[36], const ChunkWeights& w, int64_t chunk, int buffer) const {
    const int pair_column = lane % 4 * 2, last_column = row / 16 * 16 + 15;
    const float most[2] = {w.most[row], w.most[row + 8]};
    const int first[2] = {kDocuments ? w.first[row] : 0, kDocuments ? w.first[row + 8] : 0};
    float sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float* const score = scores + 4 * j;
      if (8 * j > last_column) {  // no row of this warp sees them
        score[0] = score[1] = score[2] = score[3] = 0.0f;
        continue;
      }
      const int column = 8 * j + pair_column;
      const float2 x = *reinterpret_cast<const float2*>(&w.x[column]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int u = row + 8 * half;
        const auto weighted = [&](float value, float x_column, int at) {
          const float product = value * (a.scale * Exp2(x_column - most[half]));
          return at <= u && (!kDocuments || at >= first[half]) ? product : 0.0f;
        };
        const float2 rounded = UnpackPair(
            PackPair(weighted(score[2 * half], x.x, column), weighted(score[2 * half + 1], x.y, column + 1)));
        score[2 * half] = rounded.x;
        score[2 * half + 1] = rounded.y;
        sum[half] += rounded.x + rounded.y;
      }
    }
    StoreTile16(scores, Tile16(Scores(buffer)));
    RowFactors* const factors = Factors(buffer);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int u = row + 8 * half;
      sum[half] += XH_SHUFFLE_XOR(sum[half], 1);
      sum[half] += XH_SHUFFLE_XOR(sum[half], 2);
      if (lane % 4 != 0) continue;
      const float carry = w.carry[u] * a.scale;
      // A state that has no weight does not matter, whatever it is.
      const float from_state = carry != 0.0f ? carry * (scores[32 + 2 * half] + scores[33 + 2 * half]) : 0.0f;
      const float denominator = sum[half] + from_state;
      const int64_t t = chunk * kChunk + u;
      if (a.denominators != nullptr && t < a.gates.tokens) a.denominators[pair * a.gates.tokens + t] = denominator;
      float divisor = denominator;
      if (a.floored) divisor = fabsf(denominator) < w.floor[u] ? w.floor[u] : fabsf(denominator);
      factors->carry[u] = carry;
      factors->inverse[u] = 1.0f / divisor;
    }
  }

  // Rows times a factor each. kForgets: a factor of 0 leaves nothing, whatever was there; else infinity stays to be
  // seen.
  template <bool kForgets>
  __device__ void ScaleOut(const float* factor, float (&out)[32]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float by = factor[row + 8 * half];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        float* const o = out + 4 * j + 2 * half;
        o[0] = kForgets && by == 0.0f ? 0.0f : o[0] * by;
        o[1] = kForgets && by == 0.0f ? 0.0f : o[1] * by;
      }
    }
    Hold(out);
  }
  // Whether the other state warpgroups have finished the chunk that the caller has finished. One thread of each.
  __device__ bool LastToFinish(int stage) const {
    if (kGroups == 1) return true;
    __threadfence_block();
    const bool last = atomicAdd(&finished[stage], 1) % kGroups == kGroups - 1;
    __threadfence_block();
    return last;
  }
  __device__ void EndState(int group, const float (&state)[kBlocks][32], float decayed) const {
    if (!kOutputs) {
      float* const to = a.local.At(pair, segment);
      WriteState<kBlocks>(state, group * 64, to, kD);
      if (group == 0 && thread == 0) to[kN * kD + kN] = decayed;
    } else if (a.matrix_out.present() && segment == a.segments.count - 1) {
      WriteState<kBlocks>(state, group * 64, a.matrix_out.At(b, head), a.matrix_out.stride[2]);
    }
  }

  const ForwardMaps& m;
  const ForwardArguments& a;
  char* const shared;
  uint64_t *loaded, *ready, *done;  // a stage's copies have come; a buffer's scores are there; and are not needed more
  int* finished;                    // a stage's chunks that state warpgroups finished, all together
  int64_t segment, pair, first_chunk;
  int b, head, count, thread, lane, row;
  StateView before = {nullptr, 0, nullptr};
};

template <int kN, int kD, bool kOutputs, bool kDocuments>
__global__ void __launch_bounds__(ForwardLayout<kN, kD, kOutputs>::kThreads,
                                  ForwardLayout<kN, kD, kOutputs>::kBlocksAtOnce)
    ForwardKernel(const __grid_constant__ ForwardMaps maps, const __grid_constant__ ForwardArguments a) {
  extern __shared__ char unaligned[];
  ForwardBlock<kN, kD, kOutputs, kDocuments> block(maps, a, unaligned);
  const int role = XH_SHUFFLE(static_cast<int>(threadIdx.x) / kWarpgroup, 0);  // the same for a warp, visibly so
  if (threadIdx.x == 0) block.InitBarriers();
  // Where registers are few for the rows of state, its warpgroups get some of the other's.
  using Layout = ForwardLayout<kN, kD, kOutputs>;
  constexpr bool kUneven = kN == 256 || (Layout::kBlocksAtOnce == 2 && kN == 128 && kOutputs);
  if (role == 0) {
    if constexpr (kUneven) asm volatile("setmaxnreg.dec.sync.aligned.u32 104;");
    float z[kN / 64][4];
    block.BeginScores(z);
    FenceForAsync();
    __syncthreads();
    if (threadIdx.x == 0) block.LoadFirst();
    block.RunScores(z);
    block.EndScores(z);
  } else {
    if constexpr (kUneven) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kN == 256 ? 200 : 152));
    float state[kN / 64][32];
    block.BeginState(role - 1, state);
    FenceForAsync();
    __syncthreads();
    block.RunState(role - 1, state);
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
    const auto allow = [&](auto kernel, int bytes) {
      if (refusal.code == 0) refusal = AllowShared(kernel, bytes, facts);
    };
    allow(ForwardKernel<kN, kD, true, false>, Layout::kBytes);
    allow(ForwardKernel<kN, kD, true, true>, Layout::kBytes);
    allow(ForwardKernel<kN, kD, false, false>, LocalLayout::kBytes);
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
    const ForwardMaps maps = {MakeTensorMap(launch.args[kQ], kChunk), MakeTensorMap(launch.args[kK], kChunk),
                              MakeTensorMap(launch.args[kV], kChunk), MakeTensorMap(launch.args[kH], kChunk)};
    const auto run = [&](auto kernel, int64_t segments, int threads, int bytes) {
      kernel<<<static_cast<unsigned>(a.pairs * segments), threads, bytes, launch.stream>>>(maps, a);
    };
    if (segments_.count > 1) {  // nothing comes behind the last segment
      run(ForwardKernel<kN, kD, false, false>, segments_.count - 1, LocalLayout::kThreads, LocalLayout::kBytes);
      LaunchSegmentScan(launch.stream, a.local, a.pairs, shape_.heads, a.matrix, a.vector, false);
    }
    a.matrix_out = ViewOf<float>(launch.args[kSOut]);
    a.vector_out = ViewOf<float>(launch.args[kZOut]);
    a.most_out = ViewOf<float>(launch.args[kMOut]);
    if (shape_.documents) {
      run(ForwardKernel<kN, kD, true, true>, segments_.count, Layout::kThreads, Layout::kBytes);
    } else {
      run(ForwardKernel<kN, kD, true, false>, segments_.count, Layout::kThreads, Layout::kBytes);
    }
  }

 private:
  using Layout = ForwardLayout<kN, kD, true>;
  using LocalLayout = ForwardLayout<kN, kD, false>;
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
  if (shape.features == 256) return Make<256, 128>(shape, request, std::move(plain));
  if (shape.columns == 128) return Make<128, 128>(shape, request, std::move(plain));
  if (shape.features == 128) return Make<128, 64>(shape, request, std::move(plain));
  return Make<64, 64>(shape, request, std::move(plain));
}

}  // namespace xh::gpu::mlstm
