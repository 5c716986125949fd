// The parts of training that need no device: schedules, documents, batches, declarations, recipes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "core/train/batches.h"
#include "core/train/dataset.h"
#include "core/train/declaration.h"
#include "core/train/recipe.h"
#include "core/train/schedule.h"
#include "tests/train/tiny.h"

namespace xh {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using tiny::TempDir;

std::string Message(const Status& status) { return std::string(status.message()); }

// ---- schedule ----

TEST(Schedule, RisesToThePeakAndEndsAtTheLastRate) {
  const Schedule cosine{Decay::kCosine, 1.0, 0.1, 4, 14};
  EXPECT_DOUBLE_EQ(LearningRate(cosine, 0), 0.25);
  EXPECT_DOUBLE_EQ(LearningRate(cosine, 3), 1.0);
  EXPECT_DOUBLE_EQ(LearningRate(cosine, 4), 1.0);
  EXPECT_NEAR(LearningRate(cosine, 13), 0.1, 1e-12);
  const Schedule linear{Decay::kLinear, 1.0, 0.0, 0, 11};
  EXPECT_DOUBLE_EQ(LearningRate(linear, 5), 0.5);
  EXPECT_DOUBLE_EQ(LearningRate(linear, 10), 0.0);
  const Schedule constant{Decay::kConstant, 0.5, 0.0, 2, 100};
  EXPECT_DOUBLE_EQ(LearningRate(constant, 0), 0.25);
  EXPECT_DOUBLE_EQ(LearningRate(constant, 99), 0.5);
}

TEST(Schedule, AWarmupLongerThanTheStageStillReachesThePeak) {
  const Schedule schedule{Decay::kCosine, 1.0, 0.1, 100, 10};
  EXPECT_DOUBLE_EQ(LearningRate(schedule, 9), 1.0);
}

// ---- documents ----

class DocumentsTest : public ::testing::Test {
 protected:
  DocumentsTest() : config_(tiny::Config()) {
    options_.config = &config_;
    options_.tokenizer_problem = "there are no tokenizer files";
    options_.warn = [this](const std::string& text) { warnings_.push_back(text); };
  }
  StatusOr<Documents> Read(const std::string& text, const std::string& kind = "auto") {
    tiny::WriteText(dir_ / "rows.jsonl", text);
    return ReadDocuments({dir_ / "rows.jsonl", 1, kind}, options_);
  }

  TempDir dir_;
  ModelConfig config_;
  DocumentOptions options_;
  std::vector<std::string> warnings_;
};

TEST_F(DocumentsTest, ReadsRowsWithBlankLinesCarriageReturnsAndAByteOrderMark) {
  auto read = Read("\xEF\xBB\xBF{\"ids\": [1, 5]}\r\n\n  \n{\"ids\": [6]}");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_THAT(read->tokens, ElementsAre(1, 5, 6));
  EXPECT_THAT(read->starts, ElementsAre(0, 2, 3));
  EXPECT_EQ(read->sha256.size(), 64u);
}

TEST_F(DocumentsTest, AMalformedRowIsAnErrorThatNamesFileAndLine) {
  struct Case {
    const char* row;
    const char* why;
  };
  const Case cases[] = {{"{\"ids\": [1,", "JSON"},
                        {"[1, 2]", "not a JSON object"},
                        {"{\"ids\": [1, 64]}", "token id 64"},
                        {"{\"ids\": [-1]}", "token id -1"},
                        {"{\"ids\": [99999999999]}", "token id -1"},
                        {"{\"ids\": [1.5]}", "integers"},
                        {"{\"ids\": []}", "empty"},
                        {"{\"ids\": 7}", "list"},
                        {"{\"messages\": []}", "no tokenizer"},
                        {"{\"text\": \"a\"}", "no tokenizer"},
                        {"{\"words\": \"a\"}", "\"text\" is missing"},
                        {"{\"text\": \"\xFF\"}", "JSON"}};
  for (const Case& c : cases) {
    auto read = Read(std::string("{\"ids\": [3]}\n") + c.row + "\n");
    ASSERT_FALSE(read.ok()) << c.row;
    EXPECT_THAT(Message(read.status()), HasSubstr("rows.jsonl:2: ")) << c.row;
    EXPECT_THAT(Message(read.status()), HasSubstr(c.why)) << c.row;
  }
}

TEST_F(DocumentsTest, AFewMalformedRowsAreSkippedWithAWarningEach) {
  options_.max_bad_rows = 2;
  auto read = Read("{\"ids\": [3]}\nnonsense\n{\"ids\": [99]}\n{\"ids\": [4]}\n");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->count(), 2);
  EXPECT_EQ(read->skipped_rows, 2);
  ASSERT_EQ(warnings_.size(), 2u);
  EXPECT_THAT(warnings_[1], HasSubstr("rows.jsonl:3: "));
  EXPECT_FALSE(Read("x\nx\nx\n{\"ids\": [3]}\n").ok());
}

