// What the Hopper kernels of the mLSTM share. A block of threads works on one (batch, head) pair and goes through the
// sequence in chunks of 64 tokens, the state in registers: warpgroup w holds columns [64 w, 64 w + 64) of S in f32, all
// n rows of it, and writes them as bf16 to shared memory for the products that read S. Few long sequences are cut into
// segments, whose states at their beginning a first pass finds (mlstm_segments_sm90.cu).
#ifndef XHYBRID_BACKENDS_CUDA_MLSTM_SM90_CUH_
#define XHYBRID_BACKENDS_CUDA_MLSTM_SM90_CUH_

#include "backends/cuda/mlstm.h"
#include "backends/cuda/mlstm_gates.cuh"
#include "backends/cuda/sm90.cuh"

namespace xh::gpu::mlstm {

static_assert(kChunk == 64, "the rows of a product of a warpgroup");
inline constexpr float kLog2E = 1.4426950408889634f;

// What a chunk needs of its gates (mlstm_gates.cuh), an entry a token, in shared memory.
struct alignas(16) ChunkWeights {
  float x[kChunk];      // log2(e) x; -inf past the end
  float most[kChunk];   // log2(e) M
  float carry[kChunk];  // of the state before the chunk in this token's output
  float keep[kChunk];   // of this token in the state after the chunk
  float floor[kChunk];  // 1 in units of this token's stabiliser
  int first[kChunk];    // the first token of the chunk that this one sees
  float decay;          // of the state over the chunk
};

// What every row of a chunk's h is multiplied by.
struct alignas(16) RowFactors {
  float carry[kChunk];    // of q times the state before the chunk
  float inverse[kChunk];  // of all
  float decay;            // of the state over the chunk
};

// 2^x, without the care that the library takes of subnormal results.
__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Makes the weights of a chunk, a thread a token. What is read from global memory is asked for by the constructor, so
// that it is under way while another chunk is worked on.
class PendingWeights {
 public:
  __device__ PendingWeights(const GateArrays<float>& gates, int64_t pair, int64_t chunk, int token)
      : chunk_(gates, pair, chunk), token_(token), at_(token < chunk_.tokens ? token : chunk_.tokens - 1) {
    x_ = chunk_.x[at_];
    first_ = chunk_.First(at_);
    most_ = chunk_.Most(at_);
    cumulative_ = chunk_.cumulative[at_];
  }
  __device__ void Store(ChunkWeights* to) const {
    const bool inside = token_ == at_;
    to->x[token_] = inside ? x_ * kLog2E : -kInfinity;
    to->most[token_] = most_ * kLog2E;
    to->carry[token_] = chunk_.Carry(at_, most_);
    to->keep[token_] = inside && token_ >= chunk_.last_document ? __expf(chunk_.total + x_ - chunk_.after) : 0.0f;
    to->floor[token_] = __expf(-cumulative_ - most_);
    to->first[token_] = first_;
    if (token_ == 0) to->decay = chunk_.Decay();
  }

 private:
  ChunkGates<float> chunk_;
  int token_, at_;
  float x_, most_, cumulative_;
  int first_;
};

// Which chunks a segment has: they are all of one length but the last.
struct Segments {
  int64_t count;
  int64_t chunks;  // of a segment

  __host__ __device__ int64_t First(int64_t segment) const { return segment * chunks; }
  __host__ __device__ int64_t End(int64_t segment, int64_t all) const {
    const int64_t end = (segment + 1) * chunks;
    return end < all ? end : all;
  }
};
// As many segments as fill the device once. One where pairs alone do.
Segments SegmentsFor(int64_t pairs, int64_t chunks, int64_t blocks_at_once);

// A state [n, d] with its vector [n], f32, rows of n contiguous; NULL is zero.
struct StateView {
  const float* matrix;
  int64_t row;  // elements from one row of the matrix to the next
  const float* vector;
};

// Accumulators [64][64] (the first 32 of d) as bf16 into a tile of one block, by a warpgroup; `to` is Tile16 of it.
__device__ inline uint32_t Tile16(const char* tile) {
  const int thread = threadIdx.x % sm90::kWarpgroup, row = thread / 32 * 16 + thread % 16;
  return sm90::SharedAddress(tile) + sm90::TileOffset(row, thread % 32 / 16 * 8);
}
template <int kCount>
__device__ inline void StoreTile16(const float (&d)[kCount], uint32_t to) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {  // 16 columns each: pieces 2 k and 2 k + 1, whose places differ from the first by XOR
    const float* const from = d + 8 * k;
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to ^ (k << 5)),
                 "r"(sm90::PackPair(from[0], from[1])), "r"(sm90::PackPair(from[2], from[3])),
                 "r"(sm90::PackPair(from[4], from[5])), "r"(sm90::PackPair(from[6], from[7]))
                 : "memory");
  }
}

