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

// The limits of a number in a schema entry.
double Limit(const json& entry, const char* name, double otherwise) { return entry.value(name, otherwise); }

StatusOr<json> CheckList(const json& value, bool numbers, const std::string& name, const std::string& where) {
  bool fits = value.is_array() && std::all_of(value.begin(), value.end(), [&](const json& item) {
                return numbers ? item.is_number() : item.is_string();
              });
  if (fits) return value;
  return InvalidArgument(where, ": \"", name, "\" is ", value.dump(-1, ' ', false, json::error_handler_t::replace),
                         "; allowed: a list of ", numbers ? "numbers" : "texts");
}

// One option checked by its type. `fields` reads it with messages that name what is allowed.
StatusOr<json> CheckValue(const json& entry, JsonFields& fields, const std::string& where) {
  const std::string name = entry.at("name"), type = entry.at("type");
  if (type == "int") {
    constexpr double kMost = 9007199254740992.0;  // 2^53
    XH_ASSIGN_OR_RETURN(int64_t value, fields.Int(name, static_cast<int64_t>(Limit(entry, "min", -kMost)),
                                                  static_cast<int64_t>(Limit(entry, "max", kMost))));
    return json(value);
  }
  if (type == "real") {
    constexpr double kMost = std::numeric_limits<double>::max();
    XH_ASSIGN_OR_RETURN(double value, fields.Real(name, Limit(entry, "min", -kMost), Limit(entry, "max", kMost)));
    return json(value);
  }
  if (type == "bool") {
    XH_ASSIGN_OR_RETURN(bool value, fields.Bool(name));
    return json(value);
  }
  if (type == "text") {
    StatusOr<std::string> value = entry.contains("choices")
                                      ? fields.Choice(name, entry["choices"].get<std::vector<std::string>>())
                                      : fields.Text(name);
    if (!value.ok()) return value.status();
    return json(*value);
  }
  const json& value = *fields.Get(name);
  if (type == "reals" || type == "texts") return CheckList(value, type == "reals", name, where);
  if (type == "object" && !value.is_object()) return InvalidArgument(where, ": \"", name, "\" must be an object");
  if (type == "list" && !value.is_array()) return InvalidArgument(where, ": \"", name, "\" must be a list");
  return value;
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

StatusOr<json> CheckOptions(const std::string& schema, const json& given, const std::string& where) {
  json entries = json::array();
  if (!schema.empty()) {
    XH_ASSIGN_OR_RETURN(json parsed, ParseJson(schema, absl::StrCat(where, " (its options schema)")));
    if (!parsed.is_object() || !parsed.contains("options") || !parsed["options"].is_array()) {
      return Internal(where, ": the options schema has no list \"options\"");
    }
    entries = parsed["options"];
  }
  JsonFields fields(&given, where);
  json checked = json::object();
  for (const json& entry : entries) {
    if (!entry.is_object() || !entry.contains("name") || !entry.contains("type")) {
      return Internal(where, ": an entry of the options schema has no name or type");
    }
    const std::string name = entry["name"];
    if (fields.Has(name)) {
      XH_ASSIGN_OR_RETURN(checked[name], CheckValue(entry, fields, where));
    } else if (entry.contains("default")) {
      checked[name] = entry["default"];
    } else {
      return InvalidArgument(where, ": \"", name, "\" is missing (", entry.value("help", ""), ")");
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
