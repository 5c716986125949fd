// The graph of a model: blocks of a mixer and a gated MLP, normalised before or after (SPEC.md 1 and 2).
#include "core/model/mixer.h"
#include "core/model/model.h"

namespace xh {
namespace {

// The layer of `names`, which read the same x; biases where the family has them.
DenseLayer Layer(Graph& graph, const Binder& bind, const Normed& x, const std::vector<std::string>& names,
                 bool has_bias) {
  DenseLayer layer;
  layer.x = x;
  for (const std::string& name : names) {
    layer.weights.push_back(bind(graph, name + ".weight"));
    layer.biases.push_back(has_bias ? bind(graph, name + ".bias") : kAbsent);
  }
  return layer;
}

// Its results, each in memory of its own.
std::vector<Value> DenseApart(Graph& graph, const DenseLayer& layer) {
  std::vector<Value> results;
  for (size_t j = 0; j < layer.weights.size(); ++j) {
    DenseLayer one;
    one.x = layer.x;
    one.weights = {layer.weights[j]};
    one.biases = {layer.biases[j]};
    results.push_back(Dense(graph, one)[0]);
  }
  return results;
}

// A sublayer's norm in front of it; where the family has it behind, x is passed through.
Normed NormBefore(Graph& graph, const ModelConfig& config, const Binder& bind, const std::string& name, Value x) {
  if (config.norm_placement != "pre") return x;
  return NormedOf(graph, x, bind(graph, name + ".weight"), config.norm_eps);
}

// x plus a sublayer's last layer, behind its norm where the family has it there.
Value AddSublayer(Graph& graph, const ModelConfig& config, const Binder& bind, const std::string& norm, Value x,
                  DenseLayer last) {
  const bool behind = config.norm_placement == "post";
  if (!behind) last.residual = x;
  const Value y = Dense(graph, last)[0];
  return behind ? Add(graph, x, RmsNorm(graph, y, bind(graph, norm + ".weight"), config.norm_eps)) : y;
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
                 const Normed& x, Value* gate) {
  const std::string prefix = absl::StrCat("model.layers.", layer, ".self_attn.");
  auto split = [&](Value rows, int64_t count) {  // [B*T, count*d] -> [B,count,T,d]
    return graph.SplitHeads(rows, input.batch, input.tokens, count);
  };
  // A norm over each head reads the heads of all tokens as the rows of one matrix.
  const bool apart = config.qk_norm == "head" && input.batch * input.tokens > 1;
  const DenseLayer layer_qkv =
      Layer(graph, bind, x, {prefix + "q_proj", prefix + "k_proj", prefix + "v_proj"}, config.qkv_bias);
  const std::vector<Value> qkv = apart ? DenseApart(graph, layer_qkv) : Dense(graph, layer_qkv);
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
    const Normed mixer_in = NormBefore(graph, config, bind, block + "input_layernorm", x);
    taps.mixer_in = mixer_in.y;
    taps.mixer_out = BuildMixer(graph, config, layer, bind, input, mixer_in, &taps.gate);
    output.layers.push_back(taps);
    x = AddSublayer(
        graph, config, bind, block + "post_attention_layernorm", x,
        Layer(graph, bind, graph.MergeHeads(taps.mixer_out), {block + "self_attn.o_proj"}, config.output_bias));
    const Normed mlp_in = NormBefore(graph, config, bind, block + "post_attention_layernorm", x);
    DenseLayer gate_up = Layer(graph, bind, mlp_in, {block + "mlp.gate_proj", block + "mlp.up_proj"}, config.mlp_bias);
    gate_up.gated = true;
    x = AddSublayer(graph, config, bind, block + "post_feedforward_layernorm", x,
                    Layer(graph, bind, Dense(graph, gate_up)[0], {block + "mlp.down_proj"}, config.mlp_bias));
    output.hidden.push_back(x);
    if (input.checkpoint_blocks) graph.Recompute(mark);
  }
  output.final = NormedOf(graph, x, bind(graph, "model.norm.weight"), config.norm_eps);
  output.final_hidden = output.final.y;
  output.hidden.back() = output.final_hidden;
  return output;
}

Value BuildLogits(Graph& graph, const ModelConfig& config, const Binder& bind, const Normed& hidden_rows,
                  xh_dtype dtype) {
  DenseLayer head = Layer(graph, bind, hidden_rows, {config.tied_embeddings ? "model.embed_tokens" : "lm_head"}, false);
  head.dtype = dtype;
  return Dense(graph, head)[0];
}

}  // namespace xh
