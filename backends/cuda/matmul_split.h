// Products of an f32 matrix and a bf16 one, which the library does not have.
#ifndef XHYBRID_BACKENDS_CUDA_MATMUL_SPLIT_H_
#define XHYBRID_BACKENDS_CUDA_MATMUL_SPLIT_H_

#include <memory>

#include "backends/cuda/cublaslt.h"
#include "backends/cuda/matmul.h"

namespace xh::gpu {

// The f32 side becomes the sum of two bf16 matrices, which hold 16 bits of its 24 where the other side holds 8. The
// products with each are summed in f32, or where the result is bf16 rounded twice.
class SplitGemm {
 public:
  static bool Fits(const GemmShape& shape);
  // Grows the workspace of the plan; without an algorithm of the library Takes is false for everything.
  Refusal Open(const GemmShape& shape, int64_t* workspace);
  bool Takes(const Launch& launch, const void* a, const void* b, const void* bias, const void* d) const;
  void Run(const Launch& launch, const void* a, const void* b, const void* bias, void* d) const;

 private:
  struct Sides {
    const void *a, *b;
  };
  Sides With(const Launch& launch, const void* a, const void* b, int64_t part) const;

  GemmShape shape_ = {};
  bool splits_a_ = false;
  int64_t stored_rows_ = 0, stored_width_ = 0, stored_leading_ = 0;  // of the f32 side
  std::unique_ptr<LtProduct> first_, second_;                        // the second adds to the first
  int64_t high_ = 0, low_ = 0, scratch_ = 0;                         // in the workspace
};

}  // namespace xh::gpu

#endif  // XHYBRID_BACKENDS_CUDA_MATMUL_SPLIT_H_
