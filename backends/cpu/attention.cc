// ATTENTION: checks a request, chooses the pass, and writes the cache.
#include "backends/cpu/attention.h"

#include "backends/cpu/ops.h"

namespace xh::cpu::XH_ISA {
namespace {

Refusal CheckParameters(const xh_attention_params& params, int64_t kv_heads) {
  if (params.kv_heads != kv_heads || params.windows == nullptr) {
    return Invalid("ATTENTION: kv_heads is " + std::to_string(params.kv_heads) + " with windows " +
                   (params.windows == nullptr ? "NULL" : "given") + ", k has " + std::to_string(kv_heads) +
                   " heads and each needs a window");
  }
  if (params.sinks < 0)
    return Invalid("ATTENTION: sinks is " + std::to_string(params.sinks) + ", at least 0 is allowed");
  if (params.capacity < 0) {
    return Invalid("ATTENTION: capacity is " + std::to_string(params.capacity) + ", at least 0 is allowed");
  }
  for (int64_t j = 0; j < kv_heads; ++j) {
    if (params.windows[j] < 0) {
      return Invalid("ATTENTION: windows[" + std::to_string(j) + "] is " + std::to_string(params.windows[j]) +
                     ", allowed is 0 (unlimited) or more");
    }
  }
  return {};
}

Refusal CheckCache(const Request& request, const attention::Shape& shape) {
  using attention::kCacheK;
  using attention::kPosition;
  const bool any =
      Present(request.args[kCacheK]) || Present(request.args[attention::kCacheV]) || Present(request.args[kPosition]);
  const bool all =
      Present(request.args[kCacheK]) && Present(request.args[attention::kCacheV]) && Present(request.args[kPosition]);
  if (any && !all) return Invalid("ATTENTION: cache_k, cache_v, position: some are present, allowed is all or none");
  if (any && request.pass != XH_INFER) {
    return Unsupported(std::string("ATTENTION: a cache with ") + PassName(request.pass) + ", it goes with INFER only");
  }
  if (any && Present(request.args[attention::kStart])) {
    return Unsupported("ATTENTION: a cache with start, documents are packed into whole rows only");
  }
  const int64_t needed = shape.FirstSlot(shape.kv_heads);
  if (any && shape.slots != needed) {
    return Invalid("ATTENTION: the cache has " + std::to_string(shape.slots) + " slots, its heads own " +
                   std::to_string(needed));
  }
  return {};
}

}  // namespace

Refusal OpenAttention(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  Refusal refusal = CheckArguments("ATTENTION", request,
                                   {{"q", "BHTd", Type::kActivation, kNeeded},
                                    {"k", "BKTd", Type::kActivation, kNeeded},
                                    {"v", "BKTd", Type::kActivation, kNeeded},
                                    {"cache_k", "BCd", Type::kActivation, kOptional | kConstant},
                                    {"cache_v", "BCd", Type::kActivation, kOptional | kConstant},
                                    {"position", "B", Type::kI32, kOptional | kConstant},
                                    {"start", "BT", Type::kI32, kOptional | kConstant}},
                                   {{"o", "BHTd", Type::kActivation, kNeeded}}, &dims);
  xh_attention_params params = {};
  if (refusal.code == 0) refusal = Params("ATTENTION", request, &params);
  if (refusal.code == 0) refusal = CheckParameters(params, dims['K']);
  if (refusal.code != 0) return refusal;
  if (dims['H'] % dims['K'] != 0) {
    return Invalid("ATTENTION: H is " + std::to_string(dims['H']) + " and KV is " + std::to_string(dims['K']) +
                   ", H must be a multiple of KV");
  }
  const attention::Shape shape = {
      dims['B'],       dims['H'],    dims['K'],      dims['T'],
      dims['d'],       params.sinks, params.scale,   std::vector<int64_t>(params.windows, params.windows + dims['K']),
      params.capacity, dims['C'],    request.threads};
  refusal = CheckCache(request, shape);
  if (refusal.code != 0) return refusal;
  if (request.pass == XH_BACKWARD) {
    *out = attention::MakeBackward(shape, request);
  } else if (shape.tokens == 1 && Present(request.args[attention::kCacheK])) {
    *out = attention::MakeDecode(shape, request);
  } else {
    *out = attention::MakeForward(shape, request);
  }
  return {};
}

namespace attention {
namespace {

void CopyRows(const TileRows& from, const TileRows& to, int64_t columns) {
  std::memcpy(to.data, from.data, static_cast<size_t>(columns * from.bytes()));
}

}  // namespace

void CheckPositions(const Shape& s, const xh_tensor& position) {
  if (!Present(position)) return;
  const bool unlimited = std::find(s.windows.begin(), s.windows.end(), 0) != s.windows.end();
  const int64_t most = unlimited ? s.capacity - s.tokens : std::numeric_limits<int32_t>::max();
  for (int64_t b = 0; b < s.batch; ++b) {
    const int64_t p = PositionOf(position, b);
    if (p >= 0 && p <= most) continue;
    throw RunError{XH_INVALID_ARGUMENT, "ATTENTION: position[" + std::to_string(b) + "] is " + std::to_string(p) +
                                            ", allowed is 0 to " + std::to_string(most) + " for " +
                                            std::to_string(s.tokens) + " tokens of a cache with capacity " +
                                            std::to_string(s.capacity)};
  }
}

void WriteCache(const Shape& s, const xh_tensor* args, int64_t b, int64_t kv_head, int64_t start) {
  const int64_t window = s.windows[kv_head], end = start + s.tokens;
  const TileRows k = HeadRows(args[kK], b, kv_head), v = HeadRows(args[kV], b, kv_head);
  const TileRows to_k = CacheRows(s, args[kCacheK], b, kv_head), to_v = CacheRows(s, args[kCacheV], b, kv_head);
  for (int64_t p = start; p < end; ++p) {
    if (window != 0 && p >= s.sinks && p < end - window) continue;  // overwritten within this call
    const int64_t slot = SlotOf(p, window, s.sinks);
    CopyRows(k.From(p - start), to_k.From(slot), s.dim);
    CopyRows(v.From(p - start), to_v.From(slot), s.dim);
  }
}

}  // namespace attention
}  // namespace xh::cpu::XH_ISA
