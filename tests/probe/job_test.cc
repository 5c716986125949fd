// The probe on a real teacher: what it finds, that it goes on where it stopped, and what it refuses.
#include <filesystem>

#include "core/json_fields.h"
#include "core/probe/plan.h"
#include "core/probe/probe_job.h"
#include "tests/checkpoint/scratch.h"
#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

using nlohmann::json;

const std::string kTeacher = std::string(XH_SOURCE_DIR) + "/examples/teacher-llama-3m";

json Recipe() {
  return {{"model", kTeacher}, {"window", 64},          {"kinds", {"recall"}},
          {"questions", 12},   {"lengths", {160, 256}}, {"dtype", "f32"}};
}

// The result; `pieces` counts the calls of Next, and stops after `most` of them.
StatusOr<json> RunProbe(const json& recipe, int64_t* pieces, int64_t most = INT64_MAX) {
  XH_ASSIGN_OR_RETURN(std::unique_ptr<Job> job, OpenProbeJob(CpuRuntime(), recipe));
  for (*pieces = 0; *pieces < most; ++*pieces) {
    json event;
    XH_ASSIGN_OR_RETURN(const bool done, job->Next(&event));
    EXPECT_EQ(event["kind"], "probe");
    if (done) return job->Result();
  }
  return Cancelled("stopped by the test");
}

TEST(Probe, NamesTheLayerThatRetrievesAndGoesOnWhereItStopped) {
  Scratch scratch;
  json recipe = Recipe();
  recipe["output"] = scratch / "plan.json";
  int64_t pieces = 0;
  auto result = RunProbe(recipe, &pieces);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ((*result)["plan"]["keep"], json::parse(R"([{"layer": 4, "heads": [0]}])"));
  EXPECT_GE((*result)["recovered"].get<double>(), 0.95);
  EXPECT_GE((*result)["chosen"]["recall"]["accuracy"].get<double>(),
            (*result)["all_cut"]["recall"]["accuracy"].get<double>() + 0.3);
  EXPECT_EQ((*result)["bytes_per_token"].get<int64_t>() * 6, (*result)["teacher_bytes_per_token"]);
  auto file = ReadJsonFile(scratch / "plan.json");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)["keep"], (*result)["plan"]["keep"]);
  EXPECT_TRUE(std::filesystem::exists(scratch / "plan.html"));

  recipe["output"] = scratch / "again.json";
  int64_t before = 0, after = 0;
  const int64_t first_phase = pieces;  // all but the last piece, which chooses
  EXPECT_THAT(RunProbe(recipe, &before, first_phase), FailsWith(XH_CANCELLED, "stopped"));
  auto again = RunProbe(recipe, &after);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, *result);
  EXPECT_LT(after, pieces);
  EXPECT_FALSE(std::filesystem::exists(scratch / "again.json.partial"));
}

TEST(Probe, KeepsNothingOrEverythingWhenTheBudgetSaysSo) {
  json recipe = Recipe();
  recipe["questions"] = 2;
  recipe["lengths"] = {160};
  int64_t pieces = 0;
  recipe["keep_heads"] = 0;
  EXPECT_EQ((*RunProbe(recipe, &pieces))["plan"]["keep"], json::array());
  recipe["keep_heads"] = 1000;
  EXPECT_EQ((*RunProbe(recipe, &pieces))["plan"]["keep"].size(), 6u);
}

TEST(Probe, RefusesWhatIsNotAllowed) {
  const struct {
    const char* change;
    xh_code code;
    const char* part;
  } cases[] = {
      {R"({"window": 0})", XH_INVALID_ARGUMENT, "\"window\" is 0"},
      {R"({"kinds": ["poem"]})", XH_INVALID_ARGUMENT, "\"kinds\" holds \"poem\"; allowed: recall, copy, induction"},
      {R"({"kinds": []})", XH_INVALID_ARGUMENT, "there are no questions"},
      {R"({"lengths": [5000]})", XH_INVALID_ARGUMENT, "\"lengths\" holds 5000; allowed: integers from 1 to 4096"},
      {R"({"lengths": [3]})", XH_INVALID_ARGUMENT, "no recall question fits in 3 tokens"},
      {R"({"keep_heads": 1, "bytes_per_token": 100})", XH_INVALID_ARGUMENT, "allowed: one budget"},
      {R"({"tasks": ["/nowhere.jsonl"]})", XH_NOT_FOUND, "/nowhere.jsonl"},
      {R"({"model": "/nowhere"})", XH_NOT_FOUND, "/nowhere"},
  };
  for (const auto& bad : cases) {
    json recipe = Recipe();
    recipe.update(json::parse(bad.change));
    EXPECT_THAT(OpenProbeJob(CpuRuntime(), recipe), FailsWith(bad.code, bad.part)) << bad.change;
  }
}

}  // namespace
}  // namespace xh::test
