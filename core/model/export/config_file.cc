#include "core/model/export/config_file.h"

#include "core/json_fields.h"

namespace xh {
namespace {

using nlohmann::json;

constexpr char kType[] = "xhybrid";  // of the model and of the object that describes it
constexpr int64_t kFormat = 1;

const char* TorchName(xh_dtype dtype) {
  return dtype == XH_BF16 ? "bfloat16" : dtype == XH_F16 ? "float16" : "float32";
}

// What transformers 4 calls "torch_dtype" is "dtype" in 5; files of both have either. False when nothing is to be done.
bool CorrectDType(xh_dtype dtype, json* config) {
  bool changed = false;
  for (const char* key : {"dtype", "torch_dtype"}) {
    auto found = config->find(key);
    if (found == config->end() || found->is_null() || *found == TorchName(dtype)) continue;
    *found = TorchName(dtype);
    changed = true;
  }
  return changed;
}

std::string Text(const json& value) { return value.dump(2, ' ', false, json::error_handler_t::replace) + "\n"; }

json StudentObject(const ModelSource& source, const std::string& teacher_config) {
  json object = ConfigToJson(source.config);
  object["format"] = kFormat;
  object["teacher_config"] = teacher_config;
  object["history"] = source.history;
  return object;
}

}  // namespace

StatusOr<ConfigFile> MakeConfigFile(const ModelSource& source, xh_dtype dtype) {
  const auto found = source.huggingface_files.find("config.json");
  if (found == source.huggingface_files.end()) {
    return Incompatible("the model carries no config.json of its teacher; allowed: models that began with an import");
  }
  const std::string where = "the teacher's config.json";
  XH_ASSIGN_OR_RETURN(json config, ParseJson(found->second, where));
  XH_ASSIGN_OR_RETURN(const ModelConfig teacher, ReadHuggingFaceConfig(source.huggingface_files, where));
  const bool corrected = CorrectDType(dtype, &config);
  if (ConfigToJson(teacher) == ConfigToJson(source.config)) {
    return ConfigFile{corrected ? Text(config) : found->second, false};
  }
  config["model_type"] = kType;
  config["architectures"] = {"XhybridForCausalLM"};
  config["auto_map"] = {{"AutoConfig", "configuration_xhybrid.XhybridConfig"},
                        {"AutoModelForCausalLM", "modeling_xhybrid.XhybridForCausalLM"}};
  config[kType] = StudentObject(source, found->second);
  return ConfigFile{Text(config), true};
}

StatusOr<bool> ReadConfigFile(const std::string& where, ModelSource* source) {
  const auto found = source->huggingface_files.find("config.json");
  if (found == source->huggingface_files.end()) return false;
  StatusOr<json> config = ParseJson(found->second, where);
  if (!config.ok()) return Corrupt(std::string(config.status().message()));
  JsonFields fields(&*config, where);
  if (!config->is_object() || !config->contains("model_type") || (*config)["model_type"] != kType) return false;
  const json* object = fields.Get(kType);
  const std::string place = absl::StrCat(where, ": ", kType);
  JsonFields student(object, place);
  XH_ASSIGN_OR_RETURN(const int64_t format, student.Int("format", 1, 1 << 20));
  if (format != kFormat) return Unsupported(place, ": \"format\" is ", format, "; allowed: ", kFormat);
  XH_ASSIGN_OR_RETURN(std::string teacher_config, student.Text("teacher_config"));
  const json* history = student.Get("history");
  if (history == nullptr || !history->is_array()) {
    return InvalidArgument(place, ": \"history\" is not a list; allowed: what made the model, oldest first");
  }
  XH_ASSIGN_OR_RETURN(source->config, ConfigFromJson(*object, place));
  source->history = *history;
  source->huggingface_files["config.json"] = std::move(teacher_config);
  return true;
}

}  // namespace xh
