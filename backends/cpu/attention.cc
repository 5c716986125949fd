// ATTENTION: checks a request, chooses the pass, and writes the cache.
#include "backends/cpu/attention.h"

#include "backends/cpu/ops.h"

namespace xh::cpu::XH_ISA {
Refusal OpenAttention(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_attention_params params = {};
  const Refusal refusal = backend::CheckAttention(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  const attention::Shape shape = {
      dims['B'],       dims['H'],    dims['K'],      dims['T'],
      dims['d'],       params.sinks, params.scale,   std::vector<int64_t>(params.windows, params.windows + dims['K']),
      params.capacity, dims['C'],    request.threads};
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
