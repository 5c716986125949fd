// The mLSTM: the kind "mlstm", and the global branch of "hybrid".
#include <cmath>

#include "core/model/mixers/branches.h"

namespace xh {
namespace {

// k [B,KV,T,d] as [B,H,T,d], each head repeated for the query heads that read it.
Value RepeatHeads(Graph& graph, const MixerContext& context, Value k) {
  std::vector<int32_t> heads;
  for (int64_t h = 0; h < context.heads; ++h) {
    heads.push_back(static_cast<int32_t>(h / (context.heads / context.kv_heads)));
  }
  return SelectHeads(graph, k, heads);
}

// Pre-activations of the input and the forget gate, f32 [B,H,T].
std::vector<Value> Gates(Graph& graph, const MixerContext& context) {
  std::vector<Value> weights, biases, gates;
  for (const char* name : {"input_gate", "forget_gate"}) {
    const std::string prefix = context.prefix + "xlstm." + name;
    weights.push_back(context.bind(graph, prefix + ".weight"));
    biases.push_back(context.bind(graph, prefix + ".bias"));
  }
  for (Value rows : MatMuls(graph, context.x, weights, biases, XH_F32)) {
    gates.push_back(graph.SplitHeads(rows, context.batch, context.tokens, context.heads, true));
  }
  return gates;
}

}  // namespace

Value MlstmBranch(Graph& graph, const MixerContext& context) {
  const std::string& map = context.mixer.feature_map;
  xh_mlstm_params params{XH_SIZED(xh_mlstm_params), XH_NORMALIZER_PLAIN, 1.0f, 0};
  Value q, k;
  if (map == "none") {  // q.z may be near zero: it needs the floor and the scale
    params.normalizer = XH_NORMALIZER_MAX;
    params.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(context.config.head_dim)));
    q = context.q;
    k = RepeatHeads(graph, context, context.k);
  } else {
    const xh_feature_map kind = map == "hedgehog" ? XH_FEATURE_HEDGEHOG : XH_FEATURE_SOFTMAX;
    const std::string prefix = context.prefix + "xlstm.";
    q = FeatureMap(graph, context.q, context.bind(graph, prefix + "query_features.weight"), kind);
    k = FeatureMap(graph, context.k, context.bind(graph, prefix + "key_features.weight"), kind);
  }
  const std::vector<Value> gates = Gates(graph, context);
  return Mlstm(graph, q, k, context.v, gates[0], gates[1], params,
               context.state != nullptr ? &context.state->mlstm : nullptr, context.start);
}

}  // namespace xh
