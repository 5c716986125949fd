// MLSTM on Hopper, BACKWARD: one pass against the sequence (SPEC.md 1.1). With the denominator as one more column of h,
// v' = [v, 1] and dh' = [dh, -(dh . h)] / N, the mLSTM is a linear attention without normaliser:
//   E = (dh' v'^T) o D,  P = (q k^T) o D,  dv = P^T dh',  dq = E k,  dk = E^T q   inside a chunk, and through the state
//   dq += carry dh' S'^T,  dk += keep v' dS'^T,  dv += keep k dS,  dS' before the chunk = decay dS' + (carry q)^T dh'.
// The products inside a chunk are made transposed, [s][t]. Of two warpgroups one makes P^T and the other E^T, for both.
// Bytes of device memory: q, k, v, dh and the saved states are read once, dh and h once more for the row sums; dq, dk
// and dv are written once.
#ifndef XHYBRID_BACKENDS_CUDA_MLSTM_BACKWARD_SM90_CUH_
#define XHYBRID_BACKENDS_CUDA_MLSTM_BACKWARD_SM90_CUH_

#include "backends/cuda/mlstm_plans_sm90.cuh"

namespace xh::gpu::mlstm {

using namespace sm90;

// What a chunk needs of its gates and divisors, an entry a token.
struct alignas(16) BackwardWeights {
  float x[kChunk], most[kChunk];  // times log2(e); both make room for q . dq when P and E are there
  float keep[kChunk];
  float inverse[kChunk];       // 1 / N; with delta makes room for k . dk when P and E are there
  float delta[kChunk];         // (dh . h) / N
  float state_weight[kChunk];  // carry / N
  float state_delta[kChunk];   // carry (dh . h) / N
  uint8_t first[kChunk];
  float decay;
};

template <int kN, int kD>
struct BackwardLayout {
  static constexpr int kGroups = kD / 64, kThreads = kGroups * kWarpgroup, kBlock = 64 * 128;
  // A small head leaves room for several blocks of threads a multiprocessor, which hide each other's loads.
  static constexpr int kStages = kD == 128 ? 2 : 1;
  static constexpr int kStage = (2 * kN + 2 * kD) / 64 * kBlock;  // q, k, v, dh
  static constexpr int kK = kN / 64 * kBlock, kV = 2 * kK, kG = kV + kGroups * kBlock;
  static constexpr int kState = kStages * kStage;
  static constexpr int kGradient = kState + kGroups * kN * 128;  // of the state after the chunk
  static constexpr int kWeighted = kGradient + kGroups * kN * 128;
  static constexpr int kInside = kWeighted + kGroups * kBlock;  // P^T, then E^T
  static constexpr int kWeights = kInside + 2 * kBlock;
  static constexpr int kZ = kWeights + static_cast<int>(sizeof(BackwardWeights));
  static constexpr int kDz = kZ + kN * 4;
  static constexpr int kBarriers = kDz + kN * 4;
  static constexpr int kBytes = kBarriers + 24;  // nearly all there is at 128 x 128: no room to round the start up
};

class PendingBackward {
 public:
  __device__ PendingBackward(const BackwardArguments& a, int64_t pair, int64_t chunk, int token)
      : chunk_(a.gates, pair, chunk), token_(token), at_(token < chunk_.tokens ? token : chunk_.tokens - 1) {
    x_ = chunk_.x[at_];
    first_ = chunk_.First(at_);
    most_ = chunk_.Most(at_);
    inverse_ = a.inverses[pair * a.gates.tokens + chunk_.at + at_];
    delta_ = a.deltas[pair * a.gates.tokens + chunk_.at + at_];
  }
  __device__ void Store(float scale, BackwardWeights* to) const {
    const bool inside = token_ == at_;
    const float carry = inside ? scale * chunk_.Carry(at_, most_) : 0.0f;
    to->x[token_] = inside ? x_ * kLog2E : -kInfinity;
    to->most[token_] = most_ * kLog2E;
    to->keep[token_] = inside && token_ >= chunk_.last_document ? __expf(chunk_.total + x_ - chunk_.after) : 0.0f;
    to->inverse[token_] = inside ? inverse_ : 0.0f;
    to->delta[token_] = inside ? delta_ : 0.0f;
    to->state_weight[token_] = carry * inverse_;
    to->state_delta[token_] = carry * delta_;
    to->first[token_] = static_cast<uint8_t>(first_);
    if (token_ == 0) to->decay = chunk_.Decay();
  }

