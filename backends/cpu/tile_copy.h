// Moving rows of a tensor into f32 tiles and back: conversion, transposition, padding.
#ifndef XHYBRID_BACKENDS_CPU_TILE_COPY_H_
#define XHYBRID_BACKENDS_CPU_TILE_COPY_H_

#include <cstdint>
#include <cstring>

#include "backends/cpu/simd.h"
#include "backends/cpu/tile_gemm.h"
#include "xhybrid_plugin.h"

namespace xh::cpu::XH_ISA {

// Rows of one head in a tensor [.., heads, rows, columns]: contiguous in columns, `stride` elements apart.
struct TileRows {
  char* data;
  int64_t stride;
  xh_dtype dtype;

  int64_t bytes() const { return dtype == XH_BF16 ? 2 : 4; }
  TileRows From(int64_t row) const { return {data + row * stride * bytes(), stride, dtype}; }
};

inline TileRows HeadRows(const xh_tensor& x, int64_t b, int64_t head) {
  const int64_t bytes = x.dtype == XH_BF16 ? 2 : 4;
  return {static_cast<char*>(x.data) + (b * x.stride[0] + head * x.stride[1]) * bytes, x.stride[2], x.dtype};
}

inline float* TileRow(float* tile, int64_t stride, int64_t row) { return tile + row * stride; }

// One row times `scale`, zero up to PaddedColumns.
template <class T>
inline void LoadRow(const T* from, int64_t columns, float scale, float* to) {
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) Store(to + c, Load(from + c) * scale);
  if (c < columns) Store(to + c, LoadPartial(from + c, static_cast<int>(columns - c)) * scale);
}
inline void LoadRow(const TileRows& rows, int64_t row, int64_t columns, float scale, float* to) {
  if (rows.dtype == XH_BF16) {
    LoadRow(reinterpret_cast<const BF16*>(rows.From(row).data), columns, scale, to);
  } else {
    LoadRow(reinterpret_cast<const float*>(rows.From(row).data), columns, scale, to);
  }
}

// Rows of one head lie a token apart: too far for the hardware to see what comes next. Past the end of a tensor this
// asks for nothing.
inline constexpr int64_t kAhead = 8;
inline void PrefetchRow(const TileRows& rows, int64_t row, int64_t columns) {
  const char* const at = rows.From(row).data;
  for (int64_t byte = 0; byte < columns * rows.bytes(); byte += 64) __builtin_prefetch(at + byte);
}

// Rows [0, count) into tile[count, columns]; row r is multiplied by scale, and by row_scale[r] where that is given.
inline void LoadTile(const TileRows& rows, int64_t count, int64_t columns, float scale, const float* row_scale,
                     float* tile, int64_t stride) {
  for (int64_t r = 0; r < count; ++r) {
    PrefetchRow(rows, r + kAhead, columns);
    LoadRow(rows, r, columns, row_scale == nullptr ? scale : scale * row_scale[r], tile + r * stride);
  }
}

// One row of a tile into a tensor: to = (accumulate ? to : 0) + scale * from.
template <class T>
inline void StoreRow(const float* from, int64_t columns, float scale, bool accumulate, T* to) {
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    const Vec value = Load(from + c) * scale;
    Store(to + c, accumulate ? Load(to + c) + value : value);
  }
  if (c < columns) {
    const int rest = static_cast<int>(columns - c);
    const Vec value = Load(from + c) * scale;
    StorePartial(to + c, accumulate ? LoadPartial(to + c, rest) + value : value, rest);
  }
}
inline void StoreTile(const float* tile, int64_t stride, int64_t count, int64_t columns, float scale, bool accumulate,
                      const TileRows& rows) {
  for (int64_t r = 0; r < count; ++r) {
    PrefetchRow(rows, r + kAhead, columns);
    if (rows.dtype == XH_BF16) {
      StoreRow(tile + r * stride, columns, scale, accumulate, reinterpret_cast<BF16*>(rows.From(r).data));
    } else {
      StoreRow(tile + r * stride, columns, scale, accumulate, reinterpret_cast<float*>(rows.From(r).data));
    }
  }
}

