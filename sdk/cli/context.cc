#include "context.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>

#include "table.h"

namespace cli {
namespace {

// Warnings of the library; on a terminal they take the place of the progress line.
void PrintWarning(void*, xh_log_level level, const char* origin, const char* text) {
  if (level < XH_LOG_WARNING) return;
  const char* kind = level == XH_LOG_WARNING ? "warning" : "error";
  std::fprintf(stderr, "%sxhybrid: %s: %s: %s\n", isatty(STDERR_FILENO) != 0 ? "\r\033[K" : "", kind, origin, text);
}

// The entry of an object (made when missing) or of a list (which must have it).
json* Child(json* place, const std::string& key, const std::string& assignment) {
  if (place->is_null() || place->is_object()) return &(*place)[key];
  char* end = nullptr;
  const unsigned long long index = std::strtoull(key.c_str(), &end, 10);
  const bool number = !key.empty() && key[0] >= '0' && key[0] <= '9' && *end == '\0';
  if (!place->is_array() || !number || index >= place->size())
    throw UsageError("\"" + assignment + "\": \"" + key + "\" is not in " +
                     place->dump(-1, ' ', false, json::error_handler_t::replace));
  return &(*place)[static_cast<size_t>(index)];
}

}  // namespace

xh::Runtime& Context::runtime() {
  if (!runtime_) {
    xh::RuntimeConfig config;
    config.plugin_path = plugins;
    if (!quiet) config.log = PrintWarning;
    if (!device.empty()) config.options.emplace_back("device", device);
    config.options.emplace_back("threads", threads);
    runtime_.emplace(config);
  }
  return *runtime_;
}

void PrintJson(const json& value) { std::cout << value.dump(2, ' ', false, json::error_handler_t::replace) << "\n"; }

json ParseOrThrow(const std::string& text, const std::string& what) {
  json value = json::parse(text, nullptr, false);
  if (value.is_discarded()) throw UsageError(what + " is not JSON: " + text);
  return value;
}

void SetByPath(json* object, const std::string& assignment) {
  const size_t equals = assignment.find('=');
  if (equals == 0 || equals == std::string::npos)
    throw UsageError("\"" + assignment + "\" is not of the form key=value");
  const std::string text = assignment.substr(equals + 1);
  json value = json::parse(text, nullptr, false);
  if (value.is_discarded()) value = text;
  json* place = object;
  std::istringstream path(assignment.substr(0, equals));
  for (std::string key; std::getline(path, key, '.');) place = Child(place, key, assignment);
  *place = std::move(value);
}

CLI::Option* Repeatable(CLI::Option* option) { return option->allow_extra_args(false)->default_str(""); }

CLI::Validator AtLeast(int least) {
  const std::string bound = std::to_string(least);
  auto check = [least, bound](const std::string& text) {
    double value = 0;
    const bool fits = CLI::detail::lexical_cast(text, value) && value >= least;
    return fits ? std::string() : "is " + text + "; allowed: numbers from " + bound;
  };
  return CLI::Validator(check, ">=" + bound);
}

void AddOptionsFlag(CLI::App* command, Context& context, const std::string& kind) {
  auto list = [&context, kind] {
    context.command = [&context, kind] {
      const std::string schema = context.runtime().job_schema(kind);
      context.as_json ? PrintJson(ParseOrThrow(schema, "the schema")) : PrintSchema(schema);
      return 0;
    };
    throw EndOfParsing();
  };
  command->add_flag_callback("--options", list, "List every recipe field with its default, and end");
}

void PrintSchema(const std::string& schema_json) {
  Table table({"option", "type", "default", "meaning"});
  const json schema = ParseOrThrow(schema_json, "the schema");
  for (const json& entry : schema.value("options", json::array())) {
    std::string type = entry.value("type", "");
    if (entry.contains("choices")) {
      type.clear();
      for (const json& choice : entry["choices"]) type += (type.empty() ? "" : "|") + choice.get<std::string>();
    }
    const std::string missing = entry.contains("default") ? entry["default"].dump() : "(required)";
    table.AddRow({entry.value("name", ""), type, missing, entry.value("help", "")});
  }
  table.Print(std::cout);
}

}  // namespace cli
