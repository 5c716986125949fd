// What training is told: stages' declarations and recipes, right and wrong.
#include "core/train/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/train/declaration.h"
#include "tests/train/tiny.h"

namespace xh {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using tiny::TempDir;

std::string Message(const Status& status) { return std::string(status.message()); }

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

// A stage that counts how often it was restored: its state is that number.
int restored = 0;
xh_error* TestSave(xh_stage*, void* sink, xh_error* (*write)(void* sink, const void* bytes, int64_t size)) {
  return write(sink, &restored, sizeof(restored));
}
xh_error* TestRestore(xh_stage*, const void* bytes, int64_t size) {
  restored = size == sizeof(restored) ? *static_cast<const int*>(bytes) + 1 : -1;
  return nullptr;
}

TEST(Declaration, AStagesStateSurvivesAsBytes) {
  xh_stage_table table = kTestTable;
  table.save = TestSave;
  table.restore = TestRestore;
  StageRecipe recipe;
  recipe.name = "test";
  recipe.table = &table;
  recipe.plugin_options = json::object();
  auto stage = Stage::Open(recipe);
  ASSERT_TRUE(stage.ok()) << stage.status();
  restored = 41;
  const std::string bytes = *(*stage)->Save();
  EXPECT_EQ(bytes.size(), sizeof(int));
  ASSERT_TRUE((*stage)->Restore(bytes).ok());
  EXPECT_EQ(restored, 42);
  table.restore = nullptr;
  EXPECT_THAT(Message(Stage::Open(recipe).status()), HasSubstr("only one of save and restore"));
  table.save = nullptr;
  auto stateless = Stage::Open(recipe);
  EXPECT_EQ(*(*stateless)->Save(), "");
  EXPECT_TRUE((*stateless)->Restore("").ok());
  EXPECT_FALSE((*stateless)->Restore("x").ok());
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