TEST_F(DocumentsTest, AFileWithoutADocumentAndAMissingFileAreErrors) {
  EXPECT_THAT(Message(Read("\n\n").status()), HasSubstr("holds no document"));
  EXPECT_EQ(CodeOf(ReadDocuments({dir_ / "absent.jsonl", 1, "auto"}, options_).status()), XH_NOT_FOUND);
}

class ChatTest : public DocumentsTest {
 protected:
  void SetUp() override {
    auto runtime = tiny::OpenRuntime();
    ASSERT_TRUE(runtime.ok()) << runtime.status();
    runtime_ = *runtime;
    std::map<std::string, std::string> files;
    for (const char* name : {"tokenizer.model", "tokenizer_config.json"}) {
      files[name] = tiny::ReadText(std::string(XH_TEST_DATA) + "/text/" + name);
    }
    auto tokenizer = Tokenizer::Open(runtime_->registry(), files);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *tokenizer;
    config_ = tiny::Config(4096);
    options_.tokenizer = tokenizer_.get();
  }
  // Text of the tokens that count as targets.
  std::string TargetsOf(const Documents& documents) {
    std::vector<int32_t> targets;
    for (int32_t token : documents.tokens) {
      if (token >= 0) targets.push_back(token);
    }
    return *tokenizer_->Decode(targets);
  }

  std::shared_ptr<Runtime> runtime_;
  std::shared_ptr<Tokenizer> tokenizer_;
};

constexpr char kChat[] =
    R"({"messages": [{"role": "user", "content": "What is 2 + 3?"}, {"role": "assistant", "content": "It is 5."},
                    {"role": "user", "content": "And 4 + 4?"}, {"role": "assistant", "content": "It is 8."}]})";

TEST_F(ChatTest, ChatRowsAreRenderedAndOpenWithTheBeginToken) {
  std::string row = kChat;
  row.erase(std::remove(row.begin(), row.end(), '\n'), row.end());
  auto read = Read(row);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->tokens.front(), 1);
  EXPECT_THAT(*tokenizer_->Decode(read->tokens), HasSubstr("What is 2 + 3?"));
  EXPECT_TRUE(std::all_of(read->tokens.begin(), read->tokens.end(), [](int32_t id) { return id >= 0; }));
}

TEST_F(ChatTest, LossOnAssistantCountsTheRepliesAlone) {
  std::string row = kChat;
  row.erase(std::remove(row.begin(), row.end(), '\n'), row.end());
  auto all = Read(row);
  options_.loss_on_assistant = true;
  auto read = Read(row);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->tokens.size(), all->tokens.size());
  for (size_t i = 0; i < read->tokens.size(); ++i) {
    EXPECT_EQ(read->tokens[i] < 0 ? ~read->tokens[i] : read->tokens[i], all->tokens[i]);
  }
  const std::string targets = TargetsOf(*read);
  EXPECT_THAT(targets, HasSubstr("It is 5."));
  EXPECT_THAT(targets, HasSubstr("It is 8."));
  EXPECT_EQ(targets.find("What"), std::string::npos);
  EXPECT_EQ(targets.find("And"), std::string::npos);
}

TEST_F(ChatTest, ATextRowCountsWholeAndIsClosedWhereTheTokenizerDoesNotMarkIt) {
  options_.loss_on_assistant = true;
  auto read = Read("{\"text\": \"Once upon a time.\"}");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->tokens.front(), 1);
  config_.bos_id = -1;
  auto closed = Read("{\"text\": \"Once upon a time.\"}");
  EXPECT_EQ(closed->tokens.back(), 2);
  EXPECT_EQ(closed->tokens.size(), read->tokens.size() + 1);
}

