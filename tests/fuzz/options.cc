// Option schemas, options as JSON, and options as they cross the C interface: a line "KIND KEY=VALUE" each.
#include "core/options.h"

#include <cstdlib>
#include <sstream>

#include "core/job.h"
#include "core/json_fields.h"
#include "tests/fuzz/support.h"

namespace xh::fuzz {
namespace {

using nlohmann::json;

void Check(const std::string& schema, const json& given) {
  const auto checked = CheckOptions(schema, given, "options");
  if (!Accepted(checked)) return;
  const OptionList list(*checked);
  CheckMessage(OptionsToJson(list.data(), list.size()).status());
}

struct Lines {
  std::vector<std::string> keys, texts;
  std::vector<xh_option> options;

  explicit Lines(const std::string& text) {
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) {
      const size_t equals = std::min(line.find('='), line.size());
      keys.push_back(line.size() > 2 && equals > 2 ? line.substr(2, equals - 2) : "");
      texts.push_back(equals < line.size() ? line.substr(equals + 1) : "");
      xh_option option{};
      option.kind = line.empty() ? 0 : line[0] - '0';
      option.integer = std::strtoll(texts.back().c_str(), nullptr, 10);
      option.real = std::strtod(texts.back().c_str(), nullptr);
      options.push_back(option);
    }
    for (size_t i = 0; i < options.size(); ++i) {
      options[i].key = keys[i].c_str();
      options[i].text = texts[i].c_str();
    }
  }
};

}  // namespace
}  // namespace xh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace xh;  // NOLINT: the library under test
  const fuzz::MemoryBound bound(1 << 20, 256, size);
  auto files = fuzz::SplitFiles(data, size, "schema");
  fuzz::CheckMessage(CheckSchema(files["schema"], "schema"));
  const fuzz::Lines lines(files["list"]);
  const auto listed = OptionsToJson(lines.options.data(), static_cast<int64_t>(lines.options.size()), {"models"});
  const auto given = ParseJson(files["given"], "given");
  const JobKind& kind = JobKinds()[size % JobKinds().size()];  // all of them would take long
  for (const auto* object : {&listed, &given}) {
    if (!fuzz::Accepted(*object)) continue;
    fuzz::Check(files["schema"], **object);
    fuzz::Check(kind.options_schema, **object);
    const auto checked = CheckOptions(kind.options_schema, **object, kind.name);
    fuzz::Require(!checked.ok() || CheckOptions(kind.options_schema, *checked, "again").ok(),
                  "options with their defaults are refused");
  }
  return 0;
}
