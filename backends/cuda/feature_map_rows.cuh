// Features of some sequences' tokens at once, in bf16: a map in shared memory times the rows of one tensor core tile.
#ifndef XHYBRID_BACKENDS_CUDA_FEATURE_MAP_ROWS_CUH_
#define XHYBRID_BACKENDS_CUDA_FEATURE_MAP_ROWS_CUH_

#include "backends/cuda/warp_product.cuh"

namespace xh::gpu::feature_map {

using namespace warp;

constexpr int kRows = 16;  // of a warp

// The map of a head [kD, kN] to shared memory, begun but not waited for.
template <int kD, int kN, int kThreads>
__device__ void CopyMap(const View<const bf16>& a, int64_t h, char* map) {
  constexpr int kPacks = kN / 8;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kD * kPacks; i += kThreads) {
    const int row = i / kPacks, pack = i % kPacks;
    CopyPack(SharedAddress(map) + PackOffset<kN * 2>(row, pack), a.At(h, row) + pack * 8, true);
  }
}

// Scores of a warp's kRows rows: a lane has rows lane / 4 and 8 more, of every eight columns 2 (lane % 4) and the next.
template <int kD, int kN>
__device__ void Score(const char* map, const char* rows, int first_row, float (&scores)[kN / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int k = 0; k < kD / 16; ++k) {
    uint32_t row[4];
    LoadTiles(SharedAddress(rows) + PackOffset<kD * 2>(first_row + lane % 16, 2 * k + lane / 16), row);
#pragma unroll
    for (int j = 0; j < kN / 16; ++j) {
      uint32_t weights[4];
      LoadTurned(SharedAddress(map) + PackOffset<kN * 2>(k * 16 + lane % 16, 2 * j + lane / 16), weights);
      AddProduct(scores[2 * j], row, weights[0], weights[1]);
      AddProduct(scores[2 * j + 1], row, weights[2], weights[3]);
    }
  }
}

// The softmax of sign * scores of one of a lane's two rows, which four lanes hold together.
template <int kN>
__device__ void PutSoftmax(const float (&scores)[kN / 8][4], int half, float sign, bool inside, bf16* phi) {
  float most = -kInfinity, sum = 0.0f, e[kN / 4];
#pragma unroll
  for (int i = 0; i < kN / 4; ++i) most = fmaxf(most, sign * scores[i / 2][half * 2 + i % 2]);
  most = fmaxf(most, XH_SHUFFLE_XOR(most, 1));
  most = fmaxf(most, XH_SHUFFLE_XOR(most, 2));
#pragma unroll
  for (int i = 0; i < kN / 4; ++i) sum += e[i] = expf(sign * scores[i / 2][half * 2 + i % 2] - most);
  sum += XH_SHUFFLE_XOR(sum, 1);
  sum += XH_SHUFFLE_XOR(sum, 2);
  if (!inside) return;
  const float scale = 1.0f / sum;
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
    *reinterpret_cast<uint32_t*>(phi + j * 8) = PackPair(e[2 * j] * scale, e[2 * j + 1] * scale);
  }
}

}  // namespace xh::gpu::feature_map

#endif  // XHYBRID_BACKENDS_CUDA_FEATURE_MAP_ROWS_CUH_
