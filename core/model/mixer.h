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
  int64_t heads, kv_heads;  // of q, k and v below: H and KV, or those of them that have an mLSTM
  int64_t batch, tokens;
  Normed x;                 // [B*T, D]
  Value q_plain, k_plain;   // before RoPE, [B,H,T,d] and [B,KV,T,d]
  Value q, k, v;            // after RoPE
  Value rope_table;         // f32[P,d], the layer's own
  const LayerState* state;  // NULL without carried state
  Value start;              // i32[B,T] of rows packed from documents, or absent
  Value* gate;              // where a kind that mixes two branches leaves its gate, or NULL
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
const MixerKind* FindMixerKind(const std::string& name);  // NULL when there is none
// The heads that have an mLSTM, increasing: all of them, but for key/value heads of "hybrid" that are kept at unlimited
// window (SPEC.md 7), with the query heads that read them.
struct MlstmHeads {
  std::vector<int32_t> kv, query;
};
MlstmHeads MlstmHeadsOf(const ModelConfig& config, const MixerConfig& mixer);
// Features of phi(q): n, 2n for "hedgehog", d for "none"; the rows of S.
int64_t FeatureCount(const ModelConfig& config, const MixerConfig& mixer);
// Parameters a layer's mixer has beyond the teacher's, under "model.layers.<layer>.self_attn.xlstm.":
// with H the heads that have an mLSTM:
//   query_features.weight, key_features.weight  [H,d,n], absent with the feature map "none"
//   input_gate.weight [H,D], input_gate.bias [H], forget_gate.weight [H,D], forget_gate.bias [H]
//   output_gate.weight [H,3d], output_gate.bias [H], where the kind mixes two branches
void AppendMixerParameters(const ModelConfig& config, int64_t layer, std::vector<ParameterSpec>* out);
// Tensors of a layer's decode state; `capacity` positions for unlimited heads.
std::vector<StateSpec> MixerState(const ModelConfig& config, int64_t layer, int64_t batch, int64_t capacity);

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_MIXER_H_
