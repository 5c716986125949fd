// The kernels behind MATMUL.
#ifndef XHYBRID_BACKENDS_CUDA_MATMUL_H_
#define XHYBRID_BACKENDS_CUDA_MATMUL_H_

#include "backends/cuda/plan.h"

namespace xh::gpu {

// D[rows,columns] (+)= A[rows,depth] B[depth,columns] + bias[columns]; stored rows are contiguous, `leading` apart.
struct GemmShape {
  int64_t rows, columns, depth;
  int64_t a_leading, b_leading, d_leading;
  bool a_transposed;       // stored [depth][rows]
  bool b_transposed;       // stored [columns][depth]
  bool accumulate;         // adds to what is there; without bias
  xh_dtype a, b, bias, d;  // bias 0: none
};

// Any shape, any mix of dtypes, any strides.
void RunPlainGemm(gpuStream_t stream, const GemmShape& shape, const void* a, const void* b, const void* bias, void* d);

// Few rows of A, B stored [columns][depth] and read once at the speed of memory.
class ThinGemm {
 public:
  // Most rows that still read B once.
  static constexpr int64_t kRows = 8;

  // Whether the shape is for this kernel; pointers are another matter: Takes.
  static bool Fits(const GemmShape& shape);
  Refusal Open(const GemmShape& shape, const Facts& facts);
  bool Takes(const void* b) const { return reinterpret_cast<uintptr_t>(b) % 16 == 0; }
  void Run(const Launch& launch, const void* a, const void* b, const void* bias, void* d) const;

 private:
  GemmShape shape_ = {};
  int blocks_ = 0, team_ = 1, chunk_ = 0, shared_ = 0;
};

}  // namespace xh::gpu

#endif  // XHYBRID_BACKENDS_CUDA_MATMUL_H_