 private:
  ChunkGates<float> chunk_;
  int token_, at_;
  float x_, most_, inverse_, delta_;
  int first_;
};

// Accumulators [s][t] of k q^T or v dh^T to P^T (no `delta`) or E^T: times the weights, less delta of each t.
template <bool kDocuments>
__device__ inline void WeighInside(float (&d)[32], const BackwardWeights& w, float scale, bool is_e) {
  const int thread = threadIdx.x % kWarpgroup, row = thread / 32 * 16 + thread % 32 / 4, pair_column = thread % 4 * 2;
  const float x[2] = {w.x[row], w.x[row + 8]};
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float* const at = d + 4 * j;
    if (8 * j + 7 < row / 16 * 16) {  // no row of this warp is seen by them
      at[0] = at[1] = at[2] = at[3] = 0.0f;
      continue;
    }
    const int column = 8 * j + pair_column;
    const float2 most = *reinterpret_cast<const float2*>(&w.most[column]);
    const float2 inverse = *reinterpret_cast<const float2*>(&w.inverse[column]);
    float2 delta = *reinterpret_cast<const float2*>(&w.delta[column]);
    if (!is_e) delta = {0.0f, 0.0f};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int s = row + 8 * half;
      const auto weighted = [&](float value, int t, float most_t) {
        const bool visible = s <= t && (!kDocuments || s >= w.first[t]);
        const float weight = visible ? scale * Exp2(x[half] - most_t) : 0.0f;
        return weight == 0.0f ? 0.0f : weight * value;
      };
      at[2 * half] = weighted(at[2 * half] * inverse.x - delta.x, column, most.x);
      at[2 * half + 1] = weighted(at[2 * half + 1] * inverse.y - delta.y, column + 1, most.y);
    }
  }
}

// to[row] = the dot of a row of a tile with that of accumulators, over the features of this warpgroup.
template <int kParts>
__device__ inline void RowDots(const char* tile, const float (&d)[kParts][32], float* to) {
  int thread = threadIdx.x % kWarpgroup;
  asm volatile("" : "+r"(thread));  // else addresses of an earlier call are kept in registers, of which there are none
  const int pair_column = thread % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = thread / 32 * 16 + thread % 32 / 4 + 8 * half;
    float sum = 0.0f;
#pragma unroll
    for (int c = 0; c < kParts; ++c) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float2 x =
            UnpackPair(*reinterpret_cast<const uint32_t*>(tile + c * 64 * 128 + TileOffset(row, 8 * j + pair_column)));
        sum += x.x * d[c][4 * j + 2 * half] + x.y * d[c][4 * j + 2 * half + 1];
      }
    }
    sum += XH_SHUFFLE_XOR(sum, 1);
    sum += XH_SHUFFLE_XOR(sum, 2);
    if (thread % 4 == 0) to[row] = sum;
  }
}

