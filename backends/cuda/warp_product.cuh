// What a warp needs to multiply bf16 that it copies to shared memory itself, on any GPU since Ampere: copies that run
// on their own, tiles in registers, products m16n8k16 with sums in f32.
#ifndef XHYBRID_BACKENDS_CUDA_WARP_PRODUCT_CUH_
#define XHYBRID_BACKENDS_CUDA_WARP_PRODUCT_CUH_

#include "backends/cuda/gpu.h"

namespace xh::gpu::warp {

// ---- copies ----

__device__ inline uint32_t SharedAddress(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
// 16 bytes; zeros where there is nothing to copy, `from` may then be any address that can be read.
__device__ inline void CopyPack(uint32_t to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(present ? 16 : 0) : "memory");
}
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All but the last kOpen groups of this thread have arrived.
template <int kOpen>
__device__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
}

// Fetches bytes, a multiple of 16, to the second-level cache, where one thread can ask for all of them.
__device__ inline void PrefetchBytes(const void* p, int bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes) : "memory");
#endif
}

// Byte offset of a pack of 16 bytes in a tile with rows of kBytes, 128 or more: the same pack of eight neighbouring
// rows lies in different banks.
template <int kBytes>
__device__ uint32_t PackOffset(int row, int pack) {
  return static_cast<uint32_t>(row * kBytes + ((pack ^ (row & 7)) << 4));
}

// ---- registers ----

// A tile of 8 x 8 gives lane 4 r + c the elements (r, 2 c) and (r, 2 c + 1).

// Four tiles, whose rows begin where the lanes say: lanes 0 to 7 the rows of the first and so on.
__device__ inline void LoadTiles(uint32_t row, uint32_t (&tiles)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(row)
               : "memory");
}
// The same, each transposed.
__device__ inline void LoadTurned(uint32_t row, uint32_t (&tiles)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(row)
               : "memory");
}
__device__ inline uint32_t Turn(uint32_t tile) {
  uint32_t turned;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(tile));
  return turned;
}
// Two bf16 in a word, `low` at the lower address.
__device__ inline uint32_t PackPair(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
__device__ inline float LowOf(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float HighOf(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// d[16,8] += a[16,16] b[16,8]. Tiles of a: rows 0 to 7, then 8 to 15, of columns 0 to 7, then both of columns 8 to 15;
// of b, transposed: rows 0 to 7, rows 8 to 15. A lane has d of rows r (0, 1) and r + 8 (2, 3).
__device__ inline void AddProduct(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace xh::gpu::warp

#endif  // XHYBRID_BACKENDS_CUDA_WARP_PRODUCT_CUH_
