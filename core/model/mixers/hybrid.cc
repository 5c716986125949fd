// The kind "hybrid": both branches and a gate between them. Heads kept at unlimited window have the local branch alone.
#include "core/model/mixers/branches.h"

namespace xh {
namespace {

// A token of decoding as one op, where every head has both branches and the device offers it; absent otherwise. What
// the block has rotated is then read by nobody and dropped.
Value OneToken(Graph& graph, const MixerContext& context, Value weight, Value bias) {
  if (context.state == nullptr || context.tokens != 1) return kAbsent;
  const MlstmParts parts = MlstmPartsOf(graph, context);
  xh_hybrid_step_params params = {};
  params.struct_size = sizeof(params);
  params.map = parts.map;
  params.normalizer = parts.normalizer;
  params.mlstm_scale = static_cast<float>(parts.scale);
  params.scale = static_cast<float>(LocalScale(context));
  params.sinks = context.mixer.sinks;
  const HybridStepInput input = {
      context.q_plain, context.k_plain, context.v, context.rope_table, parts.query_map, parts.key_map, parts.i,
      parts.f,         weight,          bias};
  return HybridStep(graph, input, context.state->mlstm, context.state->cache, params, context.mixer.windows);
}

}  // namespace

Value HybridMixer(Graph& graph, const MixerContext& context) {
  const MlstmHeads heads = MlstmHeadsOf(context.config, context.mixer);
  MixerContext mixed = context;
  mixed.heads = static_cast<int64_t>(heads.query.size());
  mixed.kv_heads = static_cast<int64_t>(heads.kv.size());
  mixed.q_plain = SelectHeads(graph, context.q_plain, heads.query);
  mixed.k_plain = SelectHeads(graph, context.k_plain, heads.kv);
  mixed.q = SelectHeads(graph, context.q, heads.query);
  mixed.k = SelectHeads(graph, context.k, heads.kv);
  mixed.v = SelectHeads(graph, context.v, heads.kv);
  const Value weight = context.bind(graph, context.prefix + "xlstm.output_gate.weight");
  const Value bias = context.bind(graph, context.prefix + "xlstm.output_gate.bias");
  // The gate reads what the projections made, before RoPE.
  Value gate = HeadGate(graph, mixed.q_plain, mixed.k_plain, mixed.v, weight, bias);
  if (context.gate != nullptr) *context.gate = gate;
  if (mixed.heads == context.heads) {
    const Value token = OneToken(graph, context, weight, bias);
    if (token.valid()) return token;
  }
  return Mix(graph, gate, MlstmBranch(graph, mixed), LocalBranch(graph, context), heads.query);
}

}  // namespace xh