// ---- batches ----

// `count` documents of `length` tokens; token values tell source, document and place apart.
Documents Numbered(int32_t first, int64_t count, int64_t length) {
  Documents documents;
  documents.path = absl::StrCat("source", first);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t t = 0; t < length; ++t) documents.tokens.push_back(static_cast<int32_t>(first + i * 100 + t));
    documents.starts.push_back(static_cast<int64_t>(documents.tokens.size()));
  }
  return documents;
}

BatchStream TwoSources(uint64_t seed) {
  std::vector<Documents> sources = {Numbered(100000, 20, 7), Numbered(200000, 30, 13)};
  return *BatchStream::Open(std::move(sources), {3, 1}, 16, seed);
}

std::vector<int32_t> Stream(BatchStream& stream, int64_t rows) {
  std::vector<int32_t> ids(static_cast<size_t>(rows * 16)), targets(ids.size());
  for (int64_t i = 0; i < rows; ++i) stream.NextRow(ids.data() + i * 16, targets.data() + i * 16);
  for (size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(targets[i], ids[i + 1]);
  return ids;
}

TEST(Batches, TheSameSeedGivesTheSameRowsAndAnotherSeedOthers) {
  BatchStream a = TwoSources(1), b = TwoSources(1), c = TwoSources(2);
  const std::vector<int32_t> rows = Stream(a, 50);
  EXPECT_EQ(rows, Stream(b, 50));
  EXPECT_NE(rows, Stream(c, 50));
}

TEST(Batches, DocumentsFollowOneAnotherWholeAndTakeTurnsByWeight) {
  BatchStream stream = TwoSources(5);
  const std::vector<int32_t> ids = Stream(stream, 200);
  int64_t first_source = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    first_source += ids[i] < 200000 ? 1 : 0;
    const bool ends = ids[i] % 100 == (ids[i] < 200000 ? 6 : 12);
    const bool last = i + 1 == ids.size();
    EXPECT_TRUE(last || ids[i + 1] % 100 == (ends ? 0 : ids[i] % 100 + 1)) << i;
  }
  EXPECT_NEAR(static_cast<double>(first_source) / static_cast<double>(ids.size()), 0.75, 0.01);
}

TEST(Batches, EveryPassHoldsEveryDocumentOnceInAnotherOrder) {
  BatchStream stream = *BatchStream::Open({Numbered(0, 16, 4)}, {1}, 16, 9);
  std::vector<int32_t> first, second;
  for (int32_t id : Stream(stream, 4)) first.push_back(id);
  for (int32_t id : Stream(stream, 4)) second.push_back(id);
  EXPECT_NE(first, second);
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  EXPECT_EQ(first, second);
  EXPECT_EQ(std::set<int32_t>(first.begin(), first.end()).size(), 64u);
}

TEST(Batches, APositionGivesTheRestOfTheStreamExactly) {
  for (int64_t rows : {0, 1, 7, 23, 60}) {
    BatchStream whole = TwoSources(4);
    Stream(whole, rows);
    const json position = json::parse(whole.Position().dump());
    BatchStream resumed = TwoSources(4);
    ASSERT_TRUE(resumed.Restore(position).ok());
    EXPECT_EQ(Stream(resumed, 40), Stream(whole, 40)) << rows;
  }
}

TEST(Batches, AForeignPositionIsRefused) {
  BatchStream stream = TwoSources(4);
  json position = stream.Position();
  position["sources"].erase(1);
  EXPECT_FALSE(stream.Restore(position).ok());
  position = stream.Position();
  position["end"] = 1000000;
  EXPECT_FALSE(stream.Restore(position).ok());
  EXPECT_FALSE(stream.Restore(json()).ok());
}

TEST(Batches, TokensThatDoNotCountAreInputsAndIgnoredTargets) {
  Documents documents;
  documents.tokens = {~5, ~6, 7, 8, ~9};
  documents.starts = {0, 5};
  BatchStream stream = *BatchStream::Open({documents}, {1}, 4, 0);
  int32_t ids[4], targets[4];
  stream.NextRow(ids, targets);
  EXPECT_THAT(ids, ElementsAre(5, 6, 7, 8));
  EXPECT_THAT(targets, ElementsAre(kIgnoredTarget, 7, 8, kIgnoredTarget));
}

