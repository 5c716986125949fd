#include "core/model/config.h"

#include <algorithm>

#include "core/json_fields.h"
#include "core/model/limits.h"
#include "core/model/mixer.h"
#include "nlohmann/json.hpp"

namespace xh {
namespace {

using nlohmann::json;

const std::vector<std::string>& RopeTypes() {
  static const std::vector<std::string> types = {"default", "linear", "llama3", "yarn"};
  return types;
}

const std::vector<std::string>& FeatureMaps() {
  static const std::vector<std::string> maps = {"softmax", "hedgehog", "none"};
  return maps;
}

std::vector<std::string> MixerNames() {
  std::vector<std::string> names;
  for (const MixerKind& kind : MixerKinds()) names.push_back(kind.name);
  return names;
}

json RopeToJson(const RopeConfig& rope) {
  json object = {{"type", rope.type}, {"theta", rope.theta}};
  if (rope.type == "default") return object;
  object["factor"] = rope.factor;
  if (rope.type == "linear") return object;
  object["original_context"] = rope.original_context;
  if (rope.type == "llama3") {
    object["low_freq_factor"] = rope.low_freq_factor;
    object["high_freq_factor"] = rope.high_freq_factor;
  } else {
    object["beta_fast"] = rope.beta_fast;
    object["beta_slow"] = rope.beta_slow;
    object["truncate"] = rope.truncate;
    object["attention_factor"] = rope.attention_factor;
  }
  return object;
}

// Only the fields that the kind has.
json MixerToJson(const MixerConfig& mixer) {
  json object = {{"kind", mixer.kind}};
  const MixerKind* kind = FindMixerKind(mixer.kind);
  if (kind == nullptr) return object;
  if (kind->has_mlstm) object["feature_map"] = mixer.feature_map;
  if (kind->has_mlstm && mixer.feature_map != "none") object["features"] = mixer.features;
  if (kind->has_window && mixer.kind != "attention") {
    object["windows"] = mixer.windows;
    object["sinks"] = mixer.sinks;
  }
  if (kind->has_mlstm && kind->has_window) object["output_gate_bias"] = mixer.output_gate_bias;
  return object;
}

StatusOr<RopeConfig> RopeFromJson(const json* object, const std::string& where) {
  JsonFields fields(object, where);
  RopeConfig rope;
  XH_ASSIGN_OR_RETURN(rope.type, fields.Choice("type", RopeTypes()));
  XH_ASSIGN_OR_RETURN(rope.theta, fields.Real("theta", 1, kMostTheta));
  if (rope.type == "default") return rope;
  XH_ASSIGN_OR_RETURN(rope.factor, fields.Real("factor", 1, kMostRopeFactor));
  if (rope.type == "linear") return rope;
  XH_ASSIGN_OR_RETURN(rope.original_context, fields.Int("original_context", 1, kMostPositions));
  if (rope.type == "llama3") {
    XH_ASSIGN_OR_RETURN(rope.low_freq_factor, fields.Real("low_freq_factor", 0, kMostRopeFactor));
    XH_ASSIGN_OR_RETURN(rope.high_freq_factor, fields.Real("high_freq_factor", 0, kMostRopeFactor));
  } else {
    XH_ASSIGN_OR_RETURN(rope.beta_fast, fields.Real("beta_fast", kLeastRopeBeta, kMostRopeFactor));
    XH_ASSIGN_OR_RETURN(rope.beta_slow, fields.Real("beta_slow", kLeastRopeBeta, kMostRopeFactor));
    XH_ASSIGN_OR_RETURN(rope.truncate, fields.Bool("truncate"));
    XH_ASSIGN_OR_RETURN(rope.attention_factor, fields.Real("attention_factor", 0, kMostRopeFactor));
  }
  return rope;
}

// A list of whole numbers from 0 to `most`.
StatusOr<std::vector<int32_t>> Int32List(const json* list, const std::string& key, int64_t most,
                                         const std::string& where) {
  const std::string allowed = absl::StrCat("; allowed: a list of integers from 0 to ", most);
  if (list == nullptr || !list->is_array()) return InvalidArgument(where, ": \"", key, "\" is not a list", allowed);
  std::vector<int32_t> numbers;
  for (const json& item : *list) {
    const bool fits = item.is_number_integer() && item >= 0 && item <= most;
    if (!fits) return InvalidArgument(where, ": \"", key, "\" holds ", ShownJson(item), allowed);
    numbers.push_back(item.get<int32_t>());
  }
  return numbers;
}

// A model without sliding layers has none of these fields.
Status ReadSliding(JsonFields& fields, const std::string& where, SlidingConfig* sliding) {
  if (!fields.Has("sliding_window")) return absl::OkStatus();
  XH_ASSIGN_OR_RETURN(const int64_t window, fields.Int("sliding_window", 1, kMostPositions));
  sliding->window = static_cast<int32_t>(window);
  XH_ASSIGN_OR_RETURN(sliding->layers, Int32List(fields.Get("sliding_layers"), "sliding_layers", kMostLayers, where));
  XH_ASSIGN_OR_RETURN(sliding->rope, RopeFromJson(fields.Get("sliding_rope"), where + ": sliding_rope"));
  return absl::OkStatus();
}

StatusOr<MixerConfig> MixerFromJson(const json& object, int64_t kv_heads, const std::string& where) {
  JsonFields fields(&object, where);
  MixerConfig mixer;
  XH_ASSIGN_OR_RETURN(mixer.kind, fields.Choice("kind", MixerNames()));
  const MixerKind& kind = *FindMixerKind(mixer.kind);
  if (kind.has_mlstm) {
    XH_ASSIGN_OR_RETURN(mixer.feature_map, fields.Choice("feature_map", FeatureMaps()));
    if (mixer.feature_map != "none") {
      XH_ASSIGN_OR_RETURN(mixer.features, fields.Int("features", 1, kMostFeatures));
    }
  }
  if (mixer.kind == "attention") {
    mixer.windows.assign(static_cast<size_t>(kv_heads), 0);
  } else if (kind.has_window) {
    XH_ASSIGN_OR_RETURN(mixer.windows, Int32List(fields.Get("windows"), "windows", kMostPositions, where));
    XH_ASSIGN_OR_RETURN(const int64_t sinks, fields.Int("sinks", 0, kMostSinks));
    mixer.sinks = static_cast<int32_t>(sinks);
  }
  if (kind.has_mlstm && kind.has_window) {
    XH_ASSIGN_OR_RETURN(mixer.output_gate_bias, fields.Real("output_gate_bias", -100, 100));
  }
  return mixer;
}

Status CheckRange(const std::string& where, const char* key, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return InvalidArgument(where, ": \"", key, "\" is ", value, "; allowed: integer from ", least, " to ", most);
}

Status CheckSizes(const ModelConfig& config, const std::string& where) {
  XH_RETURN_IF_ERROR(CheckRange(where, "vocab_size", config.vocab_size, 1, kMostVocabulary));
  XH_RETURN_IF_ERROR(CheckRange(where, "hidden_size", config.hidden_size, 1, kMostWidth));
  XH_RETURN_IF_ERROR(CheckRange(where, "layer_count", config.layer_count, 1, kMostLayers));
  XH_RETURN_IF_ERROR(CheckRange(where, "heads", config.heads, 1, kMostHeads));
  XH_RETURN_IF_ERROR(CheckRange(where, "kv_heads", config.kv_heads, 1, config.heads));
  XH_RETURN_IF_ERROR(CheckRange(where, "head_dim", config.head_dim, 2, kMostHeadDim));
  XH_RETURN_IF_ERROR(CheckHeadsOfAll(config, where));
  XH_RETURN_IF_ERROR(CheckRange(where, "intermediate_size", config.intermediate_size, 1, kMostWidth));
  XH_RETURN_IF_ERROR(CheckRange(where, "context", config.context, 1, kMostPositions));
  if (config.heads % config.kv_heads != 0) {
    return InvalidArgument(where, ": \"heads\" is ", config.heads, "; allowed: a multiple of \"kv_heads\" (",
                           config.kv_heads, ")");
  }
  if (config.head_dim % 2 != 0) {
    return InvalidArgument(where, ": \"head_dim\" is ", config.head_dim, "; allowed: an even number");
  }
  if (config.heads * config.head_dim > kMostWidth) {
    return InvalidArgument(where, ": \"heads\" times \"head_dim\" is ", config.heads * config.head_dim,
                           "; allowed: at most ", kMostWidth);
  }
  return absl::OkStatus();
}

Status CheckRope(const RopeConfig& rope, const std::string& where) {
  if (rope.type == "llama3" && !(rope.low_freq_factor < rope.high_freq_factor)) {
    return InvalidArgument(where, ": \"high_freq_factor\" is ", rope.high_freq_factor,
                           "; allowed: more than \"low_freq_factor\" (", rope.low_freq_factor, ")");
  }
  if (rope.type == "yarn" && !(rope.theta > 1)) {
    return InvalidArgument(where, ": \"theta\" is ", rope.theta, "; allowed with \"yarn\": more than 1");
  }
  if (rope.type == "yarn" && !(rope.beta_slow < rope.beta_fast)) {
    return InvalidArgument(where, ": \"beta_fast\" is ", rope.beta_fast, "; allowed: more than \"beta_slow\" (",
                           rope.beta_slow, ")");
  }
  return absl::OkStatus();
}

Status CheckSliding(const ModelConfig& config, const std::string& where) {
  const SlidingConfig& sliding = config.sliding;
  if (sliding.window == 0 && sliding.layers.empty()) return absl::OkStatus();
  XH_RETURN_IF_ERROR(CheckRange(where, "sliding_window", sliding.window, 1, kMostPositions));
  int32_t least = 0;
  for (int32_t layer : sliding.layers) {
    XH_RETURN_IF_ERROR(CheckRange(where, "sliding_layers", layer, least, config.layer_count - 1));
    least = layer + 1;
  }
  return CheckRope(sliding.rope, where + ": sliding_rope");
}

Status CheckTokens(const ModelConfig& config, const std::string& where) {
  for (int32_t id : config.eos_ids) {
    XH_RETURN_IF_ERROR(CheckRange(where, "eos_ids", id, 0, config.vocab_size - 1));
  }
  return CheckRange(where, "bos_id", config.bos_id, -1, config.vocab_size - 1);
}

Status CheckFeatures(const MixerConfig& mixer, const std::string& where) {
  bool known = false;
  for (const std::string& map : FeatureMaps()) known = known || map == mixer.feature_map;
  if (!known) {
    return InvalidArgument(where, ": \"feature_map\" is \"", mixer.feature_map,
                           "\"; allowed: \"softmax\", \"hedgehog\", \"none\"");
  }
  const bool none = mixer.feature_map == "none";
  return CheckRange(where, "features", mixer.features, none ? 0 : 1, none ? 0 : kMostFeatures);
}

Status CheckWindows(const ModelConfig& config, const MixerConfig& mixer, const std::string& where) {
  if (static_cast<int64_t>(mixer.windows.size()) != config.kv_heads) {
    return InvalidArgument(where, ": \"windows\" has ", mixer.windows.size(),
                           " numbers; allowed: one a key/value head (", config.kv_heads, ")");
  }
  for (int32_t window : mixer.windows) {
    if (mixer.kind == "attention" && window != 0) {
      return InvalidArgument(where, ": \"windows\" holds ", window, "; allowed with \"attention\": 0");
    }
    XH_RETURN_IF_ERROR(CheckRange(where, "windows", window, 0, kMostPositions));
  }
  const bool all_kept = std::count(mixer.windows.begin(), mixer.windows.end(), 0) == config.kv_heads;
  if (mixer.kind == "hybrid" && all_kept) {
    return InvalidArgument(where,
                           ": \"windows\" holds nothing but 0 (unlimited); allowed with \"hybrid\": at least one ",
                           "window; a layer that keeps every head has the kind \"attention\"");
  }
  return CheckRange(where, "sinks", mixer.sinks, 0, mixer.kind == "attention" ? 0 : kMostSinks);
}

Status CheckMixer(const ModelConfig& config, const MixerConfig& mixer, const std::string& where) {
  const MixerKind* kind = FindMixerKind(mixer.kind);
  if (kind == nullptr) {
    std::string allowed;
    for (const std::string& name : MixerNames())
      absl::StrAppend(&allowed, allowed.empty() ? "" : ", ", "\"", name, "\"");
    return InvalidArgument(where, ": \"kind\" is \"", mixer.kind, "\"; allowed: ", allowed);
  }
  if (kind->has_mlstm) XH_RETURN_IF_ERROR(CheckFeatures(mixer, where));
  if (kind->has_window) XH_RETURN_IF_ERROR(CheckWindows(config, mixer, where));
  return absl::OkStatus();
}

Status ReadSizes(JsonFields& fields, const std::string& where, ModelConfig* config) {
  XH_ASSIGN_OR_RETURN(config->vocab_size, fields.Int("vocab_size", 1, kMostVocabulary));
  XH_ASSIGN_OR_RETURN(config->hidden_size, fields.Int("hidden_size", 1, kMostWidth));
  XH_ASSIGN_OR_RETURN(config->layer_count, fields.Int("layer_count", 1, kMostLayers));
  XH_ASSIGN_OR_RETURN(config->heads, fields.Int("heads", 1, kMostHeads));
  XH_ASSIGN_OR_RETURN(config->kv_heads, fields.Int("kv_heads", 1, kMostHeads));
  XH_ASSIGN_OR_RETURN(config->head_dim, fields.Int("head_dim", 2, kMostHeadDim));
  XH_ASSIGN_OR_RETURN(config->intermediate_size, fields.Int("intermediate_size", 1, kMostWidth));
  XH_ASSIGN_OR_RETURN(config->context, fields.Int("context", 1, kMostPositions));
  XH_ASSIGN_OR_RETURN(config->norm_eps, fields.Real("norm_eps", 0, 1));
  return CheckHeadsOfAll(*config, where);  // before the mixers list a window for each
}

Status ReadSwitches(JsonFields& fields, ModelConfig* config) {
  XH_ASSIGN_OR_RETURN(config->family, fields.Text("family"));
  XH_ASSIGN_OR_RETURN(config->qk_norm, fields.Choice("qk_norm", {"none", "head", "full"}, "none"));
  XH_ASSIGN_OR_RETURN(config->norm_placement, fields.Choice("norm_placement", {"pre", "post"}, "pre"));
  XH_ASSIGN_OR_RETURN(config->tied_embeddings, fields.Bool("tied_embeddings"));
  XH_ASSIGN_OR_RETURN(config->qkv_bias, fields.Bool("qkv_bias"));
  XH_ASSIGN_OR_RETURN(config->output_bias, fields.Bool("output_bias"));
  XH_ASSIGN_OR_RETURN(config->mlp_bias, fields.Bool("mlp_bias"));
  return absl::OkStatus();
}

Status CheckMixerCount(size_t count, const std::string& where, const ModelConfig& config) {
  if (static_cast<int64_t>(count) == config.layer_count) return absl::OkStatus();
  return InvalidArgument(where, ": \"mixers\" has ", count, " entries; allowed: one a layer (", config.layer_count,
                         ")");
}

Status ReadMixers(JsonFields& fields, const std::string& where, ModelConfig* config) {
  const json* mixers = fields.Get("mixers");
  if (mixers == nullptr || !mixers->is_array()) {
    return InvalidArgument(where, ": \"mixers\" is not a list; allowed: one object a layer");
  }
  XH_RETURN_IF_ERROR(CheckMixerCount(mixers->size(), where, *config));  // each takes a window for every head
  for (const json& mixer : *mixers) {
    const std::string place = absl::StrCat(where, ": layer ", config->mixers.size());
    XH_ASSIGN_OR_RETURN(MixerConfig read, MixerFromJson(mixer, config->kv_heads, place));
    config->mixers.push_back(std::move(read));
  }
  return absl::OkStatus();
}

}  // namespace

Status CheckHeadsOfAll(const ModelConfig& config, const std::string& where) {
  const int64_t heads = config.layer_count * config.kv_heads;
  if (heads <= kMostHeadsOfAll) return absl::OkStatus();
  return InvalidArgument(where, ": the layers have ", heads, " key/value heads together; allowed: at most ",
                         kMostHeadsOfAll);
}

json ConfigToJson(const ModelConfig& config) {
  json mixers = json::array();
  for (const MixerConfig& mixer : config.mixers) mixers.push_back(MixerToJson(mixer));
  json object = {{"family", config.family},
                 {"vocab_size", config.vocab_size},
                 {"hidden_size", config.hidden_size},
                 {"layer_count", config.layer_count},
                 {"heads", config.heads},
                 {"kv_heads", config.kv_heads},
                 {"head_dim", config.head_dim},
                 {"intermediate_size", config.intermediate_size},
                 {"context", config.context},
                 {"norm_eps", config.norm_eps},
                 {"norm_placement", config.norm_placement},
                 {"qk_norm", config.qk_norm},
                 {"rope", RopeToJson(config.rope)},
                 {"tied_embeddings", config.tied_embeddings},
                 {"qkv_bias", config.qkv_bias},
                 {"output_bias", config.output_bias},
                 {"mlp_bias", config.mlp_bias},
                 {"eos_ids", config.eos_ids},
                 {"bos_id", config.bos_id},
                 {"mixers", mixers}};
  if (config.sliding.window > 0) {
    object["sliding_window"] = config.sliding.window;
    object["sliding_layers"] = config.sliding.layers;
    object["sliding_rope"] = RopeToJson(config.sliding.rope);
  }
  return object;
}

MixerConfig TeacherMixer(const ModelConfig& config, int64_t layer) {
  MixerConfig mixer;
  const bool slides = IsSlidingLayer(config, layer);
  if (slides) mixer.kind = "window";
  mixer.windows.assign(static_cast<size_t>(config.kv_heads), slides ? config.sliding.window : 0);
  return mixer;
}

bool IsSlidingLayer(const ModelConfig& config, int64_t layer) {
  const std::vector<int32_t>& layers = config.sliding.layers;
  return std::binary_search(layers.begin(), layers.end(), layer);
}

StatusOr<ModelConfig> ConfigFromJson(const json& object, const std::string& where) {
  JsonFields fields(&object, where);
  ModelConfig config;
  XH_RETURN_IF_ERROR(ReadSwitches(fields, &config));
  XH_RETURN_IF_ERROR(ReadSizes(fields, where, &config));
  XH_ASSIGN_OR_RETURN(config.rope, RopeFromJson(fields.Get("rope"), where + ": rope"));
  XH_RETURN_IF_ERROR(ReadSliding(fields, where, &config.sliding));
  XH_ASSIGN_OR_RETURN(config.eos_ids, Int32List(fields.Get("eos_ids"), "eos_ids", kMostVocabulary, where));
  XH_ASSIGN_OR_RETURN(const int64_t bos, fields.Int("bos_id", -1, kMostVocabulary));
  config.bos_id = static_cast<int32_t>(bos);
  XH_RETURN_IF_ERROR(ReadMixers(fields, where, &config));
  XH_RETURN_IF_ERROR(CheckConfig(config, where));
  return config;
}

Status CheckConfig(const ModelConfig& config, const std::string& where) {
  XH_RETURN_IF_ERROR(CheckFamily(config.family, where));
  XH_RETURN_IF_ERROR(CheckSizes(config, where));
  XH_RETURN_IF_ERROR(CheckRope(config.rope, where));
  XH_RETURN_IF_ERROR(CheckSliding(config, where));
  XH_RETURN_IF_ERROR(CheckTokens(config, where));
  XH_RETURN_IF_ERROR(CheckMixerCount(config.mixers.size(), where, config));
  for (size_t layer = 0; layer < config.mixers.size(); ++layer) {
    XH_RETURN_IF_ERROR(CheckMixer(config, config.mixers[layer], absl::StrCat(where, ": layer ", layer)));
  }
  return absl::OkStatus();
}

}  // namespace xh
