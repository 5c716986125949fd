#include "core/model/mixer.h"

#include "core/model/mixers/branches.h"

namespace xh {

const std::vector<MixerKind>& MixerKinds() {
  static const std::vector<MixerKind> kinds = {
      {"hybrid", true, true, HybridMixer},
      {"attention", false, true, LocalBranch},
      {"window", false, true, LocalBranch},
      {"mlstm", true, false, MlstmBranch},
  };
  return kinds;
}

const MixerKind* FindMixerKind(const std::string& name) {
  for (const MixerKind& kind : MixerKinds()) {
    if (name == kind.name) return &kind;
  }
  return nullptr;
}

MlstmHeads MlstmHeadsOf(const ModelConfig& config, const MixerConfig& mixer) {
  MlstmHeads heads;
  const int64_t group = config.heads / config.kv_heads;
  for (int64_t kv = 0; kv < config.kv_heads; ++kv) {
    if (mixer.kind == "hybrid" && mixer.windows[kv] == 0) continue;
    heads.kv.push_back(static_cast<int32_t>(kv));
    for (int64_t h = kv * group; h < (kv + 1) * group; ++h) heads.query.push_back(static_cast<int32_t>(h));
  }
  return heads;
}

int64_t FeatureCount(const ModelConfig& config, const MixerConfig& mixer) {
  if (mixer.feature_map == "none") return config.head_dim;
  return mixer.feature_map == "hedgehog" ? 2 * mixer.features : mixer.features;
}

void AppendMixerParameters(const ModelConfig& config, int64_t layer, std::vector<ParameterSpec>* out) {
  const MixerConfig& mixer = config.mixers[layer];
  const MixerKind* kind = FindMixerKind(mixer.kind);
  if (kind == nullptr || !kind->has_mlstm) return;
  const std::string prefix = absl::StrCat("model.layers.", layer, ".self_attn.xlstm.");
  const int64_t heads = static_cast<int64_t>(MlstmHeadsOf(config, mixer).query.size()), dim = config.head_dim;
  if (mixer.feature_map != "none") {
    // Two for hedgehog, whose halves softmax(u) and softmax(-u) are flatter than one softmax of the same features; two
    // as well for random features (n != d), as measured.
    const double scale = mixer.feature_map == "hedgehog" || mixer.features != dim ? 2 : 1;
    const Shape shape = {heads, dim, mixer.features};
    out->push_back({prefix + "query_features.weight", shape, Init::kIdentity, scale});
    out->push_back({prefix + "key_features.weight", shape, Init::kIdentity, scale});
  }
  out->push_back({prefix + "input_gate.weight", {heads, config.hidden_size}, Init::kZero});
  out->push_back({prefix + "input_gate.bias", {heads}, Init::kZero});
  out->push_back({prefix + "forget_gate.weight", {heads, config.hidden_size}, Init::kZero});
  out->push_back({prefix + "forget_gate.bias", {heads}, Init::kLinspace, 3, 6});
  if (!kind->has_window) return;
  out->push_back({prefix + "output_gate.weight", {heads, 3 * dim}, Init::kZero});
  out->push_back({prefix + "output_gate.bias", {heads}, Init::kConstant, mixer.output_gate_bias});
}

std::vector<StateSpec> MixerState(const ModelConfig& config, int64_t layer, int64_t batch, int64_t capacity) {
  const MixerConfig& mixer = config.mixers[layer];
  const MixerKind* kind = FindMixerKind(mixer.kind);
  std::vector<StateSpec> state;
  if (kind != nullptr && kind->has_mlstm) {
    const int64_t features = FeatureCount(config, mixer);
    const int64_t heads = static_cast<int64_t>(MlstmHeadsOf(config, mixer).query.size());
    state.push_back({"S", {batch, heads, features, config.head_dim}, false});
    state.push_back({"z", {batch, heads, features}, false});
    state.push_back({"m", {batch, heads}, false});
  }
  if (kind != nullptr && kind->has_window) {
    const Shape shape = {batch, AttentionCacheSlots(mixer.windows, mixer.sinks, capacity), config.head_dim};
    state.push_back({"cache_k", shape, true});
    state.push_back({"cache_v", shape, true});
  }
  return state;
}

}  // namespace xh