TEST(Batches, DataThatDoesNotFillARowIsRefused) {
  auto stream = BatchStream::Open({Numbered(0, 4, 4)}, {1}, 16, 0);
  EXPECT_THAT(Message(stream.status()), HasSubstr("holds 16 tokens; allowed: at least 17"));
}

// ---- declarations ----

TEST(Declaration, PatternsMatchAnyTextAtAStar) {
  EXPECT_TRUE(MatchesPattern("*", "a.b"));
  EXPECT_TRUE(MatchesPattern("*.xlstm.*", "model.layers.0.self_attn.xlstm.input_gate.weight"));
  EXPECT_TRUE(MatchesPattern("a*b*c", "a-b-b-c"));
  EXPECT_TRUE(MatchesPattern("", ""));
  EXPECT_FALSE(MatchesPattern("*.xlstm.*", "model.norm.weight"));
  EXPECT_FALSE(MatchesPattern("a*b", "a-b-c"));
  EXPECT_FALSE(MatchesPattern("a", "ab"));
}

TEST(Declaration, TheLastMatchingPatternDecides) {
  StageDeclaration declaration;
  declaration.trainable = {{"*", false}, {"*.weight", true}, {"*norm*", false}};
  EXPECT_TRUE(declaration.Trains("q.weight"));
  EXPECT_FALSE(declaration.Trains("norm.weight"));
  EXPECT_FALSE(declaration.Trains("q.bias"));
}

// Declares a step by `body` and gives the error it ends with.
xh_error* (*declare_body)(const xh_stage_host*, xh_step*) = nullptr;
xh_error* TestDeclare(xh_stage*, const xh_stage_host* host, xh_step* step) { return declare_body(host, step); }
xh_error* TestOpen(const xh_option*, int64_t, xh_stage** out) {
  static int object;
  *out = reinterpret_cast<xh_stage*>(&object);
  return nullptr;
}
void TestClose(xh_stage*) {}
constexpr xh_stage_table kTestTable = {
    XH_SIZED(xh_stage_table), 0, "", TestOpen, TestDeclare, nullptr, nullptr, TestClose};

StatusOr<StageDeclaration> DeclareWith(xh_error* (*body)(const xh_stage_host*, xh_step*)) {
  declare_body = body;
  StageRecipe recipe;
  recipe.name = "test";
  recipe.table = &kTestTable;
  recipe.plugin_options = json::object();
  auto stage = Stage::Open(recipe);
  if (!stage.ok()) return stage.status();
  return (*stage)->Declare();
}

TEST(Declaration, AStageThatDeclaresNonsenseGetsAnErrorThatNamesIt) {
  struct Case {
    const char* why;
    xh_error* (*body)(const xh_stage_host*, xh_step*);
  };
  const Case cases[] = {
      {"minimizes no loss", [](const xh_stage_host*, xh_step*) -> xh_error* { return nullptr; }},
      {"tap \"hidden\" is unknown",
       [](const xh_stage_host* host, xh_step* step) {
         xh_value* value;
         return host->forward(step, XH_TEACHER, "hidden", &value);
       }},
      {"model 7 is unknown",
       [](const xh_stage_host* host, xh_step* step) {
         xh_value* value;
         return host->forward(step, 7, "logits", &value);
       }},
      {"alone give no \"logits\"",
       [](const xh_stage_host* host, xh_step* step) {
         xh_value* value;
         return host->forward(step, XH_STUDENT_MIXERS, "logits", &value);
       }},
      {"different taps",
       [](const xh_stage_host* host, xh_step* step) {
         xh_value *teacher, *student, *loss;
         xh_error_free(host->forward(step, XH_TEACHER, "logits", &teacher));
         xh_error_free(host->forward(step, XH_STUDENT, "mixer.out", &student));
         return host->loss(step, XH_OP_ALIGN_LOSS, nullptr, 0, 0, student, teacher, &loss);
       }},
      {"in that order",
       [](const xh_stage_host* host, xh_step* step) {
         xh_value *teacher, *student, *loss;
         xh_error_free(host->forward(step, XH_TEACHER, "mixer.out", &teacher));
         xh_error_free(host->forward(step, XH_STUDENT, "mixer.out", &student));
         return host->loss(step, XH_OP_ALIGN_LOSS, nullptr, 0, 0, teacher, student, &loss);
       }},
      {"does not compare",
       [](const xh_stage_host* host, xh_step* step) {
         xh_value *teacher, *student, *loss;
         xh_error_free(host->forward(step, XH_TEACHER, "logits", &teacher));
         xh_error_free(host->forward(step, XH_STUDENT, "logits", &student));
         return host->loss(step, XH_OP_ALIGN_LOSS, nullptr, 0, 0, student, teacher, &loss);
       }},
      {"needs xh_distill_params",
       [](const xh_stage_host* host, xh_step* step) {
         xh_value *teacher, *student, *loss;
         xh_error_free(host->forward(step, XH_TEACHER, "logits", &teacher));
         xh_error_free(host->forward(step, XH_STUDENT, "logits", &student));
         return host->loss(step, XH_OP_DISTILL_LOSS, nullptr, 0, 8, student, teacher, &loss);
       }},
      {"no loss of this step",
       [](const xh_stage_host* host, xh_step* step) {
         xh_value* teacher;
         xh_error_free(host->forward(step, XH_TEACHER, "logits", &teacher));
         return host->minimize(step, teacher);
       }},
  };
  for (const Case& c : cases) {
    auto declared = DeclareWith(c.body);
    ASSERT_FALSE(declared.ok()) << c.why;
    EXPECT_THAT(Message(declared.status()), HasSubstr(c.why));
    EXPECT_THAT(Message(declared.status()), HasSubstr("stage.test"));
  }
}

