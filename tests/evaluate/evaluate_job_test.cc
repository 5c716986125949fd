#include "core/evaluate/evaluate_job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "core/evaluate/tasks.h"
#include "core/model/tap.h"

namespace xh {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const std::string kTeacher = std::string(XH_SOURCE_DIR) + "/examples/teacher-llama-3m";

std::string Data(const std::string& name) { return std::string(XH_SOURCE_DIR) + "/examples/data/" + name; }

const std::shared_ptr<Runtime>& TestRuntime() {
  static const auto runtime = Runtime::Open({XH_TEST_PLUGINS, "cpu", 1, nullptr}).value();
  return runtime;
}

// Runs a recipe to its end; the events too.
StatusOr<json> Evaluate(const json& recipe, std::vector<json>* events = nullptr) {
  XH_ASSIGN_OR_RETURN(std::unique_ptr<Job> job, OpenEvaluateJob(TestRuntime(), recipe));
  for (bool finished = false; !finished;) {
    json event;
    XH_ASSIGN_OR_RETURN(finished, job->Next(&event));
    if (events != nullptr) events->push_back(event);
  }
  return job->Result();
}

TEST(EvaluateJob, AModelAgainstItselfTiesEverywhere) {
  std::vector<json> events;
  StatusOr<json> result = Evaluate({{"models", {kTeacher, kTeacher}},
                                    {"names", {"teacher", "again"}},
                                    {"tasks", {Data("math.test.jsonl"), Data("chat.test.jsonl")}},
                                    {"limit", 6}},
                                   &events);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(events.size(), 24u);  // one a sample, model and task
  EXPECT_EQ(events.front()["done"], 1);
  EXPECT_EQ(events.back()["done"], events.back()["total"]);
  EXPECT_EQ((*result)["teacher"], "teacher");
  const json& teacher = (*result)["models"][0];
  const json& again = (*result)["models"][1];
  EXPECT_FALSE(teacher.contains("c_0"));
  EXPECT_EQ(again["name"], "again");
  EXPECT_EQ(again["c_0"], 1.0);
  EXPECT_EQ(again["alpha_star"], 0.0);
  EXPECT_EQ(again["c_alpha"].size(), 101u);
  double right = 0;
  for (size_t t = 0; t < 2; ++t) {
    const json& task = again["tasks"][t];
    EXPECT_EQ(task["accuracy"], teacher["tasks"][t]["accuracy"]);
    EXPECT_EQ(task["recovery"], 1.0);
    EXPECT_EQ(task["ties"], 6);
    EXPECT_EQ(task["wins"], 0);
    EXPECT_EQ(task["losses"], 0);
    right += task["accuracy"].get<double>();
  }
  EXPECT_GT(right, 0.5) << "a trained teacher answers some of its own domains' questions";
}

TEST(EvaluateJob, AnswersDoNotDependOnWhatWasAskedBefore) {
  auto model = Model::Load(TestRuntime(), kTeacher).value();
  const Task task = ReadTask(Data("math.test.jsonl"), 4).value();
  auto used = Session::Open(model).value();
  for (const Sample& sample : task.samples) {
    auto fresh = Session::Open(model).value();
    const SampleResult from_used = RunSample(*used, task.kind, sample, 48).value();
    const SampleResult from_fresh = RunSample(*fresh, task.kind, sample, 48).value();
    EXPECT_EQ(from_used.answer, from_fresh.answer);
    EXPECT_EQ(from_used.tokens, from_fresh.tokens);
  }
}

TEST(EvaluateJob, PerplexityIsOfTheMeanTokenOfTheTask) {
  const std::string task = Data("stories.test.jsonl");
  StatusOr<json> result = Evaluate({{"models", {kTeacher}}, {"tasks", {task}}, {"limit", 2}});
  ASSERT_TRUE(result.ok()) << result.status();
  auto model = Model::Load(TestRuntime(), kTeacher).value();
  double sum = 0, count = 0;
  const Task rows = ReadTask(task, 2).value();
  for (const Sample& sample : rows.samples) {
    const std::vector<int32_t> ids = model->tokenizer->Encode(sample.text, true).value();
    ASSERT_LE(static_cast<int64_t>(ids.size()), model->config.context);
    const auto scores = ScoreTokens(*model, ids.data(), static_cast<int64_t>(ids.size())).value();
    for (float score : scores) sum += score;
    count += static_cast<double>(scores.size());
  }
  const double perplexity = (*result)["models"][0]["tasks"][0]["perplexity"];
  EXPECT_NEAR(perplexity, std::exp(-sum / count), 1e-9 * perplexity);
  // By a plain forward in double precision: 30.5834 over 147 tokens, 46.6942 over 317.
  EXPECT_NEAR(perplexity, std::exp((147 * std::log(30.5834) + 317 * std::log(46.6942)) / 464), 1e-3 * perplexity);
}

TEST(EvaluateJob, AnAnswerEndsWhereTheContextDoes) {
  auto model = Model::Load(TestRuntime(), kTeacher).value();
  const Task task = ReadTask(Data("math.test.jsonl"), 2).value();
  const Sample& long_answer = task.samples[1];
  const std::string prompt = model->tokenizer->RenderChat(long_answer.prompt, true).value();
  const auto read = static_cast<int64_t>(model->tokenizer->Encode(prompt, true).value().size());
  auto session = Session::Open(model, read + 2).value();
  const StatusOr<SampleResult> result = RunSample(*session, task.kind, long_answer, 48);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->tokens, 2);
  EXPECT_FALSE(result->correct);
}

