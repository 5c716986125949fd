// Recipes of every kind of job, up to where they would open a model: the files that they name do not exist.
#include "core/train/recipe.h"

#include "core/job.h"
#include "core/json_fields.h"
#include "tests/fuzz/support.h"

namespace xh::fuzz {
namespace {

using nlohmann::json;

// Nothing outside the working directory, which is empty, may be read or written.
bool LeavesDirectory(const json& value) {
  if (value.is_string()) return value.get_ref<const std::string&>().find_first_of("/.") != std::string::npos;
  if (!value.is_structured()) return false;
  for (const json& item : value) {
    if (LeavesDirectory(item)) return true;
  }
  return false;
}

void OpenJobs(const json& recipe) {
  for (const JobKind& kind : JobKinds()) {
    if (std::string(kind.name) == "bench") continue;  // names no file, and computes
    CheckMessage(kind.open(Plugins(), recipe).status());
  }
}

}  // namespace
}  // namespace xh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace xh;  // NOLINT: the library under test
  fuzz::Plugins();     // not part of what an input takes
  const std::string directory = fuzz::FreshDirectory();
  const fuzz::MemoryBound bound(2 << 20, 128, size);
  const auto given = ParseJson(std::string(reinterpret_cast<const char*>(data), size), "recipe.json");
  if (!fuzz::Accepted(given) || fuzz::LeavesDirectory(*given)) return 0;
  const auto recipe = ReadRecipe(fuzz::Plugins()->registry(), *given);
  if (fuzz::Accepted(recipe)) {
    fuzz::Require(FirstDifference(recipe->Describe(), recipe->Describe()).empty(), "a recipe differs from itself");
  }
  fuzz::OpenJobs(*given);
  return 0;
}
