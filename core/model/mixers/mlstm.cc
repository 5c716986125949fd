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
  DenseLayer layer;
  std::vector<Value> gates;
  for (const char* name : {"input_gate", "forget_gate"}) {
    const std::string prefix = context.prefix + "xlstm." + name;
    layer.weights.push_back(context.bind(graph, prefix + ".weight"));
    layer.biases.push_back(context.bind(graph, prefix + ".bias"));
  }
  layer.x = context.x;
  layer.dtype = XH_F32;
  for (Value rows : Dense(graph, layer)) {
    gates.push_back(graph.SplitHeads(rows, context.batch, context.tokens, context.heads, true));
  }
  return gates;
}

}  // namespace

MlstmParts MlstmPartsOf(Graph& graph, const MixerContext& context) {
  const std::string& map = context.mixer.feature_map;
  const std::string prefix = context.prefix + "xlstm.";
  MlstmParts parts = {XH_NORMALIZER_PLAIN, 1.0, XH_FEATURE_SOFTMAX, kAbsent, kAbsent, kAbsent, kAbsent};
  if (map == "none") {  // q.z may be near zero: it needs the floor and the scale
    parts.normalizer = XH_NORMALIZER_MAX;
    parts.scale = 1.0 / std::sqrt(static_cast<double>(context.config.head_dim));
  } else {
    if (map == "hedgehog") parts.map = XH_FEATURE_HEDGEHOG;
    parts.query_map = context.bind(graph, prefix + "query_features.weight");
    parts.key_map = context.bind(graph, prefix + "key_features.weight");
  }
  const std::vector<Value> gates = Gates(graph, context);
  parts.i = gates[0];
  parts.f = gates[1];
  return parts;
}

Value MlstmBranch(Graph& graph, const MixerContext& context) {
  const MlstmParts parts = MlstmPartsOf(graph, context);
  const xh_mlstm_params params{XH_SIZED(xh_mlstm_params), parts.normalizer, static_cast<float>(parts.scale), 0};
  const bool maps = parts.query_map.valid();
  Value q = maps ? FeatureMap(graph, context.q, parts.query_map, parts.map) : context.q;
  Value k = maps ? FeatureMap(graph, context.k, parts.key_map, parts.map) : RepeatHeads(graph, context, context.k);
  return Mlstm(graph, q, k, context.v, parts.i, parts.f, params,
               context.state != nullptr ? &context.state->mlstm : nullptr, context.start);
}

}  // namespace xh