TEST(EvaluateJob, TheReportHoldsEveryAnswer) {
  const std::string path = testing::TempDir() + "xhybrid_report.json";
  StatusOr<json> result = Evaluate({{"models", {kTeacher}},
                                    {"tasks", {Data("chat.test.jsonl")}},
                                    {"limit", 2},
                                    {"max_tokens", 8},
                                    {"output", path}});
  ASSERT_TRUE(result.ok()) << result.status();
  const std::string plots = testing::TempDir() + "xhybrid_report.html";
  EXPECT_TRUE(std::ifstream(plots).good());
  std::remove(plots.c_str());
  std::ifstream file(path);
  const json report = json::parse(std::string(std::istreambuf_iterator<char>(file), {}), nullptr, false);
  std::remove(path.c_str());
  ASSERT_TRUE(report.is_object());
  EXPECT_EQ(report["models"], (*result)["models"]);
  ASSERT_EQ(report["answers"].size(), 2u);
  const Task task = ReadTask(Data("chat.test.jsonl"), 2).value();
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(report["answers"][i]["row"], i + 1);
    EXPECT_EQ(report["answers"][i]["expected"], task.samples[i].answer);
    EXPECT_TRUE(report["answers"][i]["answer"].is_string());
  }
}

TEST(EvaluateJob, MadeQuestionsAreScoredByLengthAndDepth) {
  const std::string task = testing::TempDir() + "xhybrid_lengths.json";
  std::ofstream(task) << R"({"task": "recall", "lengths": [64, 96], "depths": [0, 1], "samples": 2})";
  StatusOr<json> result = Evaluate({{"models", {kTeacher}}, {"tasks", {task}}, {"max_tokens", 6}});
  std::remove(task.c_str());
  ASSERT_TRUE(result.ok()) << result.status();
  const json& scored = (*result)["models"][0]["tasks"][0];
  ASSERT_EQ(scored["cells"].size(), 4u);
  double sum = 0;
  for (const json& cell : scored["cells"]) {
    EXPECT_EQ(cell["samples"], 2);
    sum += cell["accuracy"].get<double>();
  }
  EXPECT_DOUBLE_EQ(sum / 4, scored["accuracy"].get<double>());
  EXPECT_GT(sum / 4, 0.5) << "the teacher recalls at these lengths";
  EXPECT_EQ((*result)["models"][0]["state"]["bytes_per_token"], 1536);
}

