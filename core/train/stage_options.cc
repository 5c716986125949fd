#include "core/train/stage_options.h"

#include <set>

#include "core/json_fields.h"
#include "core/options.h"

namespace xh {
namespace {

using nlohmann::json;

constexpr char kTrainerSchema[] = R"json({"options": [
  {"name": "steps", "type": "int", "min": 1, "max": 1000000000, "help": "optimizer steps"},
  {"name": "learning_rate", "type": "real", "default": 0.0001, "min": 0, "max": 10, "help": "peak learning rate"},
  {"name": "warmup", "type": "int", "default": 20, "min": 0, "max": 1000000000,
   "help": "steps over which the learning rate rises to its peak"},
  {"name": "schedule", "type": "text", "default": "constant", "choices": ["constant", "linear", "cosine"],
   "help": "how the learning rate goes on after the warm-up"},
  {"name": "final_learning_rate", "type": "real", "default": 0, "min": 0, "max": 10,
   "help": "learning rate of the last step (linear, cosine)"},
  {"name": "clip", "type": "real", "default": 1, "min": 0, "max": 1000000000,
   "help": "largest global gradient norm; 0: not clipped"},
  {"name": "weight_decay", "type": "real", "default": 0.1, "min": 0, "max": 10,
   "help": "AdamW weight decay of parameters of rank 2 and more"},
  {"name": "beta1", "type": "real", "default": 0.9, "min": 0, "max": 0.999999, "help": "AdamW beta 1"},
  {"name": "beta2", "type": "real", "default": 0.95, "min": 0, "max": 0.999999, "help": "AdamW beta 2"},
  {"name": "eps", "type": "real", "default": 1e-8, "min": 1e-30, "max": 1, "help": "AdamW epsilon"}
]})json";

// The "options" list of a schema text, NULL when the text is not a schema.
const json* OptionsOf(const json& schema) {
  if (!schema.is_object()) return nullptr;
  const auto found = schema.find("options");
  if (found == schema.end() || !found->is_array()) return nullptr;
  for (const json& option : *found) {
    if (!option.is_object() || !option.contains("name") || !option["name"].is_string()) return nullptr;
  }
  return &*found;
}

double Number(const json& options, const char* name) { return options.at(name).get<double>(); }

Decay DecayOf(const std::string& name) {
  if (name == "linear") return Decay::kLinear;
  return name == "cosine" ? Decay::kCosine : Decay::kConstant;
}

// A stage that gives a trainer's option another type would be misread.
Status CheckTrainerTypes(const json& options, const std::string& stage) {
  for (const char* name : {"learning_rate", "final_learning_rate", "clip", "weight_decay", "beta1", "beta2", "eps"}) {
    if (!options.contains(name) || !options[name].is_number()) {
      return Incompatible("stage.", stage, ": its schema makes \"", name, "\" something other than a number");
    }
  }
  for (const char* name : {"steps", "warmup"}) {
    if (!options.contains(name) || !options[name].is_number_integer()) {
      return Incompatible("stage.", stage, ": its schema makes \"", name, "\" something other than an integer");
    }
  }
  if (options["steps"] < 1) return Incompatible("stage.", stage, ": its schema allows \"steps\" below 1");
  if (!options.contains("schedule") || !options["schedule"].is_string()) {
    return Incompatible("stage.", stage, ": its schema makes \"schedule\" something other than text");
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<std::string> MergeStageSchema(const char* plugin_schema, const std::string& stage) {
  XH_ASSIGN_OR_RETURN(json merged, ParseJson(kTrainerSchema, "trainer"));
  if (plugin_schema == nullptr || *plugin_schema == '\0') return merged.dump();
  StatusOr<json> parsed = ParseJson(plugin_schema, absl::StrCat("options of stage.", stage));
  const json* own = parsed.ok() ? OptionsOf(*parsed) : nullptr;
  if (own == nullptr) return Incompatible("stage.", stage, ": its options_schema is not a schema of options");
  for (const json& option : *own) {
    bool replaced = false;
    for (json& present : merged["options"]) {
      if (present["name"] != option["name"]) continue;
      present = option;
      replaced = true;
    }
    if (!replaced) merged["options"].push_back(option);
  }
  return merged.dump();
}

StatusOr<StageRecipe> ReadStage(const std::string& name, const xh_stage_table* table, const json& given,
                                const std::string& where) {
  StageRecipe stage;
  stage.name = name;
  stage.table = table;
  XH_ASSIGN_OR_RETURN(const std::string schema, MergeStageSchema(table->options_schema, name));
  json options = given.is_object() ? given : json::object();
  options.erase("stage");
  XH_ASSIGN_OR_RETURN(stage.options, CheckOptions(schema, options, where));
  XH_RETURN_IF_ERROR(CheckTrainerTypes(stage.options, name));

  stage.plugin_options = json::object();
  if (table->options_schema != nullptr && *table->options_schema != '\0') {
    XH_ASSIGN_OR_RETURN(const json own, ParseJson(table->options_schema, where));
    for (const json& option : *OptionsOf(own)) {
      const std::string key = option["name"].get<std::string>();
      if (stage.options.contains(key)) stage.plugin_options[key] = stage.options[key];
    }
  }
  stage.schedule = {DecayOf(stage.options["schedule"].get<std::string>()), Number(stage.options, "learning_rate"),
                    Number(stage.options, "final_learning_rate"), stage.options["warmup"].get<int64_t>(),
                    stage.options["steps"].get<int64_t>()};
  stage.adamw = {Number(stage.options, "beta1"), Number(stage.options, "beta2"), Number(stage.options, "eps"),
                 Number(stage.options, "weight_decay")};
  stage.clip = Number(stage.options, "clip");
  return stage;
}

}  // namespace xh
