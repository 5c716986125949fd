// A model inside a checkpoint: what every program that writes or reads one does the same way.
#ifndef XHYBRID_CORE_MODEL_SAVE_H_
#define XHYBRID_CORE_MODEL_SAVE_H_

#include <map>
#include <string>

#include "core/checkpoint/reader.h"
#include "core/checkpoint/writer.h"
#include "core/model/model.h"
#include "core/model/source.h"

namespace xh {

// Keys of a checkpoint's metadata.
inline constexpr char kConfigKey[] = "config";    // ConfigToJson
inline constexpr char kHistoryKey[] = "history";  // JSON: what made the model, oldest first
inline constexpr char kTokenizerPrefix[] = "tokenizer/";
inline constexpr char kHuggingFacePrefix[] = "huggingface/";

// What travels with a model besides its weights.
struct ModelFiles {
  std::map<std::string, std::string> tokenizer;    // name -> bytes
  std::map<std::string, std::string> huggingface;  // name -> bytes
  nlohmann::json history = nlohmann::json::array();
};
ModelFiles FilesOf(const Model& model);
ModelFiles FilesOf(const ModelSource& source);

// Everything but the tensors: config, the table of layers, tokenizer and history. The caller adds the tensors, by the
// names of ParametersOf, and commits.
Status AddModelMetadata(CheckpointWriter& writer, const ModelConfig& config, const ModelFiles& files);
// The same, and every parameter of `config` from device memory, in its dtype. Internal when one is missing.
Status AddModel(CheckpointWriter& writer, const ModelConfig& config, const std::map<std::string, Weight>& weights,
                Device& device, const ModelFiles& files);

// The config and history that AddModelMetadata wrote. Incompatible when the checkpoint holds no model, Corrupt when the
// table of layers contradicts the config.
StatusOr<ModelConfig> ReadConfig(const CheckpointReader& reader);
StatusOr<nlohmann::json> ReadHistory(const CheckpointReader& reader);  // an empty list where there is none
// The metadata under `prefix`, without it in the names.
std::map<std::string, std::string> ReadFiles(const CheckpointReader& reader, const std::string& prefix);

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_SAVE_H_