using Quad = float __attribute__((vector_size(16)));
inline Quad LoadQuad(const float* p) {
  Quad q;
  std::memcpy(&q, p, sizeof(q));
  return q;
}
inline Quad LoadQuad(const BF16* p) {
  using QuadBits = uint32_t __attribute__((vector_size(16)));
  const QuadBits bits = {p[0].bits, p[1].bits, p[2].bits, p[3].bits};
  return reinterpret_cast<Quad>(bits << 16);
}

// to[c, r] = from[r, c] for rows x columns of `from`, in blocks of 4 x 4.
template <class T>
inline void Transpose(const T* from, int64_t from_stride, int64_t rows, int64_t columns, float* to, int64_t to_stride) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const T* const row = from + r * from_stride;
    int64_t c = 0;
    for (; c + 4 <= columns; c += 4) {
      const Quad a = LoadQuad(row + c), b = LoadQuad(row + from_stride + c);
      const Quad d = LoadQuad(row + 2 * from_stride + c), e = LoadQuad(row + 3 * from_stride + c);
      const Quad ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                 ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const Quad de_low = __builtin_shufflevector(d, e, 0, 4, 1, 5),
                 de_high = __builtin_shufflevector(d, e, 2, 6, 3, 7);
      const Quad out[4] = {
          __builtin_shufflevector(ab_low, de_low, 0, 1, 4, 5), __builtin_shufflevector(ab_low, de_low, 2, 3, 6, 7),
          __builtin_shufflevector(ab_high, de_high, 0, 1, 4, 5), __builtin_shufflevector(ab_high, de_high, 2, 3, 6, 7)};
      for (int i = 0; i < 4; ++i) std::memcpy(to + (c + i) * to_stride + r, &out[i], sizeof(Quad));
    }
    for (; c < columns; ++c) {
      for (int i = 0; i < 4; ++i) to[c * to_stride + r + i] = ToFloat(row[i * from_stride + c]);
    }
  }
  for (; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) to[c * to_stride + r] = ToFloat(from[r * from_stride + c]);
  }
}

// Rows [0, count) into columns [at, at + count) of tile[columns, ..].
inline void LoadTransposed(const TileRows& rows, int64_t count, int64_t columns, float* tile, int64_t stride,
                           int64_t at = 0) {
  for (int64_t r = 0; r < count; ++r) PrefetchRow(rows, r, columns);
  if (rows.dtype == XH_BF16) {
    Transpose(reinterpret_cast<const BF16*>(rows.data), rows.stride, count, columns, tile + at, stride);
  } else {
    Transpose(reinterpret_cast<const float*>(rows.data), rows.stride, count, columns, tile + at, stride);
  }
}

// Zeroes columns [from, PaddedColumns(from)) of every row, which products read and discard.
inline void ZeroPadding(float* tile, int64_t stride, int64_t rows, int64_t from) {
  const int64_t to = PaddedColumns(from);
  if (from == to) return;
  for (int64_t r = 0; r < rows; ++r) std::memset(tile + r * stride + from, 0, static_cast<size_t>(to - from) * 4);
}

inline float Dot(const float* a, const float* b, int64_t padded) {
  Vec sum[2] = {Vec{}, Vec{}};
  int64_t i = 0;
  for (; i + 2 * kLanes <= padded; i += 2 * kLanes) {
    sum[0] = Fma(Load(a + i), Load(b + i), sum[0]);
    sum[1] = Fma(Load(a + i + kLanes), Load(b + i + kLanes), sum[1]);
  }
  if (i < padded) sum[0] = Fma(Load(a + i), Load(b + i), sum[0]);
  return Sum(sum[0] + sum[1]);
}
// y = y + a x
inline void Axpy(float a, const float* x, float* y, int64_t padded) {
  for (int64_t i = 0; i < padded; i += kLanes) Store(y + i, Fma(Set(a), Load(x + i), Load(y + i)));
}
// y = decay y + a x
inline void ScaleAdd(float decay, float* y, float a, const float* x, int64_t padded) {
  for (int64_t i = 0; i < padded; i += kLanes) Store(y + i, Fma(Set(a), Load(x + i), Load(y + i) * decay));
}
inline void Scale(float a, float* y, int64_t padded) {
  for (int64_t i = 0; i < padded; i += kLanes) Store(y + i, Load(y + i) * a);
}

}  // namespace xh::cpu::XH_ISA

#endif  // XHYBRID_BACKENDS_CPU_TILE_COPY_H_