// ---- recipes ----

class RecipeTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto runtime = tiny::OpenRuntime();
    ASSERT_TRUE(runtime.ok()) << runtime.status();
    runtime_ = new std::shared_ptr<Runtime>(*runtime);
  }
  static void TearDownTestSuite() { delete runtime_; }
  StatusOr<Recipe> Read(const json& given) { return ReadRecipe((*runtime_)->registry(), given); }
  json Given() { return tiny::RecipeIn(dir_, "out"); }

  TempDir dir_;
  static std::shared_ptr<Runtime>* runtime_;
};
std::shared_ptr<Runtime>* RecipeTest::runtime_ = nullptr;

TEST_F(RecipeTest, AStagesOwnDefaultsComeBeforeTheTrainers) {
  json given = Given();
  given["stages"] = {{{"stage", "align"}, {"steps", 150}}, {{"stage", "distill"}, {"steps", 250}}};
  auto recipe = Read(given);
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const StageRecipe& align = recipe->stages[0];
  EXPECT_EQ(align.schedule.decay, Decay::kCosine);
  EXPECT_DOUBLE_EQ(align.schedule.peak, 1e-2);
  EXPECT_DOUBLE_EQ(align.schedule.last, 1e-5);
  EXPECT_EQ(align.schedule.warmup, 20);
  EXPECT_DOUBLE_EQ(align.clip, 0);
  EXPECT_DOUBLE_EQ(align.adamw.beta2, 0.95);
  const StageRecipe& distill = recipe->stages[1];
  EXPECT_EQ(distill.schedule.decay, Decay::kConstant);
  EXPECT_DOUBLE_EQ(distill.schedule.peak, 1e-5);
  EXPECT_DOUBLE_EQ(distill.clip, 1);
  EXPECT_DOUBLE_EQ(distill.adamw.weight_decay, 0.1);
  EXPECT_EQ(distill.plugin_options["top_k"], 256);
  EXPECT_FALSE(distill.plugin_options.contains("steps"));
}

TEST_F(RecipeTest, ShortFormsAreUnderstood) {
  json given = Given();
  given["data"] = "a.jsonl";
  given["student"] = "seed.xhy";
  given.erase("micro_batch");
  auto recipe = Read(given);
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->data[0].path, "a.jsonl");
  EXPECT_EQ(recipe->start, "seed.xhy");
  EXPECT_EQ(recipe->micro_batch, 4);
  given["student"] = "{\"window\": 16}";
  EXPECT_EQ(Read(given)->student_options, json({{"window", 16}}));
}