// Likewise what is packed already.
__device__ inline void StoreTile16(const uint32_t (&words)[16], uint32_t to) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const uint32_t* const from = words + 4 * k;
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to ^ (k << 5)), "r"(from[0]),
                 "r"(from[1]), "r"(from[2]), "r"(from[3])
                 : "memory");
  }
}
// The state of a warpgroup as bf16 rows [n][64] (a tile of one block).
template <int kBlocks>
__device__ inline void StoreStateTile(const float (&state)[kBlocks][32], const char* tile) {
  const uint32_t to = Tile16(tile);
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) StoreTile16(state[block], to + block * 64 * 128);
}

// A warpgroup's columns of a state between registers and global memory.
template <int kBlocks>
__device__ inline void LoadState(const StateView& from, int column, float (&state)[kBlocks][32]) {
  const int thread = threadIdx.x % sm90::kWarpgroup, row = thread / 32 * 16 + thread % 32 / 4, pair = thread % 4 * 2;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int at_row = block * 64 + row + (i & 2) * 4, at_column = column + i / 4 * 8 + pair + (i & 1);
      state[block][i] = from.matrix == nullptr ? 0.0f : from.matrix[at_row * from.row + at_column];
    }
  }
}
template <int kBlocks>
__device__ inline void WriteState(const float (&state)[kBlocks][32], int column, float* to, int64_t to_row) {
  const int thread = threadIdx.x % sm90::kWarpgroup, row = thread / 32 * 16 + thread % 32 / 4, pair = thread % 4 * 2;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int at_row = block * 64 + row + (i & 2) * 4, at_column = column + i / 4 * 8 + pair + (i & 1);
      to[at_row * to_row + at_column] = state[block][i];
    }
  }
}

// Rows [64][64] of a tile times a weight a row, into another tile of the same layout; by one warpgroup.
__device__ inline void ScaleRows(const char* from, const float* weight, char* to) {
  const int thread = threadIdx.x % sm90::kWarpgroup;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int piece = thread + i * sm90::kWarpgroup;  // 16 bytes; 8 of them are a row
    const float scale = weight[piece / 8];
    const uint4 in = reinterpret_cast<const uint4*>(from)[piece];
    uint4 out;
    const auto scaled = [scale](uint32_t word) {
      const float2 pair = sm90::UnpackPair(word);
      // An input of weight 0 lies past the end or in another document: 0 whatever it is.
      return scale == 0.0f ? 0u : sm90::PackPair(pair.x * scale, pair.y * scale);
    };
    out.x = scaled(in.x);
    out.y = scaled(in.y);
    out.z = scaled(in.z);
    out.w = scaled(in.w);
    reinterpret_cast<uint4*>(to)[piece] = out;
  }
}

// sum over the chunk's tokens of weight[t] row[t][feature pair], for the 2 features that this group of 4 lanes owns:
// kThreads / 4 groups share n / 2 pairs of columns, `which` from 0 while it is below n / 2.
__device__ inline float2 WeightedColumn(const char* tile, int block_bytes, const float* weight, int which,
                                        int quarter) {
  const char* const block = tile + which / 32 * block_bytes;
  const int column = which % 32 * 2;
  float2 sum = {0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < kChunk / 4; ++i) {
    const int t = 4 * i + quarter;
    const float2 value = sm90::UnpackPair(*reinterpret_cast<const uint32_t*>(block + sm90::TileOffset(t, column)));
    const float w = weight[t];
    if (w != 0.0f) {
      sum.x += w * value.x;
      sum.y += w * value.y;
    }
  }
  return sum;
}

}  // namespace xh::gpu::mlstm

#endif  // XHYBRID_BACKENDS_CUDA_MLSTM_SM90_CUH_
