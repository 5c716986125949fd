#include "core/checkpoint/describe.h"

#include "core/checkpoint/dtype.h"
#include "nlohmann/json.hpp"

using nlohmann::json;

namespace xh {
namespace {

// Training state lies beside the model under these names.
bool IsTrainingState(const std::string& name) {
  return name.rfind("optimizer/", 0) == 0 || name.rfind("stage/", 0) == 0;
}

// Metadata that is JSON is shown as JSON; damaged text is shown as it is.
json Parsed(const std::string& text) {
  json value = json::parse(text, nullptr, false);
  return value.is_discarded() ? json(text) : value;
}

}  // namespace

json DescribeCheckpoint(const CheckpointReader& reader) {
  json out = {{"path", reader.directory()}, {"producer", reader.producer()}, {"layers", json::array()},
              {"tensors", json::array()},   {"files", json::object()},       {"metadata", json::object()}};
  for (const LayerEntry& layer : reader.layers())
    out["layers"].push_back({{"kind", layer.kind}, {"settings", layer.settings}});
  int64_t parameters = 0, bytes = 0;
  for (const TensorEntry& tensor : reader.tensors()) {
    if (!IsTrainingState(tensor.name)) parameters += ElementCount(tensor.shape);
    bytes += tensor.bytes;
    out["tensors"].push_back(
        {{"name", tensor.name}, {"dtype", DTypeName(tensor.dtype)}, {"shape", tensor.shape}, {"bytes", tensor.bytes}});
  }
  for (const auto& [key, value] : reader.metadata()) {
    if (key.find('/') != std::string::npos) {
      out["files"][key] = value.size();
    } else if (key == "config" || key == "history") {
      out[key] = Parsed(value);
    } else {
      out["metadata"][key] = Parsed(value);
    }
  }
  out["parameters"] = parameters;
  out["bytes"] = bytes;
  return out;
}

}  // namespace xh
