// ATTENTION on Hopper, BACKWARD: what its two kernels share.
#ifndef XHYBRID_BACKENDS_CUDA_ATTENTION_BACKWARD_SM90_CUH_
#define XHYBRID_BACKENDS_CUDA_ATTENTION_BACKWARD_SM90_CUH_

#include "backends/cuda/attention_sm90.cuh"

namespace xh::gpu::attention {

using namespace sm90;

// What BACKWARD needs to know of a query besides its rows, for each tile of 64 queries of a head: the log sums, base 2,
// then do.o. Queries past the end have an infinite sum: no key has weight for them.
inline constexpr int kTileStats = 2 * kRows;

struct Stats {
  float* data;
  int tiles;  // of a head

  __device__ float* Tile(int64_t pair, int tile) const { return data + (pair * tiles + tile) * kTileStats; }
};

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
inline constexpr int kWorkerBarrier = 1;  // named barriers: and one more a warpgroup

}  // namespace xh::gpu::attention

#endif  // XHYBRID_BACKENDS_CUDA_ATTENTION_BACKWARD_SM90_CUH_
