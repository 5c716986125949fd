// FEATURE_MAP: phi = softmax(u a_h) over features, or for hedgehog [softmax(u a_h), softmax(-u a_h)].
#ifndef XHYBRID_BACKENDS_CUDA_FEATURE_MAP_H_
#define XHYBRID_BACKENDS_CUDA_FEATURE_MAP_H_

#include "backends/cuda/plan.h"

namespace xh::gpu {

namespace feature_map {

enum { kU, kA, kPhi, kDphi, kDu, kDa };

struct Sizes {
  int64_t b, heads, inputs, t, d, n;  // inputs: heads of u
  bool hedgehog;

  __host__ __device__ int64_t group() const { return heads / inputs; }
  __host__ __device__ int halves() const { return hedgehog ? 2 : 1; }
};

// A parameter: f32 or bf16, read an element at a time.
struct Map {
  const void* data;
  int64_t head_stride, row_stride;
  xh_dtype dtype;

  __device__ float Get(int64_t h, int64_t i, int64_t j) const {
    const int64_t at = h * head_stride + i * row_stride + j;
    return dtype == XH_BF16 ? ToFloat(static_cast<const bf16*>(data)[at]) : static_cast<const float*>(data)[at];
  }
};

// da[h,i,j] = sum over parts, in their order, of parts[part][h][i][j]. No parts give zero.
void AddParts(gpuStream_t stream, const Sizes& sizes, const float* parts, int64_t count, const xh_tensor& da);

// INFER and FORWARD of so few tokens that reading the map is most of the work: wraps `plan` and says so, or does
// nothing.
bool TakeFewTokens(const Request& request, const Sizes& sizes, std::unique_ptr<Plan>* plan);
// The same for one token of many sequences.
void TakeManySequences(const Request& request, const Sizes& sizes, std::unique_ptr<Plan>* plan);

}  // namespace feature_map

#ifdef XH_SM90
// The plan by the instructions of sm_90a where it takes the request; otherwise `plan` stays as it is, which it also
// runs where pointers do not allow its own way.
Refusal OpenFeatureMapSm90(const Request& request, const feature_map::Sizes& sizes, std::unique_ptr<Plan>* plan);
#endif

}  // namespace xh::gpu

#endif  // XHYBRID_BACKENDS_CUDA_FEATURE_MAP_H_
