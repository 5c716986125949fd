// Long work from the command line: flags over a recipe, progress, interruption and going on.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "program.h"
#include "tests/files.h"

namespace {

using cli_test::Outcome;
using cli_test::ReadFile;
using cli_test::RunInterrupted;
using cli_test::RunProgram;
using cli_test::Scratch;
using cli_test::TinyTeacher;
using cli_test::Words;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

// Token ids, so that no tokenizer is needed.
void WriteData(const std::string& path) {
  std::ofstream file(path);
  for (int row = 0; row < 8; ++row) {
    json ids = json::array();
    for (int i = 0; i < 64; ++i) ids.push_back(3 + (row * 7 + i * 5) % 150);
    file << json{{"ids", ids}}.dump() << "\n";
  }
}

// A run small enough for a test; `more` goes behind.
Words Distill(const Scratch& scratch, const Words& more) {
  WriteData(scratch / "data.jsonl");
  Words words = {"distill",
                 "--teacher",
                 TinyTeacher(),
                 "--output",
                 scratch / "run",
                 "--stage",
                 "align",
                 "--data",
                 scratch / "data.jsonl",
                 "--context",
                 "16",
                 "--batch",
                 "2",
                 "--window",
                 "4",
                 "--sinks",
                 "1",
                 "--save-every",
                 "0",
                 "--threads",
                 "1"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

json RecipeOf(const Scratch& scratch) { return json::parse(ReadFile(scratch / "run/recipe.json"), nullptr, false); }

TEST(Jobs, DistillTrainsAStudentThatCanBeInspected) {
  Scratch scratch;
  const Outcome outcome = RunProgram(Distill(scratch, {"--steps", "3", "--learning-rate", "0.01"}));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("plan: 32 tokens a step, 3 steps"));
  EXPECT_THAT(outcome.out, HasSubstr(scratch / "run/student.xhy"));
  const json described =
      json::parse(RunProgram({"inspect", scratch / "run/student.xhy", "--json"}).out, nullptr, false);
  ASSERT_TRUE(described.is_object());
  EXPECT_EQ(described["layers"][0]["kind"], "hybrid");
}

TEST(Jobs, FlagsGoOnTopOfTheRecipe) {
  Scratch scratch;
  WriteData(scratch / "data.jsonl");
  const json recipe = {{"teacher", TinyTeacher()},
                       {"output", scratch / "run"},
                       {"student", {{"window", 8}}},
                       {"stages", {{{"stage", "align"}, {"steps", 9}}}},
                       {"data", {{{"path", scratch / "data.jsonl"}}}},
                       {"context", 32},
                       {"batch", 4}};
  std::ofstream(scratch / "recipe.json") << recipe.dump();
  const Outcome outcome = RunProgram({"distill", "--recipe", scratch / "recipe.json", "--context", "16", "--steps", "1",
                                      "--set", "student.sinks=2", "--set", "stages.0.learning_rate=0.02", "--quiet"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  const json used = RecipeOf(scratch);
  ASSERT_TRUE(used.is_object());
  EXPECT_EQ(used["context"], 16);
  EXPECT_EQ(used["batch"], 4);
  EXPECT_EQ(used["student"], json({{"window", 8}, {"sinks", 2}}));
  EXPECT_EQ(used["stages"][0]["steps"], 1);
  EXPECT_EQ(used["stages"][0]["learning_rate"], 0.02);
}

TEST(Jobs, ADryRunShowsThePlanAndTrainsNothing) {
  Scratch scratch;
  const Outcome outcome = RunProgram(Distill(scratch, {"--steps", "5", "--dry-run"}));
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("align: 5 steps"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "run/student.xhy"));
}

TEST(Jobs, AnUnknownRecipeFieldIsRefusedByName) {
  Scratch scratch;
  const Outcome outcome = RunProgram(Distill(scratch, {"--steps", "5", "--set", "learnig_rate=1"}));
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.err, HasSubstr("learnig_rate"));
}

// The step in hand is finished and saved, and the same command goes on to the same student.
TEST(Jobs, AnInterruptedRunGoesOnAsIfItHadNeverStopped) {
  Scratch whole, cut;
  const Words end = {"--steps", "400", "--json"};
  ASSERT_EQ(RunProgram(Distill(whole, end)).status, 0);
  const Outcome interrupted = RunInterrupted(Distill(cut, end), "\"kind\":\"step\"");
  ASSERT_EQ(interrupted.status, 130) << interrupted.err;
  const std::string said = "cancelled after step ";
  const size_t at = interrupted.err.find(said);
  ASSERT_NE(at, std::string::npos) << interrupted.err;
  const std::string step = std::to_string(std::stoi(interrupted.err.substr(at + said.size())));
  const std::string saved = "run/step-" + std::string(8 - step.size(), '0') + step + ".xhy/manifest.xhy";
  EXPECT_TRUE(std::filesystem::exists(cut / saved)) << saved;
  const Outcome resumed = RunProgram(Distill(cut, end));
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_THAT(resumed.err, Not(HasSubstr("\"step\":" + step + ","))) << "a step was made again";
  EXPECT_TRUE(test_files::ReadTree(cut / "run/student.xhy") == test_files::ReadTree(whole / "run/student.xhy"));
}

TEST(Jobs, AnInterruptedRunSaysSoAndCanGoOn) {
  Scratch scratch;
  const Outcome interrupted = RunInterrupted(Distill(scratch, {"--steps", "1000000", "--json"}), "\"kind\":\"step\"");
  EXPECT_EQ(interrupted.status, 130) << interrupted.err;
  EXPECT_THAT(interrupted.err, HasSubstr("cancelled after step"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "run/student.xhy"));
  const Outcome refused = RunProgram(Distill(scratch, {"--steps", "1000000", "--no-resume", "--quiet"}));
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.err, HasSubstr(scratch / "run"));
  const Outcome resumed = RunInterrupted(Distill(scratch, {"--steps", "1000000"}), "going on from step");
  EXPECT_EQ(resumed.status, 130) << resumed.err;
}

}  // namespace