// kOutputs 0: only the gradient of the state before a segment, whose gradient after it was 0.
template <int kN, int kD, bool kOutputs, bool kDocuments>
__global__ void __launch_bounds__(kD / 64 * kWarpgroup, 1)
    BackwardKernel(const __grid_constant__ CUtensorMap map_q, const __grid_constant__ CUtensorMap map_k,
                   const __grid_constant__ CUtensorMap map_v, const __grid_constant__ CUtensorMap map_g,
                   const __grid_constant__ CUtensorMap map_dq, const __grid_constant__ CUtensorMap map_dk,
                   const __grid_constant__ CUtensorMap map_dv, const BackwardArguments a) {
  using Layout = BackwardLayout<kN, kD>;
  constexpr int kBlocks = kN / 64, kGroups = Layout::kGroups, kBlock = Layout::kBlock, kStages = Layout::kStages;
  constexpr int kParts = kBlocks / kGroups > 0 ? kBlocks / kGroups : 1;  // blocks of 64 features of a warpgroup
  constexpr int kStateBlock = kN * 128;
  extern __shared__ __align__(1024) char shared[];
  uint64_t* const loaded = reinterpret_cast<uint64_t*>(shared + Layout::kBarriers);
  uint64_t* const state_loaded = loaded + 2;
  float* const z = reinterpret_cast<float*>(shared + Layout::kZ);
  float* const dz = reinterpret_cast<float*>(shared + Layout::kDz);
  BackwardWeights& w = *reinterpret_cast<BackwardWeights*>(shared + Layout::kWeights);
  float *const di = w.inverse, *const shares = w.x;
  char *const state_tiles = shared + Layout::kState, *const gradient_tiles = shared + Layout::kGradient;
  char* const weighted = shared + Layout::kWeighted;
  char *const p_tile = shared + Layout::kInside, *const e_tile = p_tile + kBlock;

  // Nothing comes before the first segment, so nobody asks for the gradient that leaves it.
  const int64_t segment = blockIdx.x / a.pairs + (kOutputs ? 0 : 1), pair = blockIdx.x % a.pairs;
  const int b = static_cast<int>(pair / a.heads), head = static_cast<int>(pair % a.heads), kv_head = head / a.group;
  const int64_t first_chunk = a.segments.First(segment), end_chunk = a.segments.End(segment, a.gates.chunks);
  const int64_t count = end_chunk - first_chunk;
  const int thread = static_cast<int>(threadIdx.x), group = thread / kWarpgroup, lane = thread % 32;
  const int row = thread % kWarpgroup / 32 * 16 + lane / 4, pair_column = lane % 4 * 2;
  const int part = group * kParts;  // this warpgroup's first block of features

  const auto load = [&](int64_t chunk, int stage) {
    const int t = static_cast<int>(chunk) * kChunk;
    char* const to = shared + stage * Layout::kStage;
    uint64_t* const barrier = &loaded[stage];
    BarrierExpect(barrier, kOutputs ? Layout::kStage : (kBlocks + kGroups) * kBlock);
    for (int i = 0; i < kBlocks; ++i) {
      LoadBox(to + i * kBlock, map_q, i * 64, t, head, b, barrier);
      if (kOutputs) LoadBox(to + Layout::kK + i * kBlock, map_k, i * 64, t, head, b, barrier);
    }
    for (int i = 0; i < kGroups; ++i) {
      if (kOutputs) LoadBox(to + Layout::kV + i * kBlock, map_v, i * 64, t, kv_head, b, barrier);
      LoadBox(to + Layout::kG + i * kBlock, map_g, i * 64, t, head, b, barrier);
    }
  };
  const auto load_state = [&](int64_t chunk) {
    BarrierExpect(state_loaded, kGroups * kStateBlock);
    LoadBytes(state_tiles, a.states + (pair * a.gates.chunks + chunk) * kGroups * kStateBlock, kGroups * kStateBlock,
              state_loaded);
  };

  if (thread == 0) {
    for (int i = 0; i < 3; ++i) BarrierInit(&loaded[i], 1);
    BarrierInitFence();
  }
  StateView after = {nullptr, 0, nullptr};
  if (kOutputs && a.segments.count > 1) after = a.local.Before(pair, segment);
  float gradient[kBlocks][32];
  LoadState<kBlocks>(after, group * 64, gradient);
  for (int i = thread; i < kN; i += Layout::kThreads) dz[i] = after.vector == nullptr ? 0.0f : after.vector[i];
  if (kOutputs) StoreStateTile<kBlocks>(gradient, gradient_tiles + group * kStateBlock);
  if (thread < kChunk) PendingBackward(a, pair, end_chunk - 1, thread).Store(a.scale, &w);
  FenceForAsync();
  __syncthreads();
  if (thread == 0) {
    if (kStages == 2) load(end_chunk - 1, 0);
    if (kOutputs) load_state(end_chunk - 1);
  }
  float decayed = 1.0f;

  for (int64_t i = 0; i < count; ++i) {
    const int64_t chunk = end_chunk - 1 - i;
    const int stage = kStages == 2 ? static_cast<int>(i % 2) : 0;
    const bool more = i + 1 < count;
    if (thread == 0) {
      StoreWaitRead<0>();  // gradients leave from the tiles that are loaded next
      if (kStages == 1) load(chunk, 0);
      if (kStages == 2 && more) load(chunk - 1, 1 - stage);
    }
    const PendingBackward next(a, pair, more ? chunk - 1 : chunk, thread % kChunk);
    if (kOutputs && thread < kN) z[thread] = a.vectors[(pair * a.gates.chunks + chunk) * kN + thread];
    char* const q_tile = shared + stage * Layout::kStage;
    char *const k_tile = q_tile + Layout::kK, *const v_tile = q_tile + Layout::kV, *const g_tile = q_tile + Layout::kG;
    BarrierWait(&loaded[stage], static_cast<uint32_t>(i / kStages % 2));
    if (kOutputs) BarrierWait(state_loaded, static_cast<uint32_t>(i % 2));

    float dk[kParts][32] = {}, dv[32] = {};
    uint32_t dq_words[kParts][16];
    float dq[kParts][32] = {};
    if constexpr (kOutputs) {
      ProductFence();
#pragma unroll
      for (int c = 0; c < kParts; ++c) {
#pragma unroll
        for (int k = 0; k < kD; k += 16) {
          Product<64>::Shared<0, 0>(dq[c], RowOperand(g_tile, kBlock, 0, k),
                                    RowOperand(state_tiles, kStateBlock, 64 * (part + c), k), k > 0);
        }
      }
#pragma unroll
      for (int which = 0; which < 2 / kGroups; ++which) {
        const bool is_e = kGroups == 1 ? which == 1 : group == 1;
        float inside[32] = {};
        Hold(inside);
        ProductFence();
#pragma unroll
        for (int k = 0; k < (kGroups == 1 && which == 1 ? kD : kN); k += 16) {
          Product<64>::Shared<0, 0>(inside, RowOperand(is_e ? v_tile : k_tile, kBlock, 0, k),
                                    RowOperand(is_e ? g_tile : q_tile, kBlock, 0, k), k > 0);
        }
        ProductCommit();
        if (which == 0) ScaleRows(g_tile + group * kBlock, w.state_weight, weighted + group * kBlock);
        ProductWait<0>();
        Hold(inside);
        WeighInside<kDocuments>(inside, w, a.scale, is_e);
        StoreTile16(inside, Tile16(is_e ? e_tile : p_tile));
      }
    } else {
      ScaleRows(g_tile + group * kBlock, w.state_weight, weighted + group * kBlock);
    }
    FenceForAsync();
    __syncthreads();  // P^T, E^T and the weighted dh are there; nobody reads the state's tiles any more

    if constexpr (kOutputs) {
      if (thread == 0 && more) load_state(chunk - 1);
#pragma unroll
      for (int c = 0; c < kParts; ++c) {
        Hold(dq[c]);
#pragma unroll
        for (int at = 0; at < 32; ++at) {
          const int t = row + (at & 2) * 4, feature = 64 * (part + c) + at / 4 * 8 + pair_column + (at & 1);
          const float weight = w.state_weight[t];
          dq[c][at] = weight == 0.0f ? 0.0f : weight * dq[c][at];
          dq[c][at] -= w.state_delta[t] * z[feature];
        }
        Hold(dq[c]);
      }
      ProductFence();
#pragma unroll
      for (int c = 0; c < kParts; ++c) {
#pragma unroll
        for (int k = 0; k < 64; k += 16) {
          Product<64>::Shared<1, 1>(dq[c], ColumnOperand(e_tile, kBlock, k, 0),
                                    ColumnOperand(k_tile, kBlock, k, 64 * (part + c)), 1);
        }
      }
      ProductCommit();
      ProductWait<0>();
#pragma unroll
      for (int c = 0; c < kParts; ++c) Hold(dq[c]);
      RowDots<kParts>(q_tile + part * kBlock, dq, shares + group * kChunk);
#pragma unroll
      for (int c = 0; c < kParts; ++c) {
#pragma unroll
        for (int at = 0; at < 16; ++at) dq_words[c][at] = PackPair(dq[c][2 * at], dq[c][2 * at + 1]);
      }
      ProductFence();
#pragma unroll
      for (int c = 0; c < kParts; ++c) {
#pragma unroll
        for (int k = 0; k < kD; k += 16) {
          Product<64>::Shared<0, 0>(dk[c], RowOperand(v_tile, kBlock, 0, k),
                                    RowOperand(gradient_tiles, kStateBlock, 64 * (part + c), k), k > 0);
        }
      }
#pragma unroll
      for (int k = 0; k < kN; k += 16) {
        Product<64>::Shared<0, 1>(dv, RowOperand(k_tile, kBlock, 0, k),
                                  ColumnOperand(gradient_tiles, kStateBlock, k, 64 * group), k > 0);
      }
      ProductCommit();
      ProductWait<0>();
      Hold(dv);
#pragma unroll
      for (int at = 0; at < 32; ++at) {
        const float keep = w.keep[row + (at & 2) * 4];
        dv[at] = keep == 0.0f ? 0.0f : keep * dv[at];
      }
      Hold(dv);
#pragma unroll
      for (int c = 0; c < kParts; ++c) {
        Hold(dk[c]);
#pragma unroll
        for (int at = 0; at < 32; ++at) {
          const float keep = w.keep[row + (at & 2) * 4];
          const int feature = 64 * (part + c) + at / 4 * 8 + pair_column + (at & 1);
          dk[c][at] = keep == 0.0f ? 0.0f : keep * (dk[c][at] + dz[feature]);
        }
        Hold(dk[c]);
      }
    }

    const float decay = w.decay;
    const int carries = decay != 0.0f;  // else the product begins anew, whatever the gradient was
#pragma unroll
    for (int c = 0; c < kBlocks; ++c) {
#pragma unroll
      for (int at = 0; at < 32; ++at) gradient[c][at] *= decay;
      Hold(gradient[c]);
    }
    decayed *= decay;
    ProductFence();
    if constexpr (kOutputs) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int c = 0; c < kParts; ++c) {
          Product<64>::Shared<0, 1>(dk[c], RowOperand(e_tile, kBlock, 0, 16 * k),
                                    ColumnOperand(q_tile, kBlock, 16 * k, 64 * (part + c)), 1);
        }
        Product<64>::Shared<0, 1>(dv, RowOperand(p_tile, kBlock, 0, 16 * k),
                                  ColumnOperand(g_tile, kBlock, 16 * k, 64 * group), 1);
      }
    }
