#include "core/probe/plan.h"

#include <algorithm>

#include "core/checkpoint/dtype.h"
#include "core/json_fields.h"

namespace xh {
namespace {

using nlohmann::json;

constexpr int64_t kFormat = 1;

json SizesOf(const ModelConfig& config) {
  return {{"family", config.family},
          {"layers", config.layer_count},
          {"heads", config.heads},
          {"kv_heads", config.kv_heads},
          {"head_dim", config.head_dim}};
}

bool KeepsAny(const std::vector<bool>& layer) { return std::find(layer.begin(), layer.end(), true) != layer.end(); }
bool KeepsAll(const std::vector<bool>& layer) { return std::find(layer.begin(), layer.end(), false) == layer.end(); }

}  // namespace

int64_t BytesPerToken(const ModelConfig& config, const Mask& kept, xh_dtype dtype) {
  int64_t heads = 0;
  for (int64_t layer = 0; layer < config.layer_count; ++layer) {
    if (IsSlidingLayer(config, layer)) continue;  // its own window bounds it
    heads += std::count(kept[layer].begin(), kept[layer].end(), true);
  }
  return 2 * heads * config.head_dim * DTypeBytes(dtype);
}

json PlanToJson(const ModelConfig& config, const Plan& plan) {
  json keep = json::array();
  for (size_t layer = 0; layer < plan.kept.size(); ++layer) {
    if (!KeepsAny(plan.kept[layer])) continue;
    json heads = json::array();
    for (size_t head = 0; head < plan.kept[layer].size(); ++head) {
      if (plan.kept[layer][head]) heads.push_back(head);
    }
    keep.push_back({{"layer", layer}, {"heads", heads}});
  }
  return {
      {"format", kFormat}, {"model", SizesOf(config)}, {"window", plan.window}, {"sinks", plan.sinks}, {"keep", keep}};
}

StatusOr<Plan> PlanFromJson(const ModelConfig& config, const json& object, const std::string& where) {
  JsonFields fields(&object, where);
  XH_RETURN_IF_ERROR(fields.Int("format", kFormat, kFormat).status());
  const json sizes = SizesOf(config);
  const json* model = fields.Get("model");
  if (model == nullptr || !model->is_object()) return InvalidArgument(where, ": \"model\" is not an object");
  for (const auto& [key, value] : sizes.items()) {
    const auto found = model->find(key);
    if (found != model->end() && *found == value) continue;
    return Incompatible(where, " is a plan for another model: \"", key, "\" is ",
                        found == model->end() ? "missing" : ShownJson(*found), ", this model's is ", ShownJson(value));
  }
  Plan plan;
  plan.kept = UniformMask(config, false);
  XH_ASSIGN_OR_RETURN(const int64_t window, fields.Int("window", 1, INT32_MAX));
  XH_ASSIGN_OR_RETURN(const int64_t sinks, fields.Int("sinks", 0, INT32_MAX));
  plan.window = static_cast<int32_t>(window);
  plan.sinks = static_cast<int32_t>(sinks);
  const json* keep = fields.Get("keep");
  if (keep == nullptr || !keep->is_array()) return InvalidArgument(where, ": \"keep\" is not a list");
  for (const json& item : *keep) {
    JsonFields entry(&item, where + ": keep");
    XH_ASSIGN_OR_RETURN(const int64_t layer, entry.Int("layer", 0, config.layer_count - 1));
    const json* heads = entry.Get("heads");
    if (heads == nullptr || !heads->is_array()) return InvalidArgument(where, ": keep: \"heads\" is not a list");
    for (const json& head : *heads) {
      const bool there = head.is_number_integer() && head >= 0 && head < config.kv_heads;
      if (!there) {
        return InvalidArgument(where, ": keep: layer ", layer, ": \"heads\" holds ", ShownJson(head),
                               "; allowed: integers from 0 to ", config.kv_heads - 1);
      }
      plan.kept[layer][head.get<size_t>()] = true;
    }
  }
  return plan;
}

StatusOr<json> StudentOptions(const Plan& plan, const json& given, const std::string& where) {
  json options = given.is_object() ? given : json::object();
  if (!options.contains("window")) options["window"] = plan.window;
  if (!options.contains("sinks")) options["sinks"] = plan.sinks;
  json layers = options.value("layers", json::array());
  if (!layers.is_array()) return InvalidArgument(where, ": student: \"layers\" is not a list");
  for (size_t layer = 0; layer < plan.kept.size(); ++layer) {
    const std::vector<bool>& kept = plan.kept[layer];
    if (!KeepsAny(kept)) continue;
    for (const json& other : layers) {
      if (other.is_object() && other.value("layer", json()) == layer) {
        return InvalidArgument(where, ": \"layers\" names layer ", layer,
                               ", of which \"plan\" keeps heads; allowed: one ", "of both");
      }
    }
    if (KeepsAll(kept)) {
      layers.push_back({{"layer", layer}, {"kind", "attention"}});
      continue;
    }
    json windows = json::array();
    const json& window = options["window"];  // of all heads, or a list
    for (size_t head = 0; head < kept.size(); ++head) {
      const bool listed = window.is_array() && head < window.size();
      windows.push_back(kept[head] ? json(0) : listed ? window[head] : window);
    }
    layers.push_back({{"layer", layer}, {"window", windows}});
  }
  options["layers"] = std::move(layers);
  return options;
}

}  // namespace xh
