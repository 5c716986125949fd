// ATTENTION: checks a request and chooses an implementation.
#include <algorithm>

#include "backends/cuda/attention.h"
#include "backends/cuda/ops.h"

namespace xh::gpu {
namespace {

std::unique_ptr<Plan> MakePlan(const attention::Shape& shape, const Request& request) {
  if (shape.cached && shape.tokens == 1 && shape.dim <= attention::kMostDecodeDim) {
    return attention::MakeAttentionDecodeMany(shape, request, attention::MakeAttentionDecode(shape, request));
  }
#ifdef XH_SM90
  if (std::unique_ptr<Plan> plan = attention::MakeAttentionSm90(shape, request)) return plan;
#endif
  return request.pass == XH_BACKWARD ? attention::MakeAttentionPlainBackward(shape, request)
                                     : attention::MakeAttentionPlainForward(shape, request);
}

}  // namespace

Refusal OpenAttention(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_attention_params params = {};
  Refusal refusal = backend::CheckAttention(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  if (dims['K'] > attention::kMostKvHeads) {
    return Unsupported("ATTENTION: KV is " + std::to_string(dims['K']) + ", at most " +
                       std::to_string(attention::kMostKvHeads) + " is supported here");
  }
  attention::Shape shape = {};
  shape.batch = dims['B'];
  shape.heads = dims['H'];
  shape.kv_heads = dims['K'];
  shape.tokens = dims['T'];
  shape.dim = dims['d'];
  shape.sinks = params.sinks;
  shape.scale = params.scale;
  std::copy_n(params.windows, dims['K'], shape.windows.at);
  shape.capacity = params.capacity;
  shape.cached = Present(request.args[attention::kCacheK]);
  shape.documents = Present(request.args[attention::kStart]);
  shape.dtype = dims.activation;
  *out = MakePlan(shape, request);
  return {};
}

}  // namespace xh::gpu
