// What the implementations of the MLSTM op share: sizes and argument slots.
#ifndef XHYBRID_BACKENDS_CUDA_MLSTM_H_
#define XHYBRID_BACKENDS_CUDA_MLSTM_H_

#include "backends/cuda/plan.h"

namespace xh::gpu::mlstm {

// Arguments in order; the gradients that are not named here are absent.
enum Slot { kQ, kK, kV, kI, kF, kS, kZ, kM, kStart, kH, kSOut, kZOut, kMOut, kDh, kDq = 17, kDk, kDv, kDi, kDf };

// Tokens of a chunk, whatever the caller asks for: results do not depend on it.
inline constexpr int kChunk = 64;

struct Shape {
  int64_t batch, heads, kv_heads, tokens;
  int64_t features;  // n: columns of q and k, rows of the state
  int64_t columns;   // d: columns of v and h, columns of the state
  float scale;       // of q
  bool floored;      // XH_NORMALIZER_MAX
  bool documents;    // `start` is given
  xh_dtype dtype;    // of q, k, v and h

  int64_t pairs() const { return batch * heads; }
  int64_t chunks() const { return (tokens + kChunk - 1) / kChunk; }
  int64_t group() const { return heads / kv_heads; }
};

// NULL where it does not apply. Defined in builds with XH_SM90 only.
std::unique_ptr<Plan> MakeMlstmSm90(const Shape& shape, const Request& request);

std::unique_ptr<Plan> MakeMlstmPlainForward(const Shape& shape, const Request& request);
std::unique_ptr<Plan> MakeMlstmPlainBackward(const Shape& shape, const Request& request);
// One token without `start`, INFER, at most kMostStepFeatures; with or without a state before and after.
inline constexpr int64_t kMostStepFeatures = 2048;
std::unique_ptr<Plan> MakeMlstmStep(const Shape& shape, const Request& request);
// The same for many heads whose state comes and goes; `plain` where that does not apply. In builds with XH_SM90 only.
std::unique_ptr<Plan> MakeMlstmStepSm90(const Shape& shape, const Request& request, std::unique_ptr<Plan> plain);
// The same with one argument more behind m_out, a permit i32 [1]: where it is 0 nothing is done. The state begins at a
// multiple of 16 bytes. NULL where it does not apply.
enum { kPermit = kMOut + 1 };
std::unique_ptr<Plan> MakeMlstmStream(const Shape& shape, const Request& request);

}  // namespace xh::gpu::mlstm

#endif  // XHYBRID_BACKENDS_CUDA_MLSTM_H_
