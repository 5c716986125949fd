#include "core/model/source.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/checkpoint/dtype.h"
#include "core/checkpoint/file.h"
#include "core/checkpoint/names.h"
#include "core/checkpoint/reader.h"
#include "core/checkpoint/safetensors.h"
#include "core/json_fields.h"
#include "core/model/export/config_file.h"
#include "core/model/save.h"
#include "core/text/tokenizer.h"

namespace xh {
namespace {

using nlohmann::json;

constexpr char kAdapterFile[] = "adapter_config.json";
constexpr int64_t kLargestText = 256 << 20;  // of a tokenizer file
constexpr int64_t kConvertAtOnce = 1 << 16;  // values that are held as f32 at a time

std::string ShapeText(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) absl::StrAppend(&text, i > 0 ? ", " : "", shape[i]);
  return text + "]";
}

bool EndsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

bool IsPassedOver(const ModelConfig& config, const std::string& name) {
  if (name.find('/') != std::string::npos || EndsWith(name, "rotary_emb.inv_freq")) return true;
  return config.tied_embeddings && name == "lm_head.weight";
}

Status CheckTensor(const SourceTensor& tensor, const ParameterSpec& parameter, const std::string& where) {
  if (tensor.shape != parameter.shape) {
    return Incompatible(where, ": tensor ", Quoted(tensor.name), " has shape ", ShapeText(tensor.shape),
                        "; the config asks for ", ShapeText(parameter.shape));
  }
  if (tensor.dtype == XH_F32 || tensor.dtype == XH_F16 || tensor.dtype == XH_BF16) return absl::OkStatus();
  return Incompatible(where, ": tensor ", Quoted(tensor.name), " holds ", DTypeName(tensor.dtype),
                      "; allowed: f32, f16, bf16");
}

template <typename Stored>
std::vector<SourceTensor> ListOf(const std::vector<Stored>& stored) {
  std::vector<SourceTensor> tensors;
  for (const Stored& tensor : stored) tensors.push_back({tensor.name, tensor.dtype, tensor.shape});
  return tensors;
}

// A file that exists and cannot be read counts: opening it says why.
bool Exists(const std::string& path) { return CodeOf(File::OpenRead(path, Links::kFollow).status()) != XH_NOT_FOUND; }

// The file's bytes; "" and false in *found when there is none.
StatusOr<std::string> ReadOptionalFile(const std::string& path, bool* found) {
  StatusOr<File> file = File::OpenRead(path, Links::kFollow);
  *found = file.ok();
  if (!file.ok()) {
    if (CodeOf(file.status()) == XH_NOT_FOUND) return std::string();
    return file.status();
  }
  XH_ASSIGN_OR_RETURN(const int64_t bytes, file->Size());
  if (bytes > kLargestText) return Corrupt(path, " has ", bytes, " bytes; allowed: at most ", kLargestText);
  std::string text(static_cast<size_t>(bytes), '\0');
  XH_RETURN_IF_ERROR(file->ReadAt(0, text.data(), bytes));
  return text;
}

Status ReadDirectory(const std::string& directory, const std::vector<std::string>& names,
                     std::map<std::string, std::string>* files) {
  for (const std::string& name : names) {
    bool found = false;
    XH_ASSIGN_OR_RETURN(std::string bytes, ReadOptionalFile(directory + "/" + name, &found));
    if (found) (*files)[name] = std::move(bytes);
  }
  return absl::OkStatus();
}

StatusOr<json> ParseStored(const std::string& text, const std::string& where) {
  StatusOr<json> parsed = ParseJson(text, where);
  if (!parsed.ok()) return Corrupt(std::string(parsed.status().message()));
  return parsed;
}

StatusOr<ModelSource> OpenCheckpoint(const std::string& directory) {
  XH_ASSIGN_OR_RETURN(std::shared_ptr<CheckpointReader> reader, CheckpointReader::Open(directory));
  ModelSource source;
  XH_ASSIGN_OR_RETURN(source.config, ReadConfig(*reader));
  XH_ASSIGN_OR_RETURN(source.history, ReadHistory(*reader));
  XH_ASSIGN_OR_RETURN(source.tensors, MatchTensors(source.config, ListOf(reader->tensors()), directory));
  source.tokenizer_files = ReadFiles(*reader, kTokenizerPrefix);
  source.huggingface_files = ReadFiles(*reader, kHuggingFacePrefix);
  source.view = [reader](const std::string& name) { return reader->Data(name); };
  return source;
}

}  // namespace

StatusOr<ModelConfig> ReadHuggingFaceConfig(const std::map<std::string, std::string>& files,
                                            const std::string& directory) {
  auto config = files.find("config.json");
  if (config == files.end()) return NotFound(directory, " has no config.json");
  const std::string where = directory + "/config.json";
  XH_ASSIGN_OR_RETURN(const json object, ParseStored(config->second, where));
  json generation;
  auto found = files.find("generation_config.json");
  if (found != files.end()) {
    XH_ASSIGN_OR_RETURN(generation, ParseStored(found->second, directory + "/generation_config.json"));
  }
  return ConfigFromHuggingFace(object, generation, where);
}

