#include "tests/conformance/program/options_schema.h"

#include <algorithm>
#include <set>

namespace xh::test {
namespace {

using nlohmann::json;

bool IsReals(const json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(), [](const json& x) { return x.is_number(); });
}

// Whether a value may stand for an option of this type.
bool Fits(const std::string& type, const json& value) {
  if (type == "text") return value.is_string();
  if (type == "int") return value.is_number_integer();
  if (type == "real") return value.is_number();
  if (type == "bool") return value.is_boolean();
  return type == "reals" && IsReals(value);
}

std::string CheckLimits(const json& entry, const std::string& type) {
  for (const char* limit : {"min", "max"}) {
    if (entry.contains(limit) && !entry[limit].is_number()) return std::string(limit) + " is no number";
  }
  if (entry.contains("choices") && (type != "text" || !entry["choices"].is_array() || entry["choices"].empty())) {
    return "choices is no list of texts";
  }
  if (!entry.contains("default")) return "";
  const json& value = entry["default"];
  if (!Fits(type, value)) return "the default is not of type " + type;
  if (value.is_number() && entry.contains("min") && value < entry["min"]) return "the default is below min";
  if (value.is_number() && entry.contains("max") && value > entry["max"]) return "the default is above max";
  if (entry.contains("choices") && std::count(entry["choices"].begin(), entry["choices"].end(), value) == 0) {
    return "the default is none of the choices";
  }
  return "";
}

// What is wrong with one entry, or nothing.
std::string CheckEntry(const json& entry) {
  if (!entry.is_object()) return "an entry is no object";
  for (const char* field : {"name", "type"}) {
    if (!entry.contains(field) || !entry[field].is_string()) return std::string("an entry has no ") + field;
  }
  const std::string name = entry["name"], type = entry["type"];
  static const std::set<std::string> types = {"text", "int", "real", "bool", "reals"};
  if (name.empty()) return "an option has an empty name";
  if (types.count(type) == 0) return "option \"" + name + "\" has the unknown type \"" + type + "\"";
  if (!entry.contains("help") || !entry["help"].is_string() || entry["help"].get<std::string>().empty()) {
    return "option \"" + name + "\" has no help";
  }
  const std::string wrong = CheckLimits(entry, type);
  return wrong.empty() ? "" : "option \"" + name + "\": " + wrong;
}

// A value for an option without a default.
json SomeValue(const json& entry) {
  const std::string type = entry["type"];
  if (type == "text") return entry.contains("choices") ? entry["choices"][0] : json("a");
  if (type == "bool") return false;
  if (type == "reals") return json::array();
  const json least = entry.value("min", json(0));
  return entry.value("max", least) < json(1) || least > json(1) ? least : json(1);
}

}  // namespace

bool ParseOptionsSchema(const std::string& text, std::vector<json>* entries, std::string* wrong) {
  if (text.empty()) return true;
  const json schema = json::parse(text, nullptr, false);
  if (schema.is_discarded() || !schema.is_object() || !schema.contains("options") || !schema["options"].is_array()) {
    *wrong = "not a JSON object with a list \"options\"";
    return false;
  }
  std::set<std::string> names;
  for (const json& entry : schema["options"]) {
    *wrong = CheckEntry(entry);
    if (!wrong->empty()) return false;
    if (!names.insert(entry["name"]).second) {
      *wrong = "two options have the name \"" + entry["name"].get<std::string>() + "\"";
      return false;
    }
    if (entries != nullptr) entries->push_back(entry);
  }
  return true;
}

OptionValues::OptionValues(const std::vector<json>& entries) {
  for (const json& entry : entries) {
    json value = entry.contains("default") ? entry["default"] : SomeValue(entry);
    if (entry["type"] == "real") value = value.get<double>();
    Set(entry["name"], value);
  }
}

xh_option& OptionValues::Find(const std::string& name) {
  for (xh_option& option : options_) {
    if (name == option.key) return option;
  }
  xh_option option = {};
  option.key = strings_.emplace_back(name).c_str();
  options_.push_back(option);
  return options_.back();
}

void OptionValues::SetText(const std::string& name, const std::string& value) {
  xh_option& option = Find(name);
  option = {option.key, strings_.emplace_back(value).c_str(), 0, 0.0, XH_OPTION_TEXT, 0};
}

void OptionValues::Set(const std::string& name, const json& value) {
  if (value.is_string()) return SetText(name, value);
  if (value.is_array()) {
    std::string text = value.dump();
    return SetText(name, text.substr(1, text.size() - 2));
  }
  xh_option& option = Find(name);
  option = {option.key, nullptr, 0, 0.0, XH_OPTION_REAL, 0};
  if (value.is_boolean()) {
    option.kind = XH_OPTION_BOOL;
    option.integer = value.get<bool>() ? 1 : 0;
  } else if (value.is_number_integer()) {
    option.kind = XH_OPTION_INT;
    option.integer = value;
  } else {
    option.real = value;
  }
}

}  // namespace xh::test
