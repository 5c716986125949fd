// What the implementations of the ATTENTION op share: sizes, argument slots, the visible set and the layout of the
// cache.
#ifndef XHYBRID_BACKENDS_CUDA_ATTENTION_H_
#define XHYBRID_BACKENDS_CUDA_ATTENTION_H_

#include "backends/cuda/plan.h"

namespace xh::gpu::attention {

// Arguments in order; the gradients that are not named here are absent.
enum Slot { kQ, kK, kV, kCacheK, kCacheV, kPosition, kStart, kO, kDo, kDq, kDk, kDv };

inline constexpr int kMostKvHeads = 128;

// By key/value head; 0: unlimited. A kernel parameter.
struct Windows {
  int32_t at[kMostKvHeads];
};

struct Shape {
  int64_t batch, heads, kv_heads, tokens, dim;
  int64_t sinks;
  float scale;
  Windows windows;
  int64_t capacity;  // slots of an unlimited head
  bool cached;       // cache and position are given
  bool documents;    // `start` is given
  xh_dtype dtype;    // of q, k, v, the cache and o

  int64_t pairs() const { return batch * heads; }
  int64_t group() const { return heads / kv_heads; }
  // Slots of a head's cache.
  int64_t HeadSlots(int64_t kv_head) const { return windows.at[kv_head] == 0 ? capacity : sinks + windows.at[kv_head]; }
  // The last position at which a call of `tokens` may begin.
  int64_t MostPosition() const {
    for (int64_t j = 0; j < kv_heads; ++j) {
      if (windows.at[j] == 0) return capacity - tokens;
    }
    return std::numeric_limits<int32_t>::max();
  }
};

// What FORWARD saves, whatever the implementation: the natural log of every query's sum of exponentials of
// scale q.k, f32 [B, H, T].
inline int64_t SavedBytes(const Shape& s) {
  int64_t bytes = 0;
  Reserve(&bytes, s.pairs() * s.tokens, 4);
  return bytes;
}

// Slot of a position inside its head's part of the cache.
__host__ __device__ inline int64_t SlotOf(int64_t position, int64_t window, int64_t sinks) {
  return window == 0 || position < sinks ? position : sinks + (position - sinks) % window;
}
// Slots that the token at `position` attends to, its own among them: they are the first of its head's part.
__host__ __device__ inline int64_t VisibleSlots(int64_t position, int64_t window, int64_t sinks) {
  if (window == 0 || position < sinks) return position + 1;
  const int64_t recent = position - sinks + 1;
  return sinks + (recent < window ? recent : window);
}
// The first slot of a head's part.
__host__ __device__ inline int64_t FirstSlot(const Windows& windows, int64_t kv_head, int64_t sinks, int64_t capacity) {
  int64_t first = 0;
  for (int64_t j = 0; j < kv_head; ++j) first += windows.at[j] == 0 ? capacity : sinks + windows.at[j];
  return first;
}

// Whether every sequence of the batch has room for the call's tokens: where one has not, nothing is done for any. All
// threads of a block call it and get the same answer.
__device__ inline bool PositionsFit(const View<const int32_t>& position, int64_t batch, int64_t most, bool report,
                                    const FaultSink& sink) {
  bool bad = false;
  for (int64_t b = threadIdx.x; b < batch; b += blockDim.x) {
    const int64_t p = *position.At(b);
    if (p >= 0 && p <= most) continue;
    bad = true;
    if (report) Report(sink, FaultKind::kPosition, b, -1, p, 0, most);
  }
  return __syncthreads_or(bad ? 1 : 0) == 0;
}

// NULL where it does not apply. Defined in builds with XH_SM90 only.
std::unique_ptr<Plan> MakeAttentionSm90(const Shape& shape, const Request& request);

// Everything but a backward pass; with a cache, tokens of any number.
std::unique_ptr<Plan> MakeAttentionPlainForward(const Shape& shape, const Request& request);
std::unique_ptr<Plan> MakeAttentionPlainBackward(const Shape& shape, const Request& request);
// One token with a cache, dim at most kMostDecodeDim.
inline constexpr int64_t kMostDecodeDim = 256;
std::unique_ptr<Plan> MakeAttentionDecode(const Shape& shape, const Request& request);
// For so many sequences that they fill the device: wraps `plan`, or gives it back where that does not apply.
std::unique_ptr<Plan> MakeAttentionDecodeMany(const Shape& shape, const Request& request, std::unique_ptr<Plan> plan);
// The same with two arguments behind o, gate f32 [B, H] and x [B, H, 1, d]: o becomes gate x + (1 - gate) o. Rows begin
// at multiples of 16 bytes; positions end at `most_position`. NULL where it does not apply.
enum { kGate = kO + 1, kX };
std::unique_ptr<Plan> MakeAttentionDecodeMixed(const Shape& shape, const Facts& facts, int64_t most_position);

}  // namespace xh::gpu::attention

#endif  // XHYBRID_BACKENDS_CUDA_ATTENTION_H_
