// One matrix product, planned once and run often.
#ifndef XHYBRID_BACKENDS_CPU_GEMM_H_
#define XHYBRID_BACKENDS_CPU_GEMM_H_

#include <cstdint>
#include <memory>

#include "backends/cpu/plan.h"

namespace xh::cpu {

// C[M,N] = op(A)[M,K] op(B)[K,N] + bias[N], added to C when `accumulate`. Row-major, leading dimensions in elements;
// accumulation in f32. All sizes are at least 1.
struct GemmShape {
  int64_t m, n, k;
  int64_t lda, ldb, ldc;
  bool transpose_a;  // A is stored [K,M]
  bool transpose_b;  // B is stored [N,K]
  bool accumulate;
  bool bias;  // f32
  xh_dtype a, b, c;
};

// Immutable; Run may be called from several threads at once with different scratch (64-byte aligned).
class Gemm {
 public:
  virtual ~Gemm() = default;
  virtual void Run(const void* a, const void* b, const float* bias, void* c, void* scratch) const = 0;
  int64_t scratch_bytes = 0;
  const char* implementation = "";
};

// oneDNN's product, or null where it has only its reference loops for these dtypes on this processor.
std::unique_ptr<Gemm> OpenOneDnnGemm(const GemmShape& shape, int threads);

namespace XH_ISA {
// The first implementation of the list that takes the shape: thin kernels, oneDNN, the plugin's own panels. Never null.
// XHYBRID_CPU_GEMM=panel leaves oneDNN out.
std::unique_ptr<Gemm> OpenGemm(const GemmShape& shape, int threads);
}  // namespace XH_ISA

}  // namespace xh::cpu

#endif  // XHYBRID_BACKENDS_CPU_GEMM_H_
