// The graph of a model: pre-norm blocks of a mixer and a gated MLP (SPEC.md 1 and 2).
#include "core/model/mixer.h"
#include "core/model/model.h"

namespace xh {
namespace {

// x W^T + bias of the layer `name`, the bias where the family has one.
Value Linear(Graph& graph, const Binder& bind, Value x, const std::string& name, bool has_bias) {
  Value weight = bind(graph, name + ".weight");
  return MatMul(graph, x, weight, has_bias ? bind(graph, name + ".bias") : kAbsent);
}

// x [M,D] -> [M,D]
Value Mlp(Graph& graph, const ModelConfig& config, const Binder& bind, const std::string& prefix, Value x) {
  Value gate = Linear(graph, bind, x, prefix + "gate_proj", config.mlp_bias);
  Value up = Linear(graph, bind, x, prefix + "up_proj", config.mlp_bias);
  return Linear(graph, bind, SwiGlu(graph, gate, up), prefix + "down_proj", config.mlp_bias);
}

}  // namespace

Value BuildMixer(Graph& graph, const ModelConfig& config, int64_t layer, const Binder& bind, const ForwardInput& input,
                 Value x) {
  const std::string prefix = absl::StrCat("model.layers.", layer, ".self_attn.");
  auto heads = [&](const char* name, int64_t count) {
    Value rows = Linear(graph, bind, x, prefix + name, config.qkv_bias);  // [B*T, count*d]
    return graph.SplitHeads(rows, input.batch, input.tokens, count);      // [B,count,T,d]
  };
  Value q = heads("q_proj", config.heads);
  Value k = heads("k_proj", config.kv_heads);
  Value v = heads("v_proj", config.kv_heads);
  const MixerConfig& mixer = config.mixers[layer];
  const LayerState* state = input.state != nullptr ? &(*input.state)[layer] : nullptr;
  MixerContext context{config,
                       mixer,
                       prefix,
                       bind,
                       input.batch,
                       input.tokens,
                       x,
                       q,
                       k,
                       Rope(graph, q, input.rope_table, input.position),
                       Rope(graph, k, input.rope_table, input.position),
                       v,
                       state};
  const MixerKind* kind = FindMixerKind(mixer.kind);
  if (kind == nullptr) {
    graph.Fail(Internal("layer ", layer, " has the unknown mixer kind \"", mixer.kind, "\""));
    return q;
  }
  return kind->build(graph, context);
}

ForwardOutput BuildForward(Graph& graph, const ModelConfig& config, const Binder& bind, const ForwardInput& input) {
  ForwardOutput output;
  Value x = Embed(graph, bind(graph, "model.embed_tokens.weight"), input.ids, input.dtype);  // [B*T, D]
  output.hidden.push_back(x);
  for (int64_t layer = 0; layer < config.layer_count; ++layer) {
    const std::string block = absl::StrCat("model.layers.", layer, ".");
    LayerTaps taps;
    taps.mixer_in = RmsNorm(graph, x, bind(graph, block + "input_layernorm.weight"), config.norm_eps);
    taps.mixer_out = BuildMixer(graph, config, layer, bind, input, taps.mixer_in);
    output.layers.push_back(taps);
    x = Add(graph, x,
            Linear(graph, bind, graph.MergeHeads(taps.mixer_out), block + "self_attn.o_proj", config.output_bias));
    Value normed = RmsNorm(graph, x, bind(graph, block + "post_attention_layernorm.weight"), config.norm_eps);
    x = Add(graph, x, Mlp(graph, config, bind, block + "mlp.", normed));
    output.hidden.push_back(x);
  }
  output.final_hidden = RmsNorm(graph, x, bind(graph, "model.norm.weight"), config.norm_eps);
  output.hidden.back() = output.final_hidden;
  return output;
}

Value BuildLogits(Graph& graph, const ModelConfig& config, const Binder& bind, Value hidden_rows) {
  return MatMul(graph, hidden_rows,
                bind(graph, config.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight"));
}

}  // namespace xh
