// Matrix products by the vendor's library, cuBLASLt, which is loaded when the first product is opened: a plugin without
// it still loads, and does everything else.
#ifndef XHYBRID_BACKENDS_CUDA_CUBLASLT_H_
#define XHYBRID_BACKENDS_CUDA_CUBLASLT_H_

#include <cstdint>
#include <memory>

#include "backends/common/request.h"

#ifdef XH_HIP
#include "backends/hip/names.h"
#else
#include <cuda_runtime_api.h>

namespace xh::gpu {
using gpuStream_t = cudaStream_t;  // as in gpu.h, which only device compilers read
}
#endif

namespace xh::gpu {

// D[rows,columns] (+)= A[rows,depth] B[depth,columns] + bias[columns], rows contiguous and `leading` elements apart.
struct LtShape {
  int64_t rows, columns, depth;
  int64_t a_leading, b_leading, d_leading;
  bool a_transposed;        // stored [depth][rows]
  bool b_transposed;        // stored [columns][depth]
  bool accumulate;          // adds to what is there, or to another matrix; without bias
  bool bias;                // of D's dtype
  xh_dtype inputs, result;  // bf16 or f32; f32 inputs have an f32 result, and every product in full f32
};

// One product, opened for the current device. Immutable.
class LtProduct {
 public:
  virtual ~LtProduct() = default;
  // Whether pointers are aligned as the algorithm needs them. bias may be NULL where there is none.
  virtual bool Takes(const void* a, const void* b, const void* bias, const void* d) const = 0;
  // What is added when the product accumulates lies at `c`, laid out as D; it may be D.
  virtual void Run(gpuStream_t stream, const void* a, const void* b, const void* bias, const void* c, void* d,
                   void* workspace) const = 0;
  int64_t workspace_bytes = 0;
};

// `out` stays empty where the library has no deterministic algorithm for the shape. Refused when there is no library.
backend::Refusal OpenLtProduct(const LtShape& shape, std::unique_ptr<LtProduct>* out);

}  // namespace xh::gpu

#endif  // XHYBRID_BACKENDS_CUDA_CUBLASLT_H_