StatusOr<ModelConfig> ReadHuggingFaceConfig(const std::string& directory) {
  std::map<std::string, std::string> files;
  XH_RETURN_IF_ERROR(ReadDirectory(directory, {"config.json", "generation_config.json"}, &files));
  return ReadHuggingFaceConfig(files, directory);
}

StatusOr<ModelSource> OpenHuggingFace(const std::string& directory) {
  if (Exists(directory + "/" + kAdapterFile)) {
    return Unsupported(directory, " holds an adapter (", kAdapterFile,
                       "); allowed: a whole model, with the adapter merged into its base");
  }
  ModelSource source;
  XH_RETURN_IF_ERROR(ReadDirectory(directory, {"config.json", "generation_config.json"}, &source.huggingface_files));
  XH_ASSIGN_OR_RETURN(const bool exported, ReadConfigFile(directory + "/config.json", &source));
  if (!exported) {
    XH_ASSIGN_OR_RETURN(source.config, ReadHuggingFaceConfig(source.huggingface_files, directory));
  }
  XH_ASSIGN_OR_RETURN(std::shared_ptr<SafetensorsReader> reader, SafetensorsReader::Open(directory));
  XH_ASSIGN_OR_RETURN(source.tensors, MatchTensors(source.config, ListOf(reader->tensors()), directory));
  XH_RETURN_IF_ERROR(ReadDirectory(directory, TokenizerFileNames(), &source.tokenizer_files));
  source.view = [reader](const std::string& name) { return reader->View(name); };
  return source;
}

StatusOr<ModelSource> OpenModelSource(const std::string& path) {
  if (path.empty()) return InvalidArgument("the model's path is empty");
  XH_RETURN_IF_ERROR(File::OpenDirectory(path).status());
  if (Exists(path + "/" + kManifestFile)) return OpenCheckpoint(path);
  if (Exists(path + "/config.json") || Exists(path + "/" + kAdapterFile)) return OpenHuggingFace(path);
  return NotFound(path, " is no model: it has neither ", kManifestFile,
                  " (a checkpoint) nor config.json (a Hugging Face ", "directory)");
}

StatusOr<std::map<std::string, std::string>> ReadTokenizerFiles(const std::string& path) {
  XH_RETURN_IF_ERROR(File::OpenDirectory(path).status());
  if (Exists(path + "/" + kManifestFile)) {
    XH_ASSIGN_OR_RETURN(std::shared_ptr<CheckpointReader> reader, CheckpointReader::Open(path));
    return ReadFiles(*reader, kTokenizerPrefix);
  }
  std::map<std::string, std::string> files;
  XH_RETURN_IF_ERROR(ReadDirectory(path, TokenizerFileNames(), &files));
  return files;
}

StatusOr<std::vector<SourceTensor>> MatchTensors(const ModelConfig& config, const std::vector<SourceTensor>& stored,
                                                 const std::string& where) {
  std::map<std::string, const SourceTensor*> by_name;
  for (const SourceTensor& tensor : stored) {
    if (!IsPassedOver(config, tensor.name)) by_name[tensor.name] = &tensor;
  }
  std::vector<SourceTensor> matched;
  std::string missing;
  int64_t missing_count = 0;
  for (const ParameterSpec& parameter : ParametersOf(config)) {
    auto found = by_name.find(parameter.name);
    if (found == by_name.end()) {
      if (missing_count++ == 0) missing = parameter.name;
      continue;
    }
    XH_RETURN_IF_ERROR(CheckTensor(*found->second, parameter, where));
    matched.push_back(*found->second);
    by_name.erase(found);
  }
  if (missing_count > 0) {
    return Incompatible(where, ": tensor \"", missing, "\" is missing", missing_count > 1 ? " (and " : "",
                        missing_count > 1 ? absl::StrCat(missing_count - 1, " more)") : "");
  }
  if (!by_name.empty()) {
    return Incompatible(where, ": tensor ", Quoted(by_name.begin()->first), " belongs to no part of a \"",
                        config.family, "\" model of this config", by_name.size() > 1 ? " (and " : "",
                        by_name.size() > 1 ? absl::StrCat(by_name.size() - 1, " more)") : "");
  }
  return matched;
}

Status ConvertFinite(const std::string& name, xh_dtype from, const void* data, int64_t count, xh_dtype to, void* out) {
  std::vector<float> values(static_cast<size_t>(std::min(count, kConvertAtOnce)));
  for (int64_t first = 0; first < count; first += kConvertAtOnce) {
    const int64_t n = std::min(kConvertAtOnce, count - first);
    ToF32(from, static_cast<const char*>(data) + first * DTypeBytes(from), n, values.data());
    for (int64_t i = 0; i < n; ++i) {
      if (!std::isfinite(values[i])) {
        return Corrupt("tensor ", Quoted(name), " holds ", std::isnan(values[i]) ? "NaN" : "an infinite value",
                       " at element ", first + i);
      }
    }
    if (out != nullptr) FromF32(values.data(), n, to, static_cast<char*>(out) + first * DTypeBytes(to));
  }
  return absl::OkStatus();
}

}  // namespace xh
