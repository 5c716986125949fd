// Matrices [M,D] worked on in packs of 16 bytes, or element by element where a pointer or stride is odd.
#ifndef XHYBRID_BACKENDS_CUDA_ROWS_CUH_
#define XHYBRID_BACKENDS_CUDA_ROWS_CUH_

#include <algorithm>

#include "backends/cuda/plan.h"

namespace xh::gpu {

template <class T, int N>
__device__ inline void LoadPack(const T* from, float (&to)[N]) {
  const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = ToFloat(pack.value[i]);
}
template <class T, int N>
__device__ inline void StorePack(T* to, const float (&from)[N]) {
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.value[i] = FromFloat<T>(from[i]);
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}
// A gradient: added to what is there, or in its place.
template <class T, int N>
__device__ inline void StoreGradient(T* to, const float (&from)[N], bool accumulate) {
  if (!accumulate) return StorePack<T, N>(to, from);
  float sum[N];
  LoadPack<T, N>(to, sum);
#pragma unroll
  for (int i = 0; i < N; ++i) sum[i] += from[i];
  StorePack<T, N>(to, sum);
}

inline constexpr int kRowThreads = 256;

// body(row, column) for the first of every N columns.
template <int N, class Body>
__global__ void __launch_bounds__(kRowThreads)
    RowsKernel(int64_t first_row, uint32_t items, uint32_t packs, Body body) {
  const uint32_t item = blockIdx.x * kRowThreads + threadIdx.x;
  LetNextBegin();
  WaitForEarlier();
  if (item < items) body(first_row + item / packs, static_cast<int>(item % packs) * N);
}

// Launches body over [rows, columns]; N divides columns. Slices keep indices in 32 bits.
template <int N, class Body>
void ForPacks(const Launch& launch, int64_t rows, int64_t columns, const Body& body) {
  const int64_t packs = columns / N;
  if (rows == 0 || packs == 0) return;
  const int64_t slice = std::max<int64_t>(1, (int64_t{1} << 30) / packs);
  for (int64_t first = 0; first < rows; first += slice) {
    const int64_t items = std::min(slice, rows - first) * packs;
    LaunchEarly(launch, RowsKernel<N, Body>, Blocks(items, kRowThreads), kRowThreads, 0, first,
                static_cast<uint32_t>(items), static_cast<uint32_t>(packs), body);
  }
}

}  // namespace xh::gpu

#endif  // XHYBRID_BACKENDS_CUDA_ROWS_CUH_
