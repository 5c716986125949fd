#include "core/model/config.h"
#include "core/model/mixer.h"

namespace xh {
namespace {

void AppendLayer(const ModelConfig& config, int64_t layer, std::vector<ParameterSpec>* out) {
  const std::string block = absl::StrCat("model.layers.", layer, ".");
  auto linear = [&](const std::string& name, int64_t rows, int64_t columns, bool bias) {
    out->push_back({block + name + ".weight", {rows, columns}});
    if (bias) out->push_back({block + name + ".bias", {rows}});
  };
  const int64_t width = config.hidden_size;
  const bool post = config.norm_placement == "post";
  if (!post) out->push_back({block + "input_layernorm.weight", {width}});
  linear("self_attn.q_proj", config.heads * config.head_dim, width, config.qkv_bias);
  linear("self_attn.k_proj", config.kv_heads * config.head_dim, width, config.qkv_bias);
  linear("self_attn.v_proj", config.kv_heads * config.head_dim, width, config.qkv_bias);
  linear("self_attn.o_proj", width, config.heads * config.head_dim, config.output_bias);
  if (config.qk_norm != "none") {
    const bool full = config.qk_norm == "full";
    out->push_back({block + "self_attn.q_norm.weight", {(full ? config.heads : 1) * config.head_dim}});
    out->push_back({block + "self_attn.k_norm.weight", {(full ? config.kv_heads : 1) * config.head_dim}});
  }
  AppendMixerParameters(config, layer, out);
  out->push_back({block + "post_attention_layernorm.weight", {width}});
  linear("mlp.gate_proj", config.intermediate_size, width, config.mlp_bias);
  linear("mlp.up_proj", config.intermediate_size, width, config.mlp_bias);
  linear("mlp.down_proj", width, config.intermediate_size, config.mlp_bias);
  if (post) out->push_back({block + "post_feedforward_layernorm.weight", {width}});
}

}  // namespace

std::vector<ParameterSpec> ParametersOf(const ModelConfig& config) {
  std::vector<ParameterSpec> parameters;
  parameters.push_back({"model.embed_tokens.weight", {config.vocab_size, config.hidden_size}});
  for (int64_t layer = 0; layer < config.layer_count; ++layer) AppendLayer(config, layer, &parameters);
  parameters.push_back({"model.norm.weight", {config.hidden_size}});
  if (!config.tied_embeddings) parameters.push_back({"lm_head.weight", {config.vocab_size, config.hidden_size}});
  return parameters;
}

}  // namespace xh