TEST(EvaluateJob, ABranchOfAModelWithoutAnyIsRefused) {
  const std::string task = Data("chat.test.jsonl");
  StatusOr<json> result = Evaluate({{"models", {kTeacher + ":window"}}, {"tasks", {task}}, {"limit", 1}});
  EXPECT_EQ(CodeOf(result.status()), XH_INVALID_ARGUMENT);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("no layer that mixes"));
}

TEST(EvaluateJob, AStudentIsCalledAfterItsRun) {
  const std::string task = Data("chat.test.jsonl");
  for (const auto& [path, name] : std::vector<std::pair<std::string, std::string>>{
           {"runs/math/student.xhy", "math"}, {"models/seed.xhy/", "seed"}, {"runs/a/student.xhy:mlstm", "a:mlstm"}}) {
    StatusOr<std::unique_ptr<Job>> job = OpenEvaluateJob(TestRuntime(), {{"models", {path}}, {"tasks", {task}}});
    ASSERT_TRUE(job.ok()) << job.status();
    EXPECT_EQ((*job)->Result()["teacher"], name);
  }
}

TEST(EvaluateJob, ACancelledRunSaysSo) {
  auto job = OpenEvaluateJob(TestRuntime(), {{"models", {kTeacher}}, {"tasks", {Data("chat.test.jsonl")}}}).value();
  job->Cancel();
  json event;
  EXPECT_EQ(CodeOf(job->Next(&event).status()), XH_CANCELLED);
}

TEST(EvaluateJob, BadRecipesNameTheField) {
  const std::string task = Data("math.test.jsonl");
  const std::vector<std::pair<json, std::string>> cases = {
      {{{"tasks", {task}}}, "\"models\" is missing"},
      {{{"models", {kTeacher}}}, "\"tasks\" is missing"},
      {{{"models", json::array()}, {"tasks", {task}}}, "\"models\" is empty"},
      {{{"models", {kTeacher}}, {"tasks", json::array()}}, "\"tasks\" is empty"},
      {{{"models", {kTeacher}}, {"tasks", {task}}, {"names", {"a", "b"}}}, "\"names\" has 2 entries"},
      {{{"models", {kTeacher}}, {"tasks", {task}}, {"limit", -1}}, "\"limit\" is -1"},
      {{{"models", {kTeacher}}, {"tasks", {task}}, {"max_tokens", 0}}, "\"max_tokens\" is 0"},
      {{{"models", {kTeacher}}, {"tasks", {task}}, {"models_", 1}}, "models_"}};
  for (const auto& [recipe, message] : cases) {
    const Status status = OpenEvaluateJob(TestRuntime(), recipe).status();
    EXPECT_EQ(CodeOf(status), XH_INVALID_ARGUMENT) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(EvaluateJob, AReportThatCannotBeWrittenIsRefusedAtOnce) {
  const Status status = OpenEvaluateJob(TestRuntime(), {{"models", {kTeacher}},
                                                        {"tasks", {Data("math.test.jsonl")}},
                                                        {"output", "/nowhere/report.json"}})
                            .status();
  EXPECT_EQ(CodeOf(status), XH_IO);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/report.json"));
}

TEST(EvaluateJob, AReportWhereItsPageGoesIsRefused) {
  const Status status =
      OpenEvaluateJob(TestRuntime(),
                      {{"models", {kTeacher}}, {"tasks", {Data("math.test.jsonl")}}, {"output", "report.html"}})
          .status();
  EXPECT_EQ(CodeOf(status), XH_INVALID_ARGUMENT);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"output\" is \"report.html\""));
}

TEST(EvaluateJob, ATeacherWithoutTokenizerIsRefusedByName) {
  const std::string bare = std::string(XH_TEST_DATA) + "/teachers/hf_llama";
  StatusOr<json> result = Evaluate({{"models", {bare}}, {"tasks", {Data("math.test.jsonl")}}, {"limit", 1}});
  EXPECT_EQ(CodeOf(result.status()), XH_INVALID_STATE) << result.status();
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("tokenizer"));
}

}  // namespace
}  // namespace xh
