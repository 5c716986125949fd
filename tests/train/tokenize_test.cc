// Rows of ids that the job "tokenize" writes are read as the data themselves are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "core/train/dataset.h"
#include "core/train/tokenize_job.h"
#include "tests/model/model_fixture.h"
#include "tests/train/tiny.h"

namespace xh::test {
namespace {

using nlohmann::json;
using tiny::TempDir;

const std::string kExamples = std::string(XH_SOURCE_DIR) + "/examples";

StatusOr<json> RunTokenize(const json& recipe) {
  XH_ASSIGN_OR_RETURN(std::unique_ptr<Job> job, OpenTokenizeJob(CpuRuntime(), recipe));
  for (json event;;) {
    XH_ASSIGN_OR_RETURN(const bool done, job->Next(&event));
    EXPECT_LE(event["done"], event["total"]);
    if (done) return job->Result();
  }
}

class Tokenize : public ::testing::Test {
 protected:
  Tokenize() {
    auto model = Model::Load(CpuRuntime(), kExamples + "/teacher-llama-3m");
    EXPECT_TRUE(model.ok()) << model.status();
    model_ = *model;
    options_.config = &model_->config;
    options_.tokenizer = model_->tokenizer.get();
  }
  json Recipe(const std::string& loss_on) const {
    return {{"model", kExamples + "/teacher-llama-3m"},
            {"data", {kExamples + "/data/chat.test.jsonl"}},
            {"output", dir_ / "ids.jsonl"},
            {"loss_on", loss_on}};
  }

  std::shared_ptr<const Model> model_;
  DocumentOptions options_;
  TempDir dir_;
};

TEST_F(Tokenize, WritesRowsThatAreReadAsTheDataAre) {
  for (const char* loss_on : {"all", "assistant"}) {
    json recipe = Recipe(loss_on);
    recipe["replace"] = true;
    auto result = RunTokenize(recipe);
    ASSERT_TRUE(result.ok()) << result.status();
    options_.loss_on_assistant = loss_on == std::string("assistant");
    auto direct = ReadDocuments({kExamples + "/data/chat.test.jsonl", 1, "auto"}, options_);
    auto stored = ReadDocuments({dir_ / "ids.jsonl", 1, "auto"}, options_);
    ASSERT_TRUE(direct.ok() && stored.ok()) << direct.status() << stored.status();
    EXPECT_EQ(stored->tokens, direct->tokens) << loss_on;
    EXPECT_EQ(stored->starts, direct->starts) << loss_on;
    EXPECT_EQ((*result)["documents"], direct->count());
    EXPECT_EQ((*result)["tokens"], direct->tokens.size());
  }
}

TEST_F(Tokenize, CountsInADryRunAndReplacesOnlyOnRequest) {
  json recipe = Recipe("all");
  recipe["dry_run"] = true;
  auto result = RunTokenize(recipe);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ((*result)["documents"], 256);
  EXPECT_FALSE(std::filesystem::exists(dir_ / "ids.jsonl"));
  recipe["dry_run"] = false;
  ASSERT_TRUE(RunTokenize(recipe).ok());
  EXPECT_THAT(RunTokenize(recipe), FailsWith(XH_INVALID_STATE, "exists"));
}

TEST_F(Tokenize, StopsAtTheBadRowThatIsOneTooManyInItsFile) {
  const std::string good = R"({"text": "good"})";
  tiny::WriteText(dir_ / "a.jsonl", good + "\n{}\n{}\n" + good + "\n");
  tiny::WriteText(dir_ / "b.jsonl", "{}\n" + good + "\n");
  json recipe = Recipe("all");
  recipe["data"] = {dir_ / "a.jsonl", dir_ / "b.jsonl"};
  recipe["max_bad_rows"] = 2;
  auto result = RunTokenize(recipe);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ((*result)["documents"], 3);
  EXPECT_EQ((*result)["skipped_rows"], 3);
  recipe["max_bad_rows"] = 1;
  recipe["replace"] = true;
  EXPECT_THAT(RunTokenize(recipe), FailsWith(XH_INVALID_ARGUMENT, "a.jsonl:3: "));
}

TEST_F(Tokenize, ThatIsCancelledLeavesNothing) {
  auto job = OpenTokenizeJob(CpuRuntime(), Recipe("all"));
  ASSERT_TRUE(job.ok()) << job.status();
  (*job)->Cancel();
  json event;
  EXPECT_THAT((*job)->Next(&event), FailsWith(XH_CANCELLED, "nothing was written"));
  EXPECT_TRUE(std::filesystem::is_empty(dir_ / ""));
}

TEST_F(Tokenize, RefusesWhatIsNotAllowed) {
  const struct {
    const char* change;
    xh_code code;
    const char* part;
  } cases[] = {{R"({"output": ""})", XH_INVALID_ARGUMENT, "\"output\" is missing"},
               {R"({"data": []})", XH_INVALID_ARGUMENT, "\"data\" is empty"},
               {R"({"data": ["/nowhere.jsonl"]})", XH_NOT_FOUND, "/nowhere.jsonl"},
               {R"({"model": "/nowhere"})", XH_NOT_FOUND, "/nowhere"},
               {R"({"output": "/nowhere/ids.jsonl"})", XH_IO, "cannot be written"}};
  for (const auto& bad : cases) {
    json recipe = Recipe("all");
    recipe.update(json::parse(bad.change));
    EXPECT_THAT(RunTokenize(recipe), FailsWith(bad.code, bad.part)) << bad.change;
  }
}

TEST_F(Tokenize, RefusesRangesThatAreNone) {
  options_.loss_on_assistant = true;
  for (const char* masked : {"7", "[[0]]", "[[1, 1]]", "[[0, 4]]", "[[-1, 2]]", "[[1, 3], [2, 3]]", "[[\"a\", 2]]"}) {
    tiny::WriteText(dir_ / "rows.jsonl", absl::StrCat(R"({"ids": [5, 6, 7], "masked": )", masked, "}\n"));
    EXPECT_THAT(ReadDocuments({dir_ / "rows.jsonl", 1, "auto"}, options_), FailsWith(XH_INVALID_ARGUMENT, "\"masked\""))
        << masked;
  }
}

}  // namespace
}  // namespace xh::test
