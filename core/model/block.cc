// The graph of a model: blocks of a mixer and a gated MLP, normalised before or after (SPEC.md 1 and 2).
#include "core/model/mixer.h"
#include "core/model/model.h"

namespace xh {
namespace {

// x W^T + bias of the layer `name`, the bias where the family has one.
Value Linear(Graph& graph, const Binder& bind, Value x, const std::string& name, bool has_bias) {
  Value weight = bind(graph, name + ".weight");
  return MatMul(graph, x, weight, has_bias ? bind(graph, name + ".bias") : kAbsent);
}

// The same of layers that read the same x. `apart`: each in memory of its own.
std::vector<Value> Linears(Graph& graph, const Binder& bind, Value x, const std::vector<std::string>& names,
                           bool has_bias, bool apart = false) {
  std::vector<Value> weights, biases, products;
  for (const std::string& name : names) {
    weights.push_back(bind(graph, name + ".weight"));
    biases.push_back(has_bias ? bind(graph, name + ".bias") : kAbsent);
  }
  if (!apart) return MatMuls(graph, x, weights, biases);
  for (size_t j = 0; j < names.size(); ++j) products.push_back(MatMul(graph, x, weights[j], biases[j]));
  return products;
}

// x [M,D] -> [M,D]
Value Mlp(Graph& graph, const ModelConfig& config, const Binder& bind, const std::string& prefix, Value x) {
  const std::vector<Value> gate_up =
      Linears(graph, bind, x, {prefix + "gate_proj", prefix + "up_proj"}, config.mlp_bias);
  return Linear(graph, bind, SwiGlu(graph, gate_up[0], gate_up[1]), prefix + "down_proj", config.mlp_bias);
}

// A sublayer's norm in front of it or behind it; the other place passes x through.
Value Norm(Graph& graph, const ModelConfig& config, const Binder& bind, const char* placement, const std::string& name,
           Value x) {
  if (config.norm_placement != placement) return x;
  return RmsNorm(graph, x, bind(graph, name + ".weight"), config.norm_eps);
}

// Rows [B*T, count*d] of q or k, normalised over each head or over all heads together.
Value HeadNorm(Graph& graph, const ModelConfig& config, const Binder& bind, const std::string& name, Value rows,
               int64_t count) {
  if (config.qk_norm == "none") return rows;
  const Shape shape = graph.shape(rows);
  const Value weight = bind(graph, name + ".weight");
  if (config.qk_norm == "full") return RmsNorm(graph, rows, weight, config.norm_eps);
  const Value heads = graph.View(rows, {shape[0] * count, config.head_dim});
  return graph.View(RmsNorm(graph, heads, weight, config.norm_eps), shape);
}

// The part of the table for this layer.
Value LayerRope(Graph& graph, const ModelConfig& config, int64_t layer, Value table) {
  const int64_t rows = graph.shape(table)[0], positions = RopeTableShape(config, 1)[0] == 1 ? rows : rows / 2;
  return rows == positions ? table : graph.Rows(table, IsSlidingLayer(config, layer) ? positions : 0, positions);
}

// Rows [B*T, count*d] of q and k as rotated heads [B,count,T,d]: one op where they lie side by side.
std::vector<Value> RopeEach(Graph& graph, const ModelConfig& config, const ForwardInput& input,
                            const std::vector<Value>& parts, Value table) {
  auto rotate = [&](Value rows) {
    const int64_t heads = graph.shape(rows)[1] / config.head_dim;
    return Rope(graph, graph.SplitHeads(rows, input.batch, input.tokens, heads), table, input.position);
  };
  Value joined = graph.Joined(parts);
  if (!joined.valid()) return {rotate(parts[0]), rotate(parts[1])};
  Value rows = graph.MergeHeads(rotate(joined));
  std::vector<Value> rotated;
  int64_t first = 0;
  for (Value part : parts) {
    const int64_t width = graph.shape(part)[1];
    rotated.push_back(
        graph.SplitHeads(graph.Columns(rows, first, width), input.batch, input.tokens, width / config.head_dim));
    first += width;
  }
  return rotated;
}

}  // namespace

Value BuildMixer(Graph& graph, const ModelConfig& config, int64_t layer, const Binder& bind, const ForwardInput& input,
                 Value x, Value* gate) {
  const std::string prefix = absl::StrCat("model.layers.", layer, ".self_attn.");
  auto split = [&](Value rows, int64_t count) {  // [B*T, count*d] -> [B,count,T,d]
    return graph.SplitHeads(rows, input.batch, input.tokens, count);
  };
  // A norm over each head reads the heads of all tokens as the rows of one matrix.
  const bool apart = config.qk_norm == "head" && input.batch * input.tokens > 1;
  const std::vector<Value> qkv =
      Linears(graph, bind, x, {prefix + "q_proj", prefix + "k_proj", prefix + "v_proj"}, config.qkv_bias, apart);
  Value q_rows = HeadNorm(graph, config, bind, prefix + "q_norm", qkv[0], config.heads);
  Value k_rows = HeadNorm(graph, config, bind, prefix + "k_norm", qkv[1], config.kv_heads);
  const MixerConfig& mixer = config.mixers[layer];
  const Value table = LayerRope(graph, config, layer, input.rope_table);
  const std::vector<Value> rotated = RopeEach(graph, config, input, {q_rows, k_rows}, table);
  const LayerState* state = input.state != nullptr ? &(*input.state)[layer] : nullptr;
  MixerContext context{config,
                       mixer,
                       prefix,
                       bind,
                       config.heads,
                       config.kv_heads,
                       input.batch,
                       input.tokens,
                       x,
                       split(q_rows, config.heads),
                       split(k_rows, config.kv_heads),
                       rotated[0],
                       rotated[1],
                       split(qkv[2], config.kv_heads),
                       table,
                       state,
                       input.start,
                       gate};
  const MixerKind* kind = FindMixerKind(mixer.kind);
  if (kind == nullptr) {
    graph.Fail(Internal("layer ", layer, " has the unknown mixer kind \"", mixer.kind, "\""));
    return rotated[0];
  }
  return kind->build(graph, context);
}

ForwardOutput BuildForward(Graph& graph, const ModelConfig& config, const Binder& bind, const ForwardInput& input) {
  return BuildBlocks(graph, config, bind, input,
                     Embed(graph, bind(graph, "model.embed_tokens.weight"), input.ids, input.dtype), 0);
}

ForwardOutput BuildBlocks(Graph& graph, const ModelConfig& config, const Binder& bind, const ForwardInput& input,
                          Value x, int64_t first) {
  ForwardOutput output;
  output.hidden.push_back(x);
  // What Hugging Face calls post_attention_layernorm stands before the MLP of pre-norm blocks, and after the attention
  // of post-norm blocks.
  for (int64_t layer = first; layer < config.layer_count; ++layer) {
    const std::string block = absl::StrCat("model.layers.", layer, ".");
    const size_t mark = graph.TapeMark();
    LayerTaps taps;
    taps.mixer_in = Norm(graph, config, bind, "pre", block + "input_layernorm", x);
    taps.mixer_out = BuildMixer(graph, config, layer, bind, input, taps.mixer_in, &taps.gate);
    output.layers.push_back(taps);
    Value mixed = Linear(graph, bind, graph.MergeHeads(taps.mixer_out), block + "self_attn.o_proj", config.output_bias);
    x = Add(graph, x, Norm(graph, config, bind, "post", block + "post_attention_layernorm", mixed));
    Value mlp_in = Norm(graph, config, bind, "pre", block + "post_attention_layernorm", x);
    Value mlp_out = Mlp(graph, config, bind, block + "mlp.", mlp_in);
    x = Add(graph, x, Norm(graph, config, bind, "post", block + "post_feedforward_layernorm", mlp_out));
    output.hidden.push_back(x);
    if (input.checkpoint_blocks) graph.Recompute(mark);
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
