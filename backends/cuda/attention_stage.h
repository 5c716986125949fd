// Keys and values of a call of many tokens with a cache, laid out for kernels that read whole tiles.
#ifndef XHYBRID_BACKENDS_CUDA_ATTENTION_STAGE_H_
#define XHYBRID_BACKENDS_CUDA_ATTENTION_STAGE_H_

#include "backends/cuda/attention.h"

namespace xh::gpu::attention {

// With p tokens before the call, heads of one window W: [B,KV,W+T,d] with position p - W + j in row j, and the first
// positions, the sinks, in [B,KV,sinks,d]. Rows before position 0 are not written.
struct Staged {
  int64_t keys, values, sink_keys, sink_values;  // offsets in a workspace
};
Staged ReserveStaged(const Shape& shape, int64_t* bytes);

// Whether rows move in 16 bytes.
bool StagesInPacks(const xh_tensor* args);
// Queues the copies from cache and call to the workspace. A position without room for the call is reported.
void StageKeys(const Shape& shape, const Staged& staged, const Launch& launch);
// Queues the writing of the call's keys and values to their slots of the cache. Of unlimited heads the `clear` slots
// behind them become 0, so that a tile that reaches over the end holds numbers.
void KeepKeys(const Shape& shape, int64_t clear, const Launch& launch);

}  // namespace xh::gpu::attention

#endif  // XHYBRID_BACKENDS_CUDA_ATTENTION_STAGE_H_
