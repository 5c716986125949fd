#include "core/evaluate/retrieval_task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <set>

#include "core/evaluate/codes.h"
#include "core/runtime.h"

namespace xh {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const Model& Teacher() {
  static const auto runtime = Runtime::Open({XH_TEST_PLUGINS, "cpu", 1, nullptr}).value();
  static const auto model = Model::Load(runtime, std::string(XH_SOURCE_DIR) + "/examples/teacher-llama-3m").value();
  return *model;
}

class RetrievalTaskTest : public testing::Test {
 protected:
  ~RetrievalTaskTest() override {
    std::remove(path_.c_str());
    std::remove(text_.c_str());
  }

  StatusOr<Task> Make(const json& description, int64_t limit = 0) {
    std::ofstream(path_) << description.dump();
    return ReadTask(path_, limit, &Teacher());
  }
  StatusOr<Task> MakeNeedle(json description, const std::string& rows) {
    std::ofstream(text_) << rows;
    description["task"] = "needle";
    description["text"] = "xhybrid_haystack.jsonl";
    return Make(description);
  }
  void ExpectError(const json& description, const std::string& what) {
    const Status status = Make(description).status();
    EXPECT_EQ(CodeOf(status), XH_INVALID_ARGUMENT) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
  }

  std::string path_ = testing::TempDir() + "xhybrid_by_length.json";
  std::string text_ = testing::TempDir() + "xhybrid_haystack.jsonl";
};

int64_t TokensOf(const Sample& sample) {
  return static_cast<int64_t>(PromptOf(Teacher(), TaskKind::kExactMatch, sample).value().size());
}

// How much of the other text stands before the sentence with the answer, from 0 to 1.
double PlaceOf(const Sample& sample) {
  const std::string& text = sample.prompt[0].content;
  const size_t question = text.rfind("What is the code of ");
  const std::string name = text.substr(question + 20, text.size() - question - 21);
  const std::string sentence = "The code of " + name + " is " + sample.answer + ". ";
  const size_t at = text.find(sentence);
  EXPECT_NE(at, std::string::npos) << text;
  return static_cast<double>(at) / static_cast<double>(question - sentence.size());
}

TEST_F(RetrievalTaskTest, HasSamplesOfEveryLengthAndDepth) {
  const Task task = Make({{"task", "recall"}, {"lengths", {64, 128}}, {"depths", {0, 0.5, 1}}, {"samples", 2}}).value();
  EXPECT_EQ(task.name, "xhybrid_by_length");
  EXPECT_EQ(task.kind, TaskKind::kExactMatch);
  ASSERT_EQ(task.samples.size(), 12u);
  for (int64_t length : task.lengths) {
    for (double depth : task.depths) {
      const auto in_cell = [&](const Sample& s) { return s.length == length && s.depth == depth; };
      EXPECT_EQ(std::count_if(task.samples.begin(), task.samples.end(), in_cell), 2) << length << " " << depth;
    }
  }
}

TEST_F(RetrievalTaskTest, QuestionsFillTheirLength) {
  const Task task = Make({{"task", "recall"}, {"lengths", {64, 300}}, {"samples", 2}}).value();
  for (const Sample& sample : task.samples) {
    EXPECT_LE(TokensOf(sample), sample.length);
    EXPECT_GT(TokensOf(sample), sample.length - 20) << "one more code is about 15 tokens";
  }
}

TEST_F(RetrievalTaskTest, TheAnswerStandsAtItsDepth) {
  const json description = {{"lengths", {300}}, {"depths", {0, 0.5, 1}}, {"samples", 2}, {"task", "recall"}};
  const Task task = Make(description).value();
  for (const Sample& sample : task.samples) EXPECT_NEAR(PlaceOf(sample), sample.depth, 0.1);
}

TEST_F(RetrievalTaskTest, ANeedleLiesInRealText) {
  const std::string rows = "{\"text\": \"A cat sat. It slept.\"}\n{\"text\": \"Rain fell! Who came?\"}\n";
  const Task task = MakeNeedle({{"lengths", {100}}, {"depths", {0, 0.5, 1}}, {"samples", 3}}, rows).value();
  ASSERT_EQ(task.samples.size(), 9u);
  for (const Sample& sample : task.samples) {
    EXPECT_NEAR(PlaceOf(sample), sample.depth, 0.1);
    EXPECT_THAT(sample.prompt[0].content, HasSubstr("It slept. "));
    EXPECT_LE(TokensOf(sample), 100);
  }
}

TEST_F(RetrievalTaskTest, ASeedGivesItsQuestions) {
  json description = {{"task", "recall"}, {"lengths", {100}}, {"samples", 2}, {"seed", 3}};
  const Task one = Make(description).value(), same = Make(description).value();
  description["seed"] = 4;
  const Task other = Make(description).value();
  EXPECT_EQ(one.samples[0].prompt[0].content, same.samples[0].prompt[0].content);
  EXPECT_NE(one.samples[0].prompt[0].content, other.samples[0].prompt[0].content);
}

TEST_F(RetrievalTaskTest, ALimitTakesTheFirstWhichCoverAllLengths) {
  const Task task = Make({{"task", "recall"}, {"lengths", {64, 128, 256}}, {"samples", 9}}, 3).value();
  ASSERT_EQ(task.samples.size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(task.samples[i].length, task.lengths[i]);
}

TEST_F(RetrievalTaskTest, BadDescriptionsNameTheField) {
  ExpectError({{"task", "summary"}, {"lengths", {64}}}, "\"task\" is \"summary\"; allowed: \"recall\", \"needle\"");
  ExpectError({{"task", "recall"}}, "\"lengths\" must be a list");
  ExpectError({{"task", "recall"}, {"lengths", json::array()}}, "\"lengths\" must be a list");
  ExpectError({{"task", "recall"}, {"lengths", {64, 9}}}, "\"lengths\" holds 9; allowed: integers from 16");
  ExpectError({{"task", "recall"}, {"lengths", {4096}}}, "\"lengths\" holds 4096; allowed: integers from 16 to 4080");
  ExpectError({{"task", "recall"}, {"lengths", {64}}, {"depths", {1.5}}}, "\"depths\" holds 1.5; allowed: numbers");
  ExpectError({{"task", "recall"}, {"lengths", {64}}, {"samples", 0}}, "\"samples\" is 0");
  ExpectError({{"task", "recall"}, {"lengths", {16}}}, "no question fits in 16 tokens");
  ExpectError({{"task", "recall"}, {"lengths", {64}}, {"depth", {1}}}, "depth");
  ExpectError({{"task", "needle"}, {"lengths", {64}}}, "\"text\" is missing");
}

TEST_F(RetrievalTaskTest, AHaystackHasRowsOfText) {
  const json description = {{"lengths", {64}}, {"samples", 1}};
  const std::string question =
      R"({"messages": [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "1"}]})";
  EXPECT_THAT(std::string(MakeNeedle(description, question).status().message()), HasSubstr("allowed: rows with"));
  EXPECT_THAT(std::string(MakeNeedle(description, "{\"text\": \"no end\"}").status().message()),
              HasSubstr("has no sentence"));
  std::remove(text_.c_str());
  EXPECT_EQ(CodeOf(Make({{"task", "needle"}, {"text", "nowhere.jsonl"}, {"lengths", {64}}}).status()), XH_NOT_FOUND);
}

TEST_F(RetrievalTaskTest, WithoutAModelItIsRefused) {
  std::ofstream(path_) << "{}";
  const Status status = ReadTask(path_, 0).status();
  EXPECT_EQ(CodeOf(status), XH_INVALID_ARGUMENT);
  EXPECT_THAT(std::string(status.message()), HasSubstr("allowed here: rows of JSONL"));
}

TEST(DrawCodes, NamesDiffer) {
  Draw draw(1);
  std::set<std::string> names;
  for (const Code& code : DrawCodes(400, draw)) EXPECT_TRUE(names.insert(code.name).second) << code.name;
}

}  // namespace
}  // namespace xh
