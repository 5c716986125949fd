#include "core/evaluate/branch.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "core/checkpoint/dtype.h"
#include "core/model/mixer.h"
#include "core/model/source.h"
#include "core/model/tap.h"

namespace xh {
namespace {

using nlohmann::json;

// sigmoid(+-100) is 1 or below 1e-43 in f32, so that the other branch's share is nothing beside it.
constexpr float kShut = 100;

Status Fill(float value, Device& device, Weight* weight) {
  const int64_t count = ElementCount(weight->shape);
  const std::vector<float> values(static_cast<size_t>(count), value);
  std::string stored(static_cast<size_t>(count * DTypeBytes(weight->dtype)), '\0');
  XH_RETURN_IF_ERROR(ConvertFinite("gate", XH_F32, values.data(), count, weight->dtype, stored.data()));
  XH_ASSIGN_OR_RETURN(Buffer buffer, device.Allocate(static_cast<int64_t>(stored.size())));
  XH_RETURN_IF_ERROR(device.Copy(buffer.data(), stored.data(), static_cast<int64_t>(stored.size())));
  XH_RETURN_IF_ERROR(device.Synchronize());
  weight->buffer = std::make_shared<Buffer>(std::move(buffer));
  return absl::OkStatus();
}

bool Mixes(const ModelConfig& config, int64_t layer) {
  const MixerConfig& mixer = config.mixers[layer];
  const MixerKind* kind = FindMixerKind(mixer.kind);
  return kind != nullptr && kind->has_mlstm && kind->has_window && !MlstmHeadsOf(config, mixer).query.empty();
}

std::vector<int64_t> MixingLayers(const ModelConfig& config) {
  std::vector<int64_t> layers;
  for (int64_t layer = 0; layer < config.layer_count; ++layer) {
    if (Mixes(config, layer)) layers.push_back(layer);
  }
  return layers;
}

}  // namespace

ModelName ParseModelName(const std::string& name) {
  for (const auto& [ending, branch] : {std::pair(":window", Branch::kWindow), std::pair(":mlstm", Branch::kMlstm)}) {
    if (absl::EndsWith(name, ending)) return {name.substr(0, name.size() - std::string(ending).size()), branch};
  }
  return {name, Branch::kBoth};
}

Status KeepBranch(Branch branch, Model* model) {
  if (branch == Branch::kBoth) return absl::OkStatus();
  const std::vector<int64_t> layers = MixingLayers(model->config);
  if (layers.empty()) {
    return InvalidArgument(model->path,
                           " has no layer that mixes two branches; allowed: a model with \"hybrid\" layers");
  }
  for (int64_t layer : layers) {
    const std::string gate = absl::StrCat("model.layers.", layer, ".self_attn.xlstm.output_gate.");
    XH_RETURN_IF_ERROR(Fill(0, *model->device, &model->weights.at(gate + "weight")));
    XH_RETURN_IF_ERROR(
        Fill(branch == Branch::kMlstm ? kShut : -kShut, *model->device, &model->weights.at(gate + "bias")));
  }
  return absl::OkStatus();
}

StatusOr<json> GateMeans(const Model& model, const std::vector<std::vector<int32_t>>& texts) {
  const std::vector<int64_t> layers = MixingLayers(model.config);
  if (layers.empty()) return json();
  std::vector<std::string> taps;
  for (int64_t layer : layers) taps.push_back(absl::StrCat("layers.", layer, ".mixer.gate"));
  std::vector<std::vector<double>> sums(layers.size());
  int64_t tokens = 0;
  for (const std::vector<int32_t>& ids : texts) {
    const int64_t count = std::min(static_cast<int64_t>(ids.size()), model.config.context);
    if (count == 0) continue;
    XH_ASSIGN_OR_RETURN(const auto gates, ForwardTaps(model, ids.data(), count, taps));
    for (size_t i = 0; i < gates.size(); ++i) {
      const size_t heads = gates[i].size() / static_cast<size_t>(count);
      sums[i].resize(heads);
      for (size_t j = 0; j < gates[i].size(); ++j) sums[i][j % heads] += gates[i][j];
    }
    tokens += count;
  }
  json means = json::array();
  for (int64_t layer = 0; layer < model.config.layer_count; ++layer) {
    means.push_back(std::vector<json>(static_cast<size_t>(model.config.heads)));
  }
  for (size_t i = 0; i < layers.size() && tokens > 0; ++i) {
    const std::vector<int32_t> heads = MlstmHeadsOf(model.config, model.config.mixers[layers[i]]).query;
    for (size_t j = 0; j < heads.size(); ++j) means[layers[i]][heads[j]] = sums[i][j] / static_cast<double>(tokens);
  }
  return means;
}

}  // namespace xh
