// Matrix products of 64 x 64 tiles with ordinary multiply-adds, for kernels that must run on any GPU: a block of
// kTileThreads threads, 4 x 4 results a thread, operands copied piece by piece into shared memory as f32.
#ifndef XHYBRID_BACKENDS_CUDA_PLAIN_TILES_CUH_
#define XHYBRID_BACKENDS_CUDA_PLAIN_TILES_CUH_

#include "backends/cuda/plan.h"

namespace xh::gpu {

inline constexpr int kTile = 64;          // rows and columns of a tile
inline constexpr int kDeep = 32;          // terms of the sums that are in shared memory at once
inline constexpr int kTileThreads = 256;  // 16 x 16
inline constexpr int kLanes = 16;         // neighbouring threads that share the rows of their results
inline constexpr int kPad = kTile + 4;    // keeps rows at 16 bytes and apart in the banks

inline int64_t TilesOf(int64_t size) { return (size + kTile - 1) / kTile; }

// Both operands, a term of the sums a row.
struct Slabs {
  alignas(16) float a[kDeep][kPad];
  alignas(16) float b[kDeep][kPad];
};
// A whole left operand: [term][row].
struct LeftTile {
  alignas(16) float at[kTile][kPad];
};
// A thread's results: rows ThreadRow() + i, columns ThreadColumn() + j.
struct Micro {
  float at[4][4] = {};
};
__device__ inline int ThreadRow() { return static_cast<int>(threadIdx.x) / kLanes * 4; }
__device__ inline int ThreadColumn() { return static_cast<int>(threadIdx.x) % kLanes * 4; }

// Over the kLanes threads that share rows, given to all of them.
__device__ inline float LaneSum(float x) {
#pragma unroll
  for (int mask = kLanes / 2; mask > 0; mask /= 2) x += XH_SHUFFLE_XOR(x, mask);
  return x;
}
__device__ inline float LaneMax(float x) {
#pragma unroll
  for (int mask = kLanes / 2; mask > 0; mask /= 2) x = fmaxf(x, XH_SHUFFLE_XOR(x, mask));
  return x;
}

// Rows of a matrix in device memory, zero outside.
template <class T>
struct Rows {
  const T* data;
  int64_t stride;
  int64_t count, columns;

  __device__ float operator()(int64_t row, int64_t column) const {
    return row < count && column < columns ? ToFloat(data[row * stride + column]) : 0.0f;
  }
};

// slab[term][row] = get(row, term). kTermsTogether: neighbours in memory are terms, not rows.
template <bool kTermsTogether, class Get>
__device__ inline void FillSlab(float (&slab)[kDeep][kPad], Get get) {
#pragma unroll
  for (int e = 0; e < kTile * kDeep / kTileThreads; ++e) {
    const int index = e * kTileThreads + static_cast<int>(threadIdx.x);
    const int row = kTermsTogether ? index / kDeep : index % kTile;
    const int term = kTermsTogether ? index % kDeep : index / kTile;
    slab[term][row] = get(row, term);
  }
}

__device__ inline void MultiplySlabs(const float (*a)[kPad], const float (*b)[kPad], Micro* sum) {
  const int row = ThreadRow(), column = ThreadColumn();
#pragma unroll 8
  for (int p = 0; p < kDeep; ++p) {
    const float4 left = *reinterpret_cast<const float4*>(&a[p][row]);
    const float4 right = *reinterpret_cast<const float4*>(&b[p][column]);
    const float l[4] = {left.x, left.y, left.z, left.w}, r[4] = {right.x, right.y, right.z, right.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sum->at[i][j] = fmaf(l[i], r[j], sum->at[i][j]);
    }
  }
}

// sum[row][column] += sum over terms p < terms of a(row, p) b(column, p), one after the other. All threads call it; it
// may be called again at once, and what threads wrote to shared memory before it is seen by a and b.
template <bool kATogether, bool kBTogether, class GetA, class GetB>
__device__ inline void AddProduct(Slabs* slabs, int64_t terms, GetA a, GetB b, Micro* sum) {
  for (int64_t from = 0; from < terms; from += kDeep) {
    __syncthreads();
    FillSlab<kATogether>(slabs->a, [&](int row, int p) { return from + p < terms ? a(row, from + p) : 0.0f; });
    FillSlab<kBTogether>(slabs->b, [&](int row, int p) { return from + p < terms ? b(row, from + p) : 0.0f; });
    __syncthreads();
    MultiplySlabs(slabs->a, slabs->b, sum);
  }
}

// The same with a left operand that lies in shared memory: terms past the last must be zero in it and in b.
template <bool kBTogether, class GetB>
__device__ inline void AddTileProduct(Slabs* slabs, const LeftTile& a, int64_t terms, GetB b, Micro* sum) {
  for (int from = 0; from < kTile && from < terms; from += kDeep) {
    __syncthreads();
    FillSlab<kBTogether>(slabs->b, [&](int row, int p) { return from + p < terms ? b(row, from + p) : 0.0f; });
    __syncthreads();
    MultiplySlabs(a.at + from, slabs->b, sum);
  }
}

// Puts the thread's results where a product takes them as left operand: as they are, or transposed.
__device__ inline void StoreLeft(const Micro& x, LeftTile* to) {
  const int row = ThreadRow(), column = ThreadColumn();
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    *reinterpret_cast<float4*>(&to->at[column + j][row]) = make_float4(x.at[0][j], x.at[1][j], x.at[2][j], x.at[3][j]);
  }
}
__device__ inline void StoreLeftTransposed(const Micro& x, LeftTile* to) {
  const int row = ThreadRow(), column = ThreadColumn();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    *reinterpret_cast<float4*>(&to->at[row + i][column]) = make_float4(x.at[i][0], x.at[i][1], x.at[i][2], x.at[i][3]);
  }
}

// Zeroes [B,H,T,columns], or [B,H,T] with columns 1 and any strides.
template <class T>
static __global__ void __launch_bounds__(kTileThreads)
    ZeroRows(View<T> x, int64_t heads, int64_t tokens, int64_t columns, int64_t count) {
  const int64_t e = static_cast<int64_t>(blockIdx.x) * kTileThreads + threadIdx.x;
  if (e >= count) return;
  const int64_t row = e / columns, t = row % tokens, pair = row / tokens;
  x.At(pair / heads, pair % heads, t)[e % columns] = FromFloat<T>(0.0f);
}

// Of a gradient without an output gradient, unless it is added to what is there.
static inline void LaunchZero(const xh_tensor& x, gpuStream_t stream) {
  if (!Present(x) || Accumulates(x)) return;
  const int64_t columns = x.rank == 4 ? x.shape[3] : 1, count = x.shape[0] * x.shape[1] * x.shape[2] * columns;
  if (count == 0) return;
  WithType(x.dtype, [&](auto type) {
    using T = decltype(type);
    ZeroRows<T><<<Blocks(count, kTileThreads), kTileThreads, 0, stream>>>(ViewOf<T>(x), x.shape[1], x.shape[2], columns,
                                                                          count);
  });
}

}  // namespace xh::gpu

#endif  // XHYBRID_BACKENDS_CUDA_PLAIN_TILES_CUH_