TEST_F(RecipeTest, WhatIsNotAllowedIsRefusedByName) {
  struct Case {
    const char* patch;  // merged into a valid recipe
    const char* why;
  };
  const Case cases[] = {
      {R"({"teacher": null})", "\"teacher\" is missing"},
      {R"({"output": null})", "\"output\" is missing"},
      {R"({"output": ""})", "\"output\" is empty"},
      {R"({"stages": null})", "\"stages\" is missing"},
      {R"({"stages": []})", "\"stages\" is empty"},
      {R"({"stages": [{"steps": 3}]})", "stages[0]: \"stage\" is missing"},
      {R"({"stages": ["align"]})", "\"steps\" is missing"},
      {R"({"stages": [{"stage": "align", "steps": 0}]})", "\"steps\" is 0"},
      {R"({"stages": [{"stage": "align", "steps": 2, "gamma": 1}]})", "\"gamma\""},
      {R"({"stages": [{"stage": "align", "steps": 2, "schedule": "square"}]})", "\"square\""},
      {R"({"stages": [{"stage": "distill", "steps": 2, "kl": "other"}]})", "\"other\""},
      {R"({"stages": [{"stage": "distill", "steps": 2, "beta1": 1}]})", "\"beta1\" is 1"},
      {R"({"stages": [{"stage": "polish", "steps": 2}]})", "polish"},
      {R"({"data": []})", "\"data\" is empty"},
      {R"({"data": [3]})", "\"data\" holds 3"},
      {R"({"data": [{"weight": 1}]})", "data[0]: \"path\" is missing"},
      {R"({"data": [{"path": "a", "weight": -1}]})", "\"weight\" is -1"},
      {R"({"data": [{"path": "a", "kind": "csv"}]})", "\"csv\""},
      {R"({"data": [{"path": "a", "wieght": 1}]})", "\"wieght\""},
      {R"({"context": 1})", "\"context\" is 1"},
      {R"({"batch": 0})", "\"batch\" is 0"},
      {R"({"micro_batch": 3})", "a divisor of \"batch\", 4"},
      {R"({"dtype": "f16"})", "\"f16\""},
      {R"({"seed": -1})", "\"seed\" is -1"},
      {R"({"keep": 0})", "\"keep\" is 0"},
      {R"({"resume": "yes"})", "\"yes\""},
      {R"({"student": 7})", "\"student\" is 7"},
      {R"({"learning_rate": 1})", "\"learning_rate\""},
  };
  for (const Case& c : cases) {
    json given = Given();
    given.merge_patch(json::parse(c.patch));
    auto recipe = Read(given);
    ASSERT_FALSE(recipe.ok()) << c.patch;
    EXPECT_THAT(Message(recipe.status()), HasSubstr(c.why)) << c.patch;
  }
  EXPECT_FALSE(Read(json::array()).ok());
}

TEST_F(RecipeTest, AMissingStagePluginNamesWhatThereIsAndWhereItWasSought) {
  json given = Given();
  given["stages"] = {{{"stage", "polish"}, {"steps", 1}}};
  auto recipe = Read(given);
  EXPECT_EQ(CodeOf(recipe.status()), XH_NOT_FOUND);
  EXPECT_THAT(Message(recipe.status()), HasSubstr("align"));
  EXPECT_THAT(Message(recipe.status()), HasSubstr(XH_TEST_PLUGINS));
}

TEST_F(RecipeTest, TheFirstDifferenceOfTwoRecipesIsNamed) {
  const json before = Read(Given())->Describe();
  EXPECT_EQ(FirstDifference(before, before), "");
  json given = Given();
  given["stages"][1]["learning_rate"] = 0.5;
  EXPECT_THAT(FirstDifference(Read(given)->Describe(), before), HasSubstr("\"stages[1].learning_rate\" is 0.5, was"));
  given = Given();
  given["stages"].erase(1);
  EXPECT_THAT(FirstDifference(Read(given)->Describe(), before), HasSubstr("\"stages\" has 1 entries, had 2"));
  given = Given();
  given["student"]["sinks"] = 2;
  EXPECT_THAT(FirstDifference(Read(given)->Describe(), before), HasSubstr("\"student.sinks\" is 2, was not there"));
  given = Given();
  given["save_every"] = 50;
  EXPECT_EQ(FirstDifference(Read(given)->Describe(), before), "");
}

}  // namespace
}  // namespace xh
