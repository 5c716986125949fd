// The kernels behind MATMUL and DENSE.
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

// What goes with a product of few rows: a norm of A's rows before it, a gate and a sum after it.
struct ThinExtras {
  xh_dtype norm = 0;      // of the norm's weights [depth]; 0: A as it is
  xh_dtype residual = 0;  // of what is added to D; 0: nothing
  int64_t residual_leading = 0;
  bool gated = false;      // D[m,f] = silu(column f) * column f + columns / 2
  bool constants = false;  // nothing that may still run writes B
  float eps = 0;
};
struct ThinPointers {
  const void *a, *b, *bias;
  void* d;
  const void *norm = nullptr, *residual = nullptr;
};

// Few rows of A, B stored [columns][depth] and read once at the speed of memory.
class ThinGemm {
 public:
  // Most rows that still read B once.
  static constexpr int64_t kRows = 8;

  // Whether the shape is for this kernel; pointers are another matter: Takes.
  static bool Fits(const GemmShape& shape);
  Refusal Open(const GemmShape& shape, const ThinExtras& extras, const Facts& facts);
  bool Takes(const void* b) const { return reinterpret_cast<uintptr_t>(b) % 16 == 0; }
  void Run(const Launch& launch, const ThinPointers& pointers) const;

 private:
  // How rows of A that are read together go over the device.
  struct Layout {
    int padded, blocks, team, chunk;  // rows that the kernel is made for; chunk: of the depth
    int64_t items;
  };
  Layout LayOut(int64_t rows_of_a, int budget, const Facts& facts) const;

  GemmShape shape_ = {};
  ThinExtras extras_;
  Layout eights_ = {}, rest_ = {};  // of kRows rows, or as many as there are, and of what is left of them
};

}  // namespace xh::gpu

#endif  // XHYBRID_BACKENDS_CUDA_MATMUL_H_