#pragma unroll
    for (int c = 0; c < kBlocks; ++c) {
#pragma unroll
      for (int k = 0; k < 64; k += 16) {
        Product<64>::Shared<1, 1>(gradient[c], ColumnOperand(q_tile, kBlock, k, 64 * c),
                                  ColumnOperand(weighted, kBlock, k, 64 * group), k > 0 || carries);
      }
    }
    ProductCommit();
    // dz, the features of this group of 4 lanes; put in place when nobody reads the old one any more.
    constexpr int kRounds = (kN / 2 + Layout::kThreads / 4 - 1) / (Layout::kThreads / 4);
    float2 dz_sums[kRounds];
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int which = thread / 4 + round * (Layout::kThreads / 4);
      float2 sum = {0.0f, 0.0f};
      if (which < kN / 2) sum = WeightedColumn(q_tile, kBlock, w.state_delta, which, lane % 4);
      sum.x += XH_SHUFFLE_XOR(sum.x, 1);
      sum.y += XH_SHUFFLE_XOR(sum.y, 1);
      sum.x += XH_SHUFFLE_XOR(sum.x, 2);
      sum.y += XH_SHUFFLE_XOR(sum.y, 2);
      dz_sums[round] = sum;
    }
    ProductWait<0>();
#pragma unroll
    for (int c = 0; c < kBlocks; ++c) Hold(gradient[c]);
    if constexpr (kOutputs) {
      Hold(dv);
#pragma unroll
      for (int c = 0; c < kParts; ++c) Hold(dk[c]);
      RowDots<kParts>(k_tile + part * kBlock, dk, di + group * kChunk);
    }
    __syncthreads();  // the products have read every tile

