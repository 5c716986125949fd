// A plan of a probe, and the options of a student that it becomes.
#include "core/probe/plan.h"

#include "core/json_fields.h"
#include "core/model/source.h"
#include "core/model/student.h"
#include "tests/fuzz/support.h"

namespace xh::fuzz {
namespace {

const ModelConfig& Teacher() {
  static const ModelConfig teacher = [] {
    const std::string path = std::string(XH_TEST_DATA) + "/teachers/hf_llama/config.json";
    return *ReadHuggingFaceConfig({{"config.json", ReadAll(path)}}, "teacher");
  }();
  return teacher;
}

void MakeStudent(const Plan& plan, const nlohmann::json& given) {
  const auto options = StudentOptions(plan, given, "plan");
  if (!Accepted(options)) return;
  const auto student = StudentConfig(Teacher(), *options);
  if (Accepted(student)) Require(CheckConfig(*student, "student").ok(), "a student breaks the rules");
}

}  // namespace
}  // namespace xh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace xh;  // NOLINT: the library under test
  fuzz::Teacher();
  const fuzz::MemoryBound bound(1 << 20, 256, size);
  auto files = fuzz::SplitFiles(data, size, "plan.json");
  const auto object = ParseJson(files["plan.json"], "plan.json");
  if (!fuzz::Accepted(object)) return 0;
  const auto plan = PlanFromJson(fuzz::Teacher(), *object, "plan.json");
  if (!fuzz::Accepted(plan)) return 0;
  const auto again = PlanFromJson(fuzz::Teacher(), PlanToJson(fuzz::Teacher(), *plan), "again");
  fuzz::Require(again.ok() && again->kept == plan->kept, "a plan changes when it is stored");
  const auto given = ParseJson(files["student.json"], "student.json");
  fuzz::MakeStudent(*plan, given.ok() ? *given : nlohmann::json());
  return 0;
}
