#include "core/options.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_join.h"
#include "core/json_fields.h"
#include "nlohmann/json.hpp"

using nlohmann::json;

namespace xh {
namespace {

StatusOr<json> ValueOf(const xh_option& option) {
  switch (option.kind) {
    case XH_OPTION_TEXT:
      if (option.text == nullptr) return InvalidArgument("option \"", option.key, "\": text is NULL");
      return json(option.text);
    case XH_OPTION_INT:
      return json(option.integer);
    case XH_OPTION_REAL:
      return json(option.real);
    case XH_OPTION_BOOL:
      return json(option.integer != 0);
    default:
      return InvalidArgument("option \"", option.key, "\": kind is ", option.kind, "; allowed: 1 to 4");
  }
}

// What a type takes, in words, and whether a value is of it.
struct OptionType {
  const char* name;
  const char* allowed;
  bool (*fits)(const json& value);
};

bool IsListOf(const json& value, bool (*fits)(const json&)) {
  return value.is_array() && std::all_of(value.begin(), value.end(), fits);
}
bool IsText(const json& value) { return value.is_string(); }
bool IsNumber(const json& value) { return value.is_number(); }
bool IsTexts(const json& value) { return IsListOf(value, IsText); }

constexpr OptionType kTypes[] = {
    {"text", "a text", IsText},
    {"int", "an integer", [](const json& value) { return value.is_number_integer(); }},
    {"real", "a number", IsNumber},
    {"bool", "true or false", [](const json& value) { return value.is_boolean(); }},
    {"reals", "a list of numbers", [](const json& value) { return IsListOf(value, IsNumber); }},
    {"texts", "a list of texts", IsTexts},
    {"object", "an object", [](const json& value) { return value.is_object(); }},
    {"list", "a list", [](const json& value) { return value.is_array(); }},
};

const OptionType* FindType(const std::string& name) {
  for (const OptionType& type : kTypes) {
    if (name == type.name) return &type;
  }
  return nullptr;
}

// A field of a schema entry that may be missing but not be of another type.
bool FitsWherePresent(const json& entry, const char* name, bool (*fits)(const json&)) {
  return !entry.contains(name) || fits(entry[name]);
}

Status CheckEntry(const json& entry, const std::string& where) {
  if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string() || !entry.contains("type") ||
      !entry["type"].is_string()) {
    return Internal(where, ": an entry of the options schema has no name or no type");
  }
  const std::string name = entry["name"].get<std::string>();
  const OptionType* type = FindType(entry["type"].get<std::string>());
  if (type == nullptr) {
    return Internal(where, ": the schema of option \"", name, "\" has the unknown type \"",
                    entry["type"].get<std::string>(), "\"");
  }
  const bool fits = FitsWherePresent(entry, "help", IsText) && FitsWherePresent(entry, "choices", IsTexts) &&
                    FitsWherePresent(entry, "min", IsNumber) && FitsWherePresent(entry, "max", IsNumber) &&
                    FitsWherePresent(entry, "default", type->fits);
  if (!fits) {
    return Internal(where, ": the schema of option \"", name,
                    "\" has a default, min, max, choices or help of another type");
  }
  return absl::OkStatus();
}

StatusOr<json> ParseSchema(const std::string& schema, const std::string& where) {
  if (schema.empty()) return json::array();
  StatusOr<json> parsed = ParseJson(schema, absl::StrCat(where, " (its options schema)"));
  if (!parsed.ok()) return Internal(parsed.status().message());
  if (!parsed->is_object() || !parsed->contains("options") || !(*parsed)["options"].is_array()) {
    return Internal(where, ": the options schema has no list \"options\"");
  }
  for (const json& entry : (*parsed)["options"]) XH_RETURN_IF_ERROR(CheckEntry(entry, where));
  return (*parsed)["options"];
}

// A limit of a number, within +-`most`.
double Limit(const json& entry, const char* name, double otherwise, double most) {
  return entry.contains(name) ? std::clamp(entry[name].get<double>(), -most, most) : otherwise;
}

// One option checked by its type. `fields` reads it with messages that name what is allowed.
StatusOr<json> CheckValue(const json& entry, JsonFields& fields, const std::string& where) {
  const std::string name = entry["name"].get<std::string>();
  const OptionType& type = *FindType(entry["type"].get<std::string>());
  const std::string type_name = type.name;
  if (type_name == "int") {
    constexpr double kMost = 9007199254740992.0;  // 2^53
    XH_ASSIGN_OR_RETURN(int64_t value, fields.Int(name, static_cast<int64_t>(Limit(entry, "min", -kMost, kMost)),
                                                  static_cast<int64_t>(Limit(entry, "max", kMost, kMost))));
    return json(value);
  }
  if (type_name == "real") {
    constexpr double kMost = std::numeric_limits<double>::max();
    XH_ASSIGN_OR_RETURN(double value,
                        fields.Real(name, Limit(entry, "min", -kMost, kMost), Limit(entry, "max", kMost, kMost)));
    return json(value);
  }
  if (type_name == "bool") {
    XH_ASSIGN_OR_RETURN(bool value, fields.Bool(name));
    return json(value);
  }
  if (type_name == "text") {
    StatusOr<std::string> value = entry.contains("choices")
                                      ? fields.Choice(name, entry["choices"].get<std::vector<std::string>>())
                                      : fields.Text(name);
    if (!value.ok()) return value.status();
    return json(*value);
  }
  const json& value = *fields.Get(name);
  if (type.fits(value)) return value;
  return InvalidArgument(where, ": \"", name, "\" is ", ShownJson(value), "; allowed: ", type.allowed);
}

// A default in the type of its option: 0 may stand for 0.0 in a schema.
json DefaultOf(const json& entry) {
  const json& value = entry["default"];
  return entry["type"] == "real" ? json(value.get<double>()) : value;
}

}  // namespace

