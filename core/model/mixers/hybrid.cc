// The kind "hybrid": both branches and a gate between them.
#include "core/model/mixers/branches.h"

namespace xh {

Value HybridMixer(Graph& graph, const MixerContext& context) {
  const std::string prefix = context.prefix + "xlstm.output_gate.";
  // The gate reads what the projections made, before RoPE.
  Value gate = HeadGate(graph, context.q_plain, context.k_plain, context.v, context.bind(graph, prefix + "weight"),
                        context.bind(graph, prefix + "bias"));
  return Mix(graph, gate, MlstmBranch(graph, context), LocalBranch(graph, context));
}

}  // namespace xh
