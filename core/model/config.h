// What a model is: sizes, switches of its family, and a mixer a layer. Stored in checkpoints as JSON.
#ifndef XHYBRID_CORE_MODEL_CONFIG_H_
#define XHYBRID_CORE_MODEL_CONFIG_H_

#include <string>
#include <vector>

#include "core/error.h"
#include "nlohmann/json_fwd.hpp"
#include "xhybrid.h"

namespace xh {

using Shape = std::vector<int64_t>;

// Rotary embedding: theta and a scaling by name ("default", "linear", "llama3", "yarn"). The fields after theta belong
// to the scaling; "default" has none.
struct RopeConfig {
  std::string type = "default";
  double theta = 10000.0;
  double factor = 1.0;           // of all scalings
  int64_t original_context = 0;  // of "llama3" and "yarn": positions before scaling
  double low_freq_factor = 1.0;  // of "llama3"
  double high_freq_factor = 4.0;
  double beta_fast = 32.0;        // of "yarn": turns over the original context from which a pair is kept,
  double beta_slow = 1.0;         // and to which it is slowed by the whole factor
  bool truncate = true;           // whole pairs as borders
  double attention_factor = 1.0;  // multiplies cosines and sines

  bool operator==(const RopeConfig&) const = default;
};

// One layer's mixer (SPEC.md 1). Kinds: "hybrid", "attention", "window", "mlstm".
struct MixerConfig {
  std::string kind = "attention";
  std::string feature_map = "softmax";  // "softmax", "hedgehog", "none"; of kinds with an mLSTM
  int64_t features = 0;                 // n of the map; hedgehog gives 2n. 0 where there is none
  int32_t sinks = 0;
  std::vector<int32_t> windows;  // one a key/value head, 0 unlimited; empty where there is no local branch
  double output_gate_bias = -2;  // where the output gate starts, of kinds that mix two branches
};

// The teacher's sliding-window layers, where it has any: their own mixer is "window" without sinks.
struct SlidingConfig {
  int32_t window = 0;           // tokens, the current one included; 0: there are no such layers
  std::vector<int32_t> layers;  // increasing
  RopeConfig rope;              // theirs; the other layers have ModelConfig::rope
};

struct ModelConfig {
  std::string family;  // "llama", "qwen2", "qwen3", "olmo2", "olmo3"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;  // D
  int64_t layer_count = 0;
  int64_t heads = 0;              // H
  int64_t kv_heads = 0;           // KV
  int64_t head_dim = 0;           // d
  int64_t intermediate_size = 0;  // F
  int64_t context = 0;            // most positions
  double norm_eps = 1e-6;
  RopeConfig rope;
  SlidingConfig sliding;
  std::string qk_norm = "none";        // RMS norm of q and k before RoPE: "none", "head" or "full" (all heads together)
  std::string norm_placement = "pre";  // norms before ("pre") or after ("post") attention and MLP
  bool tied_embeddings = false;
  bool qkv_bias = false;
  bool output_bias = false;
  bool mlp_bias = false;
  std::vector<int32_t> eos_ids;
  int32_t bos_id = -1;              // -1: none
  std::vector<MixerConfig> mixers;  // layer_count of them
};

nlohmann::json ConfigToJson(const ModelConfig& config);
// What ConfigToJson wrote; `where` opens the messages. Keys that it does not know are ignored: a newer version may have
// added them.
StatusOr<ModelConfig> ConfigFromJson(const nlohmann::json& object, const std::string& where);
// Reads config.json (and generation_config.json where `generation` is an object) of a Hugging Face directory; every
// mixer is "attention". Refuses by name what is not supported, before any tensor is read.
StatusOr<ModelConfig> ConfigFromHuggingFace(const nlohmann::json& config, const nlohmann::json& generation,
                                            const std::string& where);
// The mixer that the teacher itself has in a layer: "attention", or "window" where it slides.
MixerConfig TeacherMixer(const ModelConfig& config, int64_t layer);
bool IsSlidingLayer(const ModelConfig& config, int64_t layer);
// Unsupported unless this library knows the family.
Status CheckFamily(const std::string& family, const std::string& where);
// InvalidArgument when all layers together have more key/value heads than limits.h allows: a window is kept for each,
// so that a config of a few bytes would stand for any amount of memory.
Status CheckHeadsOfAll(const ModelConfig& config, const std::string& where);
// Every rule a config must keep (known family, positive sizes, heads % kv_heads == 0, even head_dim, known mixers,
// ...).
Status CheckConfig(const ModelConfig& config, const std::string& where);

// How a new parameter begins (SPEC.md 1.3).
enum class Init { kFromTeacher, kZero, kConstant, kIdentity, kLinspace };
struct ParameterSpec {
  // As in Hugging Face: "model.layers.0.self_attn.q_proj.weight"; new ones under "...self_attn.xlstm.".
  std::string name;
  Shape shape;
  Init init = Init::kFromTeacher;
  double a = 0;  // constant, scale of the identity, or first of linspace
  double b = 0;  // last of linspace
};
// Every parameter in a fixed order: embeddings, the layers from the first to the last, final norm, head.
std::vector<ParameterSpec> ParametersOf(const ModelConfig& config);

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_CONFIG_H_