StatusOr<json> OptionsToJson(const xh_option* options, int64_t count, const std::vector<std::string>& repeatable) {
  if (count < 0) return InvalidArgument("option count is ", count, "; allowed: 0 or more");
  if (options == nullptr && count > 0) return InvalidArgument("options is NULL with an option count of ", count);
  json object = json::object();
  for (int64_t i = 0; i < count; ++i) {
    const xh_option& option = options[i];
    if (option.key == nullptr) return InvalidArgument("options[", i, "].key is NULL");
    if (option.reserved != 0) return InvalidArgument("option \"", option.key, "\": reserved is not 0");
    XH_ASSIGN_OR_RETURN(json value, ValueOf(option));
    const std::string key = option.key;
    if (std::find(repeatable.begin(), repeatable.end(), key) != repeatable.end()) {
      if (!object.contains(key)) object[key] = json::array();
      object[key].push_back(std::move(value));
    } else if (!object.emplace(key, std::move(value)).second) {
      return InvalidArgument("option \"", key, "\" is given twice");
    }
  }
  return object;
}

Status CheckSchema(const std::string& schema, const std::string& where) { return ParseSchema(schema, where).status(); }

StatusOr<json> CheckOptions(const std::string& schema, const json& given, const std::string& where) {
  XH_ASSIGN_OR_RETURN(const json entries, ParseSchema(schema, where));
  JsonFields fields(&given, where);
  json checked = json::object();
  for (const json& entry : entries) {
    const std::string name = entry["name"].get<std::string>();
    if (fields.Has(name)) {
      XH_ASSIGN_OR_RETURN(checked[name], CheckValue(entry, fields, where));
    } else if (entry.contains("default")) {
      checked[name] = DefaultOf(entry);
    } else {
      return InvalidArgument(where, ": \"", name,
                             "\" is missing; allowed: ", FindType(entry["type"].get<std::string>())->allowed,
                             entry.contains("help") ? absl::StrCat(" (", entry["help"].get<std::string>(), ")") : "");
    }
  }
  XH_RETURN_IF_ERROR(fields.NoOthers());
  return checked;
}

OptionList::OptionList(const json& object) {
  auto keep = [&](const std::string& text) {
    strings_.push_back(std::make_unique<std::string>(text));
    return strings_.back()->c_str();
  };
  for (const auto& [key, value] : object.items()) {
    xh_option option{};
    option.key = keep(key);
    if (value.is_boolean()) {
      option.kind = XH_OPTION_BOOL;
      option.integer = value.get<bool>() ? 1 : 0;
    } else if (value.is_number_integer()) {
      option.kind = XH_OPTION_INT;
      option.integer = value.get<int64_t>();
      option.real = static_cast<double>(option.integer);
    } else if (value.is_number()) {
      option.kind = XH_OPTION_REAL;
      option.real = value.get<double>();
    } else if (value.is_array()) {
      option.kind = XH_OPTION_TEXT;
      option.text = keep(absl::StrJoin(value, ",", [](std::string* out, const json& item) {
        out->append(item.is_string() ? item.get<std::string>() : item.dump());
      }));
    } else {
      option.kind = XH_OPTION_TEXT;
      option.text = keep(value.is_string() ? value.get<std::string>() : value.dump());
    }
    options_.push_back(option);
  }
}

}  // namespace xh
