// Products of small dense f32 tiles that lie in L1 or L2. Every tile of the sequence mixers goes through these.
#ifndef XHYBRID_BACKENDS_CPU_TILE_GEMM_H_
#define XHYBRID_BACKENDS_CPU_TILE_GEMM_H_

#include <cstdint>

#include "backends/cpu/simd.h"

namespace xh::cpu::XH_ISA {

// Columns of a tile row including its padding.
inline constexpr int64_t PaddedColumns(int64_t columns) { return (columns + kLanes - 1) / kLanes * kLanes; }

// Floats between rows of a tile: an odd number of 64-byte lines, so that a column of rows spreads over every set of L1.
inline constexpr int64_t TileStride(int64_t columns) { return (columns + 31) / 32 * 32 + 16; }

// The left factor, element (i, p) at data[i * row + p * column]: a row-major tile has column 1, its transpose row 1.
struct TileA {
  const float* data;
  int64_t row;
  int64_t column;
};
inline TileA Plain(const float* data, int64_t stride) { return {data, stride, 1}; }
inline TileA Transposed(const float* data, int64_t stride) { return {data, 1, stride}; }

// c[m, n] = a[m, k] b[k, n], or += where `accumulate`. b and c are row-major with strides ldb and ldc; their rows are
// read and written up to PaddedColumns(n). Sums run over p in order, so results do not depend on m or n.
void TileGemm(int64_t m, int64_t n, int64_t k, TileA a, const float* b, int64_t ldb, float* c, int64_t ldc,
              bool accumulate);

}  // namespace xh::cpu::XH_ISA

#endif  // XHYBRID_BACKENDS_CPU_TILE_GEMM_H_
