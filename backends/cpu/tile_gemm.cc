#include "backends/cpu/tile_gemm.h"

namespace xh::cpu::XH_ISA {
namespace {

// Accumulators of one kernel call, kRows x 2 vectors: they, two vectors of b and one broadcast fit the register file,
// and they are enough to hide the latency of two multiply-add units.
#if defined(__AVX512F__)
constexpr int kRows = 8;
#else
constexpr int kRows = 6;
#endif

// c[R, V vectors] (+)= a[R, k] b[k, V vectors].
template <int R, int V>
void Kernel(int64_t k, TileA a, const float* b, int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  Vec sum[R][V];
  for (int i = 0; i < R; ++i) {
    for (int j = 0; j < V; ++j) sum[i][j] = accumulate ? Load(c + i * ldc + j * kLanes) : Vec{};
  }
  const float* column = a.data;
  for (int64_t p = 0; p < k; ++p, column += a.column, b += ldb) {
    Vec right[V];
    for (int j = 0; j < V; ++j) right[j] = Load(b + j * kLanes);
    for (int i = 0; i < R; ++i) {
      const Vec left = Set(column[i * a.row]);
      for (int j = 0; j < V; ++j) sum[i][j] = Fma(left, right[j], sum[i][j]);
    }
  }
  for (int i = 0; i < R; ++i) {
    for (int j = 0; j < V; ++j) Store(c + i * ldc + j * kLanes, sum[i][j]);
  }
}

using KernelFn = void (*)(int64_t, TileA, const float*, int64_t, float*, int64_t, bool);
constexpr KernelFn kKernels[2][8] = {
    {Kernel<1, 1>, Kernel<2, 1>, Kernel<3, 1>, Kernel<4, 1>, Kernel<5, 1>, Kernel<6, 1>, Kernel<7, 1>, Kernel<8, 1>},
    {Kernel<1, 2>, Kernel<2, 2>, Kernel<3, 2>, Kernel<4, 2>, Kernel<5, 2>, Kernel<6, 2>, Kernel<7, 2>, Kernel<8, 2>}};

}  // namespace

void TileGemm(int64_t m, int64_t n, int64_t k, TileA a, const float* b, int64_t ldb, float* c, int64_t ldc,
              bool accumulate) {
  // Strips of nearly equal height: the first `taller` of them have one row more.
  const int64_t strips = (m + kRows - 1) / kRows;
  const int64_t height = strips == 0 ? 0 : m / strips, taller = m - height * strips;
  for (int64_t j = 0; j < n; j += 2 * kLanes) {
    const KernelFn* kernels = kKernels[n - j > kLanes];
    int64_t i = 0;
    for (int64_t strip = 0; strip < strips; ++strip) {
      const int64_t rows = strip < taller ? height + 1 : height;
      kernels[rows - 1](k, {a.data + i * a.row, a.row, a.column}, b + j, ldb, c + i * ldc + j, ldc, accumulate);
      i += rows;
    }
  }
}

}  // namespace xh::cpu::XH_ISA
