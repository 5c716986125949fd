// Teacher families: what each reads from a Hugging Face config.json. A family is one entry of the table at the end.
#include "core/checkpoint/names.h"
#include "core/json_fields.h"
#include "core/model/config.h"
#include "core/model/huggingface_rope.h"
#include "core/model/limits.h"
#include "nlohmann/json.hpp"

namespace xh {
namespace {

using nlohmann::json;

constexpr int64_t kDefaultSlidingWindow = 4096, kDefaultWindowLayers = 28;  // of transformers

// Which layers slide over a window (layer_types, sliding_window).
enum class Sliding {
  kNever,
  kOnRequest,  // use_sliding_window: from max_window_layers on where layer_types does not say it
  kByPattern,  // three of four where layer_types does not say it
};

struct Family {
  const char* model_type;
  double rope_theta;  // where the config does not say it
  double norm_eps;    // the same
  int64_t head_dim;   // the same; 0: hidden_size / num_attention_heads
  Sliding sliding;
  const char* qk_norm;  // as in ModelConfig
  const char* norm_placement;
  // Reads the biases into *config; everything that families share is there already.
  Status (*read)(JsonFields& fields, ModelConfig* config);
};

// ---- tokens that end a text ----

StatusOr<std::vector<int32_t>> ReadIds(JsonFields& fields, const char* key, int64_t vocab_size,
                                       const std::string& where) {
  std::vector<int32_t> ids;
  const json* value = fields.Get(key);
  if (value == nullptr) return ids;
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& id : list) {
    const bool fits = id.is_number_integer() && id >= 0 && id < vocab_size;
    if (!fits) {
      return InvalidArgument(where, ": \"", key, "\" is ", ShownJson(id), "; allowed: integers from 0 to ",
                             vocab_size - 1);
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

// generation_config.json has the last word where it names an id.
Status ReadTokens(JsonFields& fields, const json& generation, const std::string& where, ModelConfig* config) {
  JsonFields other(&generation, where + ": generation_config.json");
  const bool has_other = generation.is_object();
  auto read = [&](const char* key) {
    if (has_other && other.Has(key)) return ReadIds(other, key, config->vocab_size, where + ": generation_config.json");
    return ReadIds(fields, key, config->vocab_size, where);
  };
  XH_ASSIGN_OR_RETURN(config->eos_ids, read("eos_token_id"));
  XH_ASSIGN_OR_RETURN(const std::vector<int32_t> bos, read("bos_token_id"));
  if (!bos.empty()) config->bos_id = bos[0];
  return absl::OkStatus();
}

// ---- what every family has ----

// `implied_head_dim` 0: hidden_size / num_attention_heads.
Status ReadHeads(JsonFields& fields, const std::string& where, int64_t implied_head_dim, ModelConfig* config) {
  XH_ASSIGN_OR_RETURN(config->heads, fields.Int("num_attention_heads", 1, kMostHeads));
  XH_ASSIGN_OR_RETURN(config->kv_heads, fields.Int("num_key_value_heads", 1, kMostHeads, config->heads));
  if (config->heads % config->kv_heads != 0) {
    return InvalidArgument(where, ": \"num_attention_heads\" is ", config->heads,
                           "; allowed: a multiple of \"num_key_value_heads\" (", config->kv_heads, ")");
  }
  const bool divides = implied_head_dim == 0 && !fields.Has("head_dim");
  if (divides && config->hidden_size % config->heads != 0) {
    return InvalidArgument(where, ": \"hidden_size\" is ", config->hidden_size,
                           "; allowed without \"head_dim\": a multiple of \"num_attention_heads\" (", config->heads,
                           ")");
  }
  const int64_t implied = implied_head_dim > 0 ? implied_head_dim : config->hidden_size / config->heads;
  XH_ASSIGN_OR_RETURN(config->head_dim, fields.Int("head_dim", 2, kMostHeadDim, implied));
  if (config->head_dim < 2 || config->head_dim % 2 != 0) {
    return InvalidArgument(where, ": the head dimension is ", config->head_dim, "; allowed: an even number");
  }
  return absl::OkStatus();
}

Status ReadSizes(JsonFields& fields, const std::string& where, const Family& family, ModelConfig* config) {
  XH_ASSIGN_OR_RETURN(config->vocab_size, fields.Int("vocab_size", 1, kMostVocabulary));
  XH_ASSIGN_OR_RETURN(config->hidden_size, fields.Int("hidden_size", 1, kMostWidth));
  XH_ASSIGN_OR_RETURN(config->layer_count, fields.Int("num_hidden_layers", 1, kMostLayers));
  XH_RETURN_IF_ERROR(ReadHeads(fields, where, family.head_dim, config));
  XH_ASSIGN_OR_RETURN(config->intermediate_size, fields.Int("intermediate_size", 1, kMostWidth));
  XH_ASSIGN_OR_RETURN(config->context, fields.Int("max_position_embeddings", 1, kMostPositions));
  XH_ASSIGN_OR_RETURN(config->norm_eps, fields.Real("rms_norm_eps", 1e-12, 0.1, family.norm_eps));
  XH_ASSIGN_OR_RETURN(config->tied_embeddings, fields.Bool("tie_word_embeddings", false));
  return absl::OkStatus();
}

// Fields that change what a model computes in a way that this library does not.
Status RefuseUnsupported(JsonFields& fields, const std::string& where) {
  for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"}) {
    if (fields.Has(key)) return Unsupported(where, ": \"", key, "\" names a mixture of experts; allowed: dense models");
  }
  if (fields.Has("quantization_config")) {
    return Unsupported(where, ": \"quantization_config\" is present; allowed: weights in f32, f16 or bf16");
  }
  XH_ASSIGN_OR_RETURN(const std::string activation, fields.Text("hidden_act", "silu"));
  if (activation != "silu") {
    return Unsupported(where, ": \"hidden_act\" is ", Quoted(activation), "; allowed: \"silu\"");
  }
  XH_ASSIGN_OR_RETURN(const double rotary, fields.Real("partial_rotary_factor", 0, 1, 1.0));
  if (rotary != 1) return Unsupported(where, ": \"partial_rotary_factor\" is ", rotary, "; allowed: 1");
  return absl::OkStatus();
}

// Whether each layer slides, by layer_types.
StatusOr<std::vector<bool>> ReadLayerTypes(const json& types, const std::string& where, int64_t layer_count) {
  const bool fits = types.is_array() && static_cast<int64_t>(types.size()) == layer_count;
  if (!fits) {
    return InvalidArgument(where, ": \"layer_types\" is ",
                           types.is_array() ? absl::StrCat("a list of ", types.size()) : std::string("not a list"),
                           "; allowed: one text a layer (", layer_count, ")");
  }
  std::vector<bool> slides;
  for (const json& type : types) {
    const bool known = type == "full_attention" || type == "sliding_attention";
    if (!known) {
      return Unsupported(where, ": \"layer_types\" holds ", ShownJson(type),
                         R"(; allowed: "full_attention", "sliding_attention")");
    }
    slides.push_back(type == "sliding_attention");
  }
  return slides;
}

Status ReadSliding(JsonFields& fields, const std::string& where, const Family& family, ModelConfig* config) {
  XH_ASSIGN_OR_RETURN(const bool asked, fields.Bool("use_sliding_window", family.sliding == Sliding::kByPattern));
  std::vector<bool> slides;
  if (const json* types = fields.Get("layer_types")) {
    XH_ASSIGN_OR_RETURN(slides, ReadLayerTypes(*types, where, config->layer_count));
  } else if (asked && family.sliding != Sliding::kNever) {
    XH_ASSIGN_OR_RETURN(const int64_t first, fields.Int("max_window_layers", 0, kMostLayers, kDefaultWindowLayers));
    for (int64_t layer = 0; layer < config->layer_count; ++layer) {
      slides.push_back(family.sliding == Sliding::kByPattern ? layer % 4 != 3 : layer >= first);
    }
  }
  for (size_t layer = 0; layer < slides.size(); ++layer) {
    if (slides[layer]) config->sliding.layers.push_back(static_cast<int32_t>(layer));
  }
  if (config->sliding.layers.empty()) return absl::OkStatus();
  if (family.sliding == Sliding::kNever || !asked) {
    return Unsupported(where, ": \"layer_types\" holds \"sliding_attention\"; allowed",
                       family.sliding == Sliding::kNever ? " in this family" : " without \"use_sliding_window\"",
                       ": \"full_attention\"");
  }
  XH_ASSIGN_OR_RETURN(const int64_t window, fields.Int("sliding_window", 1, kMostPositions, kDefaultSlidingWindow));
  config->sliding.window = static_cast<int32_t>(window);
  return absl::OkStatus();
}

// ---- the families ----

Status ReadLlama(JsonFields& fields, ModelConfig* config) {
  XH_ASSIGN_OR_RETURN(config->qkv_bias, fields.Bool("attention_bias", false));
  config->output_bias = config->qkv_bias;
  XH_ASSIGN_OR_RETURN(config->mlp_bias, fields.Bool("mlp_bias", false));
  return absl::OkStatus();
}

Status ReadQwen2(JsonFields&, ModelConfig* config) {
  config->qkv_bias = true;
  return absl::OkStatus();
}

Status ReadAttentionBias(JsonFields& fields, ModelConfig* config) {
  XH_ASSIGN_OR_RETURN(config->qkv_bias, fields.Bool("attention_bias", false));
  config->output_bias = config->qkv_bias;
  return absl::OkStatus();
}

constexpr Family kFamilies[] = {
    {"llama", 10000, 1e-6, 0, Sliding::kNever, "none", "pre", ReadLlama},
    {"qwen2", 10000, 1e-6, 0, Sliding::kOnRequest, "none", "pre", ReadQwen2},
    {"qwen3", 10000, 1e-6, 128, Sliding::kOnRequest, "head", "pre", ReadAttentionBias},
    {"olmo2", 10000, 1e-5, 0, Sliding::kNever, "full", "post", ReadAttentionBias},
    {"olmo3", 500000, 1e-5, 0, Sliding::kByPattern, "full", "post", ReadAttentionBias},
};

// `key` is what the text that holds the name calls it.
StatusOr<const Family*> FindFamily(const std::string& name, const char* key, const std::string& where) {
  std::string allowed;
  for (const Family& family : kFamilies) {
    if (name == family.model_type) return &family;
    absl::StrAppend(&allowed, allowed.empty() ? "" : ", ", "\"", family.model_type, "\"");
  }
  return Unsupported(where, ": \"", key, "\" is ", Quoted(name), "; allowed: ", allowed);
}

}  // namespace

Status CheckFamily(const std::string& family, const std::string& where) {
  return FindFamily(family, "family", where).status();
}

StatusOr<ModelConfig> ConfigFromHuggingFace(const json& object, const json& generation, const std::string& where) {
  JsonFields fields(&object, where);
  ModelConfig config;
  XH_ASSIGN_OR_RETURN(config.family, fields.Text("model_type"));
  XH_RETURN_IF_ERROR(RefuseUnsupported(fields, where));
  XH_ASSIGN_OR_RETURN(const Family* family, FindFamily(config.family, "model_type", where));
  XH_RETURN_IF_ERROR(ReadSizes(fields, where, *family, &config));
  XH_RETURN_IF_ERROR(CheckHeadsOfAll(config, where));
  XH_RETURN_IF_ERROR(ReadSliding(fields, where, *family, &config));
  const RopeDefaults rope{family->rope_theta, config.context, family->sliding == Sliding::kByPattern};
  XH_RETURN_IF_ERROR(ReadHuggingFaceRope(fields, where, rope, &config.rope, &config.sliding.rope));
  XH_RETURN_IF_ERROR(ReadTokens(fields, generation, where, &config));
  config.qk_norm = family->qk_norm;
  config.norm_placement = family->norm_placement;
  XH_RETURN_IF_ERROR(family->read(fields, &config));
  for (int64_t layer = 0; layer < config.layer_count; ++layer) config.mixers.push_back(TeacherMixer(config, layer));
  XH_RETURN_IF_ERROR(CheckConfig(config, where));
  return config;
}

}  // namespace xh
