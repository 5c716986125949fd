#include "core/model/save.h"

#include "core/checkpoint/dtype.h"
#include "core/json_fields.h"

namespace xh {
namespace {

using nlohmann::json;

// Text of any content: bytes that are not UTF-8 are replaced, never thrown at.
std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

LayerEntry LayerOf(const json& mixer) {
  LayerEntry layer;
  for (const auto& [key, value] : mixer.items()) {
    if (key == "kind") {
      layer.kind = value.get<std::string>();
    } else {
      layer.settings[key] = value.is_string() ? value.get<std::string>() : Dump(value);
    }
  }
  return layer;
}

// Bytes that a writer of checkpoints never wrote.
Status AsCorrupt(const Status& status) {
  return CodeOf(status) == XH_INVALID_ARGUMENT ? Corrupt(std::string(status.message())) : status;
}

}  // namespace

ModelFiles FilesOf(const Model& model) { return {model.tokenizer_files, model.huggingface_files, model.history}; }
ModelFiles FilesOf(const ModelSource& source) {
  return {source.tokenizer_files, source.huggingface_files, source.history};
}

Status AddModelMetadata(CheckpointWriter& writer, const ModelConfig& config, const ModelFiles& files) {
  XH_RETURN_IF_ERROR(CheckConfig(config, "config"));
  const json object = ConfigToJson(config);
  for (const json& mixer : object["mixers"]) writer.AddLayer(LayerOf(mixer));
  writer.SetMetadata(kConfigKey, Dump(object));
  writer.SetMetadata(kHistoryKey, Dump(files.history));
  for (const auto& [name, bytes] : files.tokenizer) writer.SetMetadata(kTokenizerPrefix + name, bytes);
  for (const auto& [name, bytes] : files.huggingface) writer.SetMetadata(kHuggingFacePrefix + name, bytes);
  return absl::OkStatus();
}

Status AddModel(CheckpointWriter& writer, const ModelConfig& config, const std::map<std::string, Weight>& weights,
                Device& device, const ModelFiles& files) {
  XH_RETURN_IF_ERROR(AddModelMetadata(writer, config, files));
  std::string bytes;
  for (const ParameterSpec& parameter : ParametersOf(config)) {
    auto found = weights.find(parameter.name);
    if (found == weights.end()) return Internal("parameter \"", parameter.name, "\" has no weight to be saved");
    const Weight& weight = found->second;
    XH_ASSIGN_OR_RETURN(const int64_t size, TensorBytes(weight.dtype, weight.shape));
    bytes.resize(static_cast<size_t>(size));
    XH_RETURN_IF_ERROR(device.Copy(bytes.data(), weight.buffer->data(), size));
    XH_RETURN_IF_ERROR(device.Synchronize());
    XH_RETURN_IF_ERROR(writer.AddTensor(parameter.name, weight.dtype, weight.shape, bytes.data()));
  }
  return absl::OkStatus();
}

StatusOr<ModelConfig> ReadConfig(const CheckpointReader& reader) {
  const std::string where = reader.directory() + ": config";
  auto text = reader.metadata().find(kConfigKey);
  if (text == reader.metadata().end()) return Incompatible(reader.directory(), " is a checkpoint without a model");
  const StatusOr<json> object = ParseJson(text->second, where);
  if (!object.ok()) return AsCorrupt(object.status());
  StatusOr<ModelConfig> config = ConfigFromJson(*object, where);
  if (!config.ok()) return AsCorrupt(config.status());
  // The manifest's table of layers is what other programs see.
  bool same = reader.layers().size() == config->mixers.size();
  for (size_t i = 0; same && i < config->mixers.size(); ++i) same = reader.layers()[i].kind == config->mixers[i].kind;
  if (!same) return Corrupt(reader.directory(), ": the table of layers contradicts the config");
  return config;
}

StatusOr<json> ReadHistory(const CheckpointReader& reader) {
  auto text = reader.metadata().find(kHistoryKey);
  if (text == reader.metadata().end()) return json::array();
  StatusOr<json> history = ParseJson(text->second, reader.directory() + ": history");
  if (!history.ok()) return AsCorrupt(history.status());
  return history;
}

std::map<std::string, std::string> ReadFiles(const CheckpointReader& reader, const std::string& prefix) {
  std::map<std::string, std::string> files;
  for (const auto& [key, value] : reader.metadata()) {
    if (key.rfind(prefix, 0) == 0) files[key.substr(prefix.size())] = value;
  }
  return files;
}

}  // namespace xh