#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int which = thread / 4 + round * (Layout::kThreads / 4);
      if (which < kN / 2 && lane % 4 < 2) {
        const int feature = 2 * which + lane % 4;
        const float before = decay == 0.0f ? 0.0f : decay * dz[feature];
        dz[feature] = before - (lane % 4 == 0 ? dz_sums[round].x : dz_sums[round].y);
      }
    }
    if constexpr (kOutputs) {
#pragma unroll
      for (int c = 0; c < kParts; ++c) {
        StoreTile16(dq_words[c], Tile16(q_tile + (part + c) * kBlock));
        StoreTile16(dk[c], Tile16(k_tile + (part + c) * kBlock));
      }
      StoreTile16(dv, Tile16(v_tile + group * kBlock));
      StoreStateTile<kBlocks>(gradient, gradient_tiles + group * kStateBlock);
      const int64_t t = chunk * kChunk + thread;
      if (thread < kChunk && t < a.gates.tokens) {
        float sum = di[thread], share = shares[thread];
        for (int g = 1; g < kGroups; ++g) {
          sum += di[g * kChunk + thread];
          share += shares[g * kChunk + thread];
        }
        a.di[pair * a.gates.tokens + t] = sum;
        a.shares[pair * a.gates.tokens + t] = share;
      }
    }
    if (more && thread < kChunk) next.Store(a.scale, &w);  // behind its reading of di and shares
    FenceForAsync();
    __syncthreads();
    if (kOutputs && thread == 0) {
      const int t = static_cast<int>(chunk) * kChunk;
      const auto store = [&](const CUtensorMap& map, const char* tile, int blocks, bool adds) {
        for (int c = 0; c < blocks; ++c) {
          if (adds) {
            AddBox(map, tile + c * kBlock, c * 64, t, head, b);
          } else {
            StoreBox(map, tile + c * kBlock, c * 64, t, head, b);
          }
        }
      };
      if (a.wants_q) store(map_dq, q_tile, kBlocks, a.adds_q);
      if (a.wants_k) store(map_dk, k_tile, kBlocks, a.adds_k);
      if (a.wants_v) store(map_dv, v_tile, kGroups, a.adds_v);
      StoreCommit();
    }
  }
  if (thread == 0) StoreWait();
  if (!kOutputs) a.local.Write<kBlocks>(pair, segment, group * 64, gradient, dz, decayed);
}

}  // namespace xh::gpu::mlstm

#endif  // XHYBRID_BACKENDS_CUDA_MLSTM_BACKWARD_SM90_CUH_
