// The mixer kinds, one table entry each: parameters, graph and decode state. A new kind is one op, one file, one entry.
#ifndef XHYBRID_CORE_MODEL_MIXER_H_
#define XHYBRID_CORE_MODEL_MIXER_H_

#include <string>
#include <vector>

#include "core/model/model.h"

namespace xh {

// What a kind builds its branches from: projections already made and rotated by the block.
struct MixerContext {
  const ModelConfig& config;
  const MixerConfig& mixer;
  std::string prefix;  // "model.layers.3.self_attn."
  const Binder& bind;
  int64_t batch, tokens;
  Value x;                  // [B*T, D]
  Value q_plain, k_plain;   // before RoPE, [B,H,T,d] and [B,KV,T,d]
  Value q, k, v;            // after RoPE
  const LayerState* state;  // NULL without carried state
};

struct StateSpec {
  std::string name;  // "S", "z", "m", "cache_k", "cache_v"
  Shape shape;       // with the batch first
  bool is_cache;     // activation dtype; the rest is f32
};

struct MixerKind {
  const char* name;
  bool has_mlstm;
  bool has_window;  // local branch with windows and sinks; "attention" has one whose windows are all 0
  Value (*build)(Graph& graph, const MixerContext& context);  // -> [B,H,T,d]
};

const std::vector<MixerKind>& MixerKinds();
const MixerKind* FindMixerKind(const std::string& name);
// Parameters a layer's mixer has beyond the teacher's.
void AppendMixerParameters(const ModelConfig& config, int64_t layer, std::vector<ParameterSpec>* out);
// Tensors of a layer's decode state; `capacity` positions for unlimited heads.
std::vector<StateSpec> MixerState(const ModelConfig& config, int64_t layer, int64_t batch, int64_t capacity);

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_MIXER_H_
