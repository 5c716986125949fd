// The register tile of matrix products: R rows by two vectors of C, accumulated over k.
#ifndef XHYBRID_BACKENDS_CPU_MICRO_TILE_H_
#define XHYBRID_BACKENDS_CPU_MICRO_TILE_H_

#include <cstdint>

#include "backends/cpu/simd.h"

namespace xh::cpu::XH_ISA {

constexpr int kTileRows = kLanes == 16 ? 12 : 6;  // accumulators that fill the registers
constexpr int kTileColumns = 2 * kLanes;

template <int R>
struct Tile {
  Vec at[R][2];
};

// sum over k of A(i, k) B(k, :); A(i, k) = a[i * row + k * step], B(k, :) = b[k * ldb ...], kTileColumns wide.
template <int R>
inline Tile<R> MultiplyTile(const float* a, int64_t row, int64_t step, const float* b, int64_t ldb, int64_t depth) {
  Tile<R> c;
#pragma GCC unroll 12
  for (int i = 0; i < R; ++i) c.at[i][0] = c.at[i][1] = Vec{};
  for (int64_t k = 0; k < depth; ++k) {
    const Vec b0 = Load(b + k * ldb), b1 = Load(b + k * ldb + kLanes);
#pragma GCC unroll 12
    for (int i = 0; i < R; ++i) {
      const Vec x = Set(a[i * row + k * step]);
      c.at[i][0] = Fma(x, b0, c.at[i][0]);
      c.at[i][1] = Fma(x, b1, c.at[i][1]);
    }
  }
  return c;
}

// body.template operator()<R>() for R = rows, 1 <= rows <= kTileRows.
template <int R = kTileRows, class Body>
inline void WithRows(int rows, Body&& body) {
  if constexpr (R == 1) {
    body.template operator()<1>();
  } else {
    if (rows == R) {
      body.template operator()<R>();
    } else {
      WithRows<R - 1>(rows, body);
    }
  }
}

// C[rows, columns] = A B, or added to C; row-major C and B, A as for MultiplyTile. columns is a multiple of
// kTileColumns: callers pad with zeros.
inline void MultiplyBlock(const float* a, int64_t row, int64_t step, int64_t rows, const float* b, int64_t ldb,
                          int64_t columns, int64_t depth, float* c, int64_t ldc, bool add) {
  for (int64_t n = 0; n < columns; n += kTileColumns) {
    for (int64_t m = 0; m < rows; m += kTileRows) {
      const int count = static_cast<int>(rows - m < kTileRows ? rows - m : kTileRows);
      WithRows(count, [&]<int R>() {
        const Tile<R> tile = MultiplyTile<R>(a + m * row, row, step, b + n, ldb, depth);
        for (int r = 0; r < R; ++r) {
          float* const target = c + (m + r) * ldc + n;
          Store(target, add ? Load(target) + tile.at[r][0] : tile.at[r][0]);
          Store(target + kLanes, add ? Load(target + kLanes) + tile.at[r][1] : tile.at[r][1]);
        }
      });
    }
  }
}
inline int64_t TileColumnsFor(int64_t n) { return (n + kTileColumns - 1) / kTileColumns * kTileColumns; }

}  // namespace xh::cpu::XH_ISA

#endif  // XHYBRID_BACKENDS_CPU_MICRO_TILE_H_
