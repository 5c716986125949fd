// Teacher families: what each reads from a Hugging Face config.json. A family is one entry of the table at the end.
#include "core/checkpoint/names.h"
#include "core/json_fields.h"
#include "core/model/config.h"
#include "core/model/limits.h"
#include "nlohmann/json.hpp"

namespace xh {
namespace {

using nlohmann::json;

struct Family {
  const char* model_type;
  // Reads the family's switches into *config; everything that families share is there already.
  Status (*read)(JsonFields& fields, const std::string& where, ModelConfig* config);
};

// ---- rotary embedding: rope_theta and rope_scaling (transformers 4), or rope_parameters (5) ----

Status ReadScaling(JsonFields& fields, const std::string& where, RopeConfig* rope) {
  const char* key = fields.Has("rope_type") ? "rope_type" : "type";  // the older spelling
  XH_ASSIGN_OR_RETURN(rope->type, fields.Text(key, "default"));
  if (rope->type == "default") return absl::OkStatus();
  if (rope->type != "linear" && rope->type != "llama3") {
    return Unsupported(where, ": \"", key, "\" is ", Quoted(rope->type),
                       "; allowed: \"default\", \"linear\", \"llama3\"");
  }
  XH_ASSIGN_OR_RETURN(rope->factor, fields.Real("factor", 1, kMostRopeFactor));
  if (rope->type == "linear") return absl::OkStatus();
  XH_ASSIGN_OR_RETURN(rope->low_freq_factor, fields.Real("low_freq_factor", 0, kMostRopeFactor));
  XH_ASSIGN_OR_RETURN(rope->high_freq_factor, fields.Real("high_freq_factor", 0, kMostRopeFactor));
  XH_ASSIGN_OR_RETURN(rope->original_context, fields.Int("original_max_position_embeddings", 1, kMostPositions));
  return absl::OkStatus();
}

Status ReadRope(JsonFields& fields, const std::string& where, RopeConfig* rope) {
  XH_ASSIGN_OR_RETURN(rope->theta, fields.Real("rope_theta", 1, kMostTheta, 10000.0));
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const json* object = fields.Get(key);
    if (object == nullptr) continue;
    const std::string place = absl::StrCat(where, ": ", key);
    JsonFields scaling(object, place);
    XH_ASSIGN_OR_RETURN(rope->theta, scaling.Real("rope_theta", 1, kMostTheta, rope->theta));
    return ReadScaling(scaling, place, rope);
  }
  return absl::OkStatus();
}

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
      return InvalidArgument(where, ": \"", key, "\" is ", id.dump(), "; allowed: integers from 0 to ", vocab_size - 1);
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

Status ReadHeads(JsonFields& fields, const std::string& where, ModelConfig* config) {
  XH_ASSIGN_OR_RETURN(config->heads, fields.Int("num_attention_heads", 1, kMostHeads));
  XH_ASSIGN_OR_RETURN(config->kv_heads, fields.Int("num_key_value_heads", 1, kMostHeads, config->heads));
  if (config->heads % config->kv_heads != 0) {
    return InvalidArgument(where, ": \"num_attention_heads\" is ", config->heads,
                           "; allowed: a multiple of \"num_key_value_heads\" (", config->kv_heads, ")");
  }
  if (!fields.Has("head_dim") && config->hidden_size % config->heads != 0) {
    return InvalidArgument(where, ": \"hidden_size\" is ", config->hidden_size,
                           "; allowed without \"head_dim\": a multiple of \"num_attention_heads\" (", config->heads,
                           ")");
  }
  XH_ASSIGN_OR_RETURN(config->head_dim, fields.Int("head_dim", 2, kMostHeadDim, config->hidden_size / config->heads));
  if (config->head_dim < 2 || config->head_dim % 2 != 0) {
    return InvalidArgument(where, ": the head dimension is ", config->head_dim, "; allowed: an even number");
  }
  return absl::OkStatus();
}

Status ReadSizes(JsonFields& fields, const std::string& where, ModelConfig* config) {
  XH_ASSIGN_OR_RETURN(config->vocab_size, fields.Int("vocab_size", 1, kMostVocabulary));
  XH_ASSIGN_OR_RETURN(config->hidden_size, fields.Int("hidden_size", 1, kMostWidth));
  XH_ASSIGN_OR_RETURN(config->layer_count, fields.Int("num_hidden_layers", 1, kMostLayers));
  XH_RETURN_IF_ERROR(ReadHeads(fields, where, config));
  XH_ASSIGN_OR_RETURN(config->intermediate_size, fields.Int("intermediate_size", 1, kMostWidth));
  XH_ASSIGN_OR_RETURN(config->context, fields.Int("max_position_embeddings", 1, kMostPositions));
  XH_ASSIGN_OR_RETURN(config->norm_eps, fields.Real("rms_norm_eps", 1e-12, 0.1, 1e-6));
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

// Refuses layers with a sliding window.
Status RefuseSliding(JsonFields& fields, const std::string& where) {
  XH_ASSIGN_OR_RETURN(const bool sliding, fields.Bool("use_sliding_window", false));
  if (sliding) return Unsupported(where, ": \"use_sliding_window\" is true; allowed: false");
  const json* types = fields.Get("layer_types");
  if (types == nullptr) return absl::OkStatus();
  for (const json& type : *types) {
    if (type != "full_attention") {
      return Unsupported(where, ": \"layer_types\" holds ", type.dump(), "; allowed: \"full_attention\"");
    }
  }
  return absl::OkStatus();
}

// ---- the families ----

Status ReadLlama(JsonFields& fields, const std::string& where, ModelConfig* config) {
  XH_RETURN_IF_ERROR(RefuseSliding(fields, where));
  XH_ASSIGN_OR_RETURN(config->qkv_bias, fields.Bool("attention_bias", false));
  config->output_bias = config->qkv_bias;
  XH_ASSIGN_OR_RETURN(config->mlp_bias, fields.Bool("mlp_bias", false));
  return absl::OkStatus();
}

Status ReadQwen2(JsonFields& fields, const std::string& where, ModelConfig* config) {
  config->qkv_bias = true;
  return RefuseSliding(fields, where);
}

constexpr Family kFamilies[] = {
    {"llama", ReadLlama},
    {"qwen2", ReadQwen2},
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
  XH_ASSIGN_OR_RETURN(const Family* family, FindFamily(config.family, "model_type", where));
  XH_RETURN_IF_ERROR(RefuseUnsupported(fields, where));
  XH_RETURN_IF_ERROR(ReadSizes(fields, where, &config));
  XH_RETURN_IF_ERROR(ReadRope(fields, where, &config.rope));
  XH_RETURN_IF_ERROR(ReadTokens(fields, generation, where, &config));
  XH_RETURN_IF_ERROR(family->read(fields, where, &config));
  MixerConfig attention;
  attention.windows.assign(static_cast<size_t>(config.kv_heads), 0);
  config.mixers.assign(static_cast<size_t>(config.layer_count), attention);
  XH_RETURN_IF_ERROR(CheckConfig(config, where));
  return config;
}

}  // namespace xh
