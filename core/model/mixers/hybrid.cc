// The kind "hybrid": both branches and a gate between them. Heads kept at unlimited window have the local branch alone.
#include "core/model/mixers/branches.h"

namespace xh {

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
  const std::string prefix = context.prefix + "xlstm.output_gate.";
  // The gate reads what the projections made, before RoPE.
  Value gate = HeadGate(graph, mixed.q_plain, mixed.k_plain, mixed.v, context.bind(graph, prefix + "weight"),
                        context.bind(graph, prefix + "bias"));
  if (context.gate != nullptr) *context.gate = gate;
  return Mix(graph, gate, MlstmBranch(graph, mixed), LocalBranch(graph, context), heads.query);
}

}  // namespace xh
