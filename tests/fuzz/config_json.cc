// config.json and generation_config.json of a teacher, of an exported model, and the config inside a checkpoint.
#include "core/json_fields.h"
#include "core/model/source.h"
#include "tests/fuzz/support.h"

namespace xh::fuzz {
namespace {

void CheckRead(const StatusOr<ModelConfig>& config) {
  if (!Accepted(config)) return;
  Require(CheckConfig(*config, "config").ok(), "a config that was read breaks the rules");
  const auto stored = ConfigToJson(*config);
  const StatusOr<ModelConfig> again = ConfigFromJson(stored, "stored");
  Require(again.ok(), "a config that was read cannot be stored: " + again.status().ToString());
  Require(ConfigToJson(*again) == stored, "a config changes when it is stored");
  (void)ParametersOf(*config);
}

}  // namespace
}  // namespace xh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace xh;  // NOLINT: the library under test
  const std::string directory = fuzz::FreshDirectory();
  const auto files = fuzz::SplitFiles(data, size, "config.json");
  // A few bytes ask for thousands of layers: what that takes is bounded by limits.h.
  const fuzz::MemoryBound bound(48 << 20, 128, size);
  fuzz::CheckRead(ReadHuggingFaceConfig(files, "teacher"));
  for (const auto& [name, bytes] : files) {
    fuzz::Put(directory + "/" + name, bytes);
    const auto object = ParseJson(bytes, name);
    if (fuzz::Accepted(object)) fuzz::CheckRead(ConfigFromJson(*object, name));
  }
  fuzz::CheckMessage(OpenModelSource(directory).status());
  return 0;
}
