// Plans: written, read, refused, and turned into a student.
#include "core/probe/plan.h"

#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

using nlohmann::json;

const ModelConfig& Teacher() {
  static const ModelConfig config = LoadTeacher("hf_qwen2")->config;  // 3 layers, 2 key/value heads of 16
  return config;
}

Plan Sample() {
  Plan plan{8, 4, UniformMask(Teacher(), false)};
  plan.kept[1] = {true, true};
  plan.kept[2] = {false, true};
  return plan;
}

TEST(Plan, ComesBackAsItWas) {
  const json object = PlanToJson(Teacher(), Sample());
  auto plan = PlanFromJson(Teacher(), json::parse(object.dump()), "plan.json");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->window, 8);
  EXPECT_EQ(plan->sinks, 4);
  EXPECT_EQ(plan->kept, Sample().kept);
}

TEST(Plan, OfAnotherModelOrWithHeadsThatDoNotExistIsRefused) {
  const json good = PlanToJson(Teacher(), Sample());
  const struct {
    const char* change;
    xh_code code;
    const char* part;
  } cases[] = {
      {R"({"format": 2})", XH_INVALID_ARGUMENT, "\"format\" is 2"},
      {R"({"model": {"layers": 6}})", XH_INCOMPATIBLE, "\"layers\" is 6, this model's is 3"},
      {R"({"model": {"family": "llama"}})", XH_INCOMPATIBLE, "\"family\" is \"llama\""},
      {R"({"model": null})", XH_INVALID_ARGUMENT, "\"model\""},
      {R"({"window": 0})", XH_INVALID_ARGUMENT, "\"window\" is 0"},
      {R"({"keep": 4})", XH_INVALID_ARGUMENT, "\"keep\" is not a list"},
      {R"({"keep": [{"layer": 3, "heads": [0]}]})", XH_INVALID_ARGUMENT,
       "\"layer\" is 3; allowed: integer from 0 to 2"},
      {R"({"keep": [{"layer": 0, "heads": [2]}]})", XH_INVALID_ARGUMENT,
       "\"heads\" holds 2; allowed: integers from 0 to 1"},
      {R"({"keep": [{"layer": 0, "heads": [-1]}]})", XH_INVALID_ARGUMENT, "\"heads\" holds -1"},
  };
  for (const auto& bad : cases) {
    json object = good;
    object.merge_patch(json::parse(bad.change));
    EXPECT_THAT(PlanFromJson(Teacher(), object, "plan.json"), FailsWith(bad.code, bad.part)) << bad.change;
    EXPECT_THAT(PlanFromJson(Teacher(), object, "plan.json"), FailsWith(bad.code, "plan.json")) << bad.change;
  }
}

TEST(Plan, MakesAStudentThatKeepsItsHeads) {
  auto options = StudentOptions(Sample(), json::object(), "plan.json");
  ASSERT_TRUE(options.ok()) << options.status();
  auto student = StudentConfig(Teacher(), *options);
  ASSERT_TRUE(student.ok()) << student.status();
  EXPECT_EQ(student->mixers[0].windows, (std::vector<int32_t>{8, 8}));
  EXPECT_EQ(student->mixers[1].kind, "attention");
  EXPECT_EQ(student->mixers[2].kind, "hybrid");
  EXPECT_EQ(student->mixers[2].windows, (std::vector<int32_t>{8, 0}));
  EXPECT_EQ(student->mixers[2].sinks, 4);
}

TEST(Plan, StandsBelowWhatIsGiven) {
  auto options = StudentOptions(Sample(), json::parse(R"({"window": 16, "feature_map": "hedgehog"})"), "plan.json");
  ASSERT_TRUE(options.ok()) << options.status();
  auto student = StudentConfig(Teacher(), *options);
  ASSERT_TRUE(student.ok()) << student.status();
  EXPECT_EQ(student->mixers[2].windows, (std::vector<int32_t>{16, 0}));
  EXPECT_EQ(student->mixers[2].feature_map, "hedgehog");
  EXPECT_THAT(StudentOptions(Sample(), json::parse(R"({"layers": [{"layer": 1, "kind": "mlstm"}]})"), "plan.json"),
              FailsWith(XH_INVALID_ARGUMENT, "\"layers\" names layer 1, of which \"plan\" keeps heads"));
}

TEST(Plan, CountsTheBytesOfKeptHeads) {
  EXPECT_EQ(BytesPerToken(Teacher(), Sample().kept, XH_F32), 3 * 2 * 16 * 4);
  EXPECT_EQ(BytesPerToken(Teacher(), UniformMask(Teacher(), false), XH_F32), 0);
  const ModelConfig olmo3 = LoadTeacher("hf_olmo3")->config;  // three of four layers slide: they never grow
  EXPECT_EQ(BytesPerToken(olmo3, UniformMask(olmo3, true), XH_BF16), 2 * 2 * 16 * 2);
}

}  // namespace
}  // namespace xh::test
