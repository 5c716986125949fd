// The product for what no other kernel takes: tiles in shared memory, one FMA an element, sums in the order of depth.
#include <algorithm>

#include "backends/cuda/matmul.h"

namespace xh::gpu {
namespace {

constexpr int kSide = 16, kThreads = kSide * kSide;  // threads lie in a square
constexpr int kDepth = 16;                           // of a tile
constexpr int64_t kMostBlocksY = 65535;

struct PlainArgs {
  GemmShape shape;
  const void *a, *b, *bias;
  void* d;
};

// Elements [first, first + kTile) x [k, k + kDepth) of a matrix to tile[depth][kTile]; zero outside. `rows_contiguous`:
// stored [depth][size], else [size][depth].
template <int kTile, class T>
__device__ void LoadTile(const T* matrix, int64_t leading, bool rows_contiguous, int64_t first, int64_t size, int64_t k,
                         int64_t depth, float (&tile)[kDepth][kTile + 4]) {
#pragma unroll
  for (int i = 0; i < kTile * kDepth / kThreads; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kThreads;
    const int r = rows_contiguous ? at % kTile : at / kDepth, c = rows_contiguous ? at / kTile : at % kDepth;
    const int64_t row = first + r, column = k + c;
    float value = 0.0f;
    if (row < size && column < depth) {
      value = ToFloat(rows_contiguous ? matrix[column * leading + row] : matrix[row * leading + column]);
    }
    tile[c][r] = value;
  }
}

// A block makes a tile of kTile x kTile, a thread kEach x kEach of it.
template <int kEach, class TA, class TB, class TD>
__global__ void __launch_bounds__(kThreads, kEach == 8 ? 1 : 2) PlainKernel(PlainArgs args) {
  constexpr int kTile = kSide * kEach;
  __shared__ alignas(16) float a_tile[kDepth][kTile + 4];
  __shared__ alignas(16) float b_tile[kDepth][kTile + 4];
  const GemmShape& s = args.shape;
  const int x = static_cast<int>(threadIdx.x) % kSide, y = static_cast<int>(threadIdx.x) / kSide;
  const int64_t column0 = static_cast<int64_t>(blockIdx.x) * kTile;
  for (int64_t row0 = static_cast<int64_t>(blockIdx.y) * kTile; row0 < s.rows;
       row0 += static_cast<int64_t>(gridDim.y) * kTile) {
    float sum[kEach][kEach] = {};
    for (int64_t k = 0; k < s.depth; k += kDepth) {
      LoadTile<kTile>(static_cast<const TA*>(args.a), s.a_leading, s.a_transposed, row0, s.rows, k, s.depth, a_tile);
      LoadTile<kTile>(static_cast<const TB*>(args.b), s.b_leading, !s.b_transposed, column0, s.columns, k, s.depth,
                      b_tile);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        float a[kEach], b[kEach];
#pragma unroll
        for (int e = 0; e < kEach; ++e) {
          // Fours of neighbours, 4 * kSide apart: rows of shared memory are read in 16 bytes without conflicts.
          a[e] = a_tile[i][e / 4 * 4 * kSide + y * 4 + e % 4];
          b[e] = b_tile[i][e / 4 * 4 * kSide + x * 4 + e % 4];
        }
#pragma unroll
        for (int r = 0; r < kEach; ++r) {
#pragma unroll
          for (int c = 0; c < kEach; ++c) sum[r][c] = fmaf(a[r], b[c], sum[r][c]);
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      const int64_t row = row0 + r / 4 * 4 * kSide + y * 4 + r % 4;
      if (row >= s.rows) continue;
#pragma unroll
      for (int c = 0; c < kEach; ++c) {
        const int64_t column = column0 + c / 4 * 4 * kSide + x * 4 + c % 4;
        if (column >= s.columns) continue;
        float value = sum[r][c];
        if (s.bias == XH_BF16) value += ToFloat(static_cast<const bf16*>(args.bias)[column]);
        if (s.bias == XH_F32) value += static_cast<const float*>(args.bias)[column];
        PutGradient(static_cast<TD*>(args.d) + row * s.d_leading + column, value, s.accumulate);
      }
    }
  }
}

template <int kEach>
void LaunchTiles(gpuStream_t stream, const PlainArgs& args) {
  const GemmShape& s = args.shape;
  const unsigned rows = static_cast<unsigned>(std::min(int64_t{Blocks(s.rows, kSide * kEach)}, kMostBlocksY));
  const dim3 grid(Blocks(s.columns, kSide * kEach), rows);
  WithType(s.a, [&](auto a) {
    WithType(s.b, [&](auto b) {
      WithType(s.d, [&](auto d) {
        PlainKernel<kEach, decltype(a), decltype(b), decltype(d)><<<grid, kThreads, 0, stream>>>(args);
      });
    });
  });
}

}  // namespace

void RunPlainGemm(gpuStream_t stream, const GemmShape& shape, const void* a, const void* b, const void* bias, void* d) {
  if (shape.rows == 0 || shape.columns == 0) return;
  const PlainArgs args = {shape, a, b, bias, d};
  // Large tiles read less; small ones keep more processors busy.
  constexpr int64_t kManyTiles = 128;
  if (int64_t{Blocks(shape.rows, 128)} * Blocks(shape.columns, 128) >= kManyTiles) {
    LaunchTiles<8>(stream, args);
  } else {
    LaunchTiles<4>(stream, args);
  }
}

}  // namespace xh::gpu
