#include "core/evaluate/evaluate_job.h"

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/evaluate/branch.h"
#include "core/evaluate/measures.h"
#include "core/evaluate/report_page.h"
#include "core/evaluate/retrieval_task.h"
#include "core/evaluate/tasks.h"
#include "core/options.h"
#include "core/plot.h"

using nlohmann::json;

namespace xh {

const char kEvaluateSchema[] = R"json({"options": [
  {"name": "models", "type": "texts", "help": "checkpoints or Hugging Face directories; the first is the teacher. PATH:window and PATH:mlstm take that branch of a hybrid student alone"},
  {"name": "names", "type": "texts", "default": [], "help": "what to call them in tables; default: their file names"},
  {"name": "tasks", "type": "texts", "help": "JSONL files: rows with \"messages\" (exact match) or \"text\" (perplexity); JSON files that describe retrieval questions to be made with the teacher's tokenizer"},
  {"name": "limit", "type": "int", "default": 0, "min": 0, "max": 1000000000, "help": "rows of each task; 0: all"},
  {"name": "max_tokens", "type": "int", "default": 96, "min": 1, "max": 1000000, "help": "longest answer"},
  {"name": "gates", "type": "bool", "default": false, "help": "the mean gate of every head that mixes two branches, on the first 8 rows of each task"},
  {"name": "output", "type": "text", "default": "", "help": "JSON report with every answer, NAME.json; plots go beside it as NAME.html; empty: none"}]})json";

namespace {

struct TaskScore {
  std::vector<SampleResult> samples;
  double accuracy = 0;    // kExactMatch
  double perplexity = 0;  // kPerplexity
};

constexpr size_t kGateRows = 8;

// A model's name in tables: its file's, and its directory's where every run calls its student the same.
std::string NameOf(const std::string& path) {
  const size_t branch = ParseModelName(path).path.size();
  if (branch < path.size()) return NameOf(path.substr(0, branch)) + path.substr(branch);
  std::filesystem::path normal = std::filesystem::path(path).lexically_normal();
  if (!normal.has_filename()) normal = normal.parent_path();  // "runs/seed/"
  const std::string directory = normal.parent_path().filename().string();
  const std::string name = normal.stem().string();
  return name == "student" && !directory.empty() ? directory : name;
}

// Before hours of work rather than after them. Leaves a file that is there as it is.
Status CheckWritable(const std::string& path) {
  if (path.empty() || std::ofstream(path, std::ios::app)) return absl::OkStatus();
  return IoError("the report ", path, " cannot be written");
}

class EvaluateJob : public Job {
 public:
  EvaluateJob(std::shared_ptr<Runtime> runtime, json recipe, std::vector<Task> tasks)
      : runtime_(std::move(runtime)), recipe_(std::move(recipe)), tasks_(std::move(tasks)) {
    for (const json& path : recipe_["models"]) paths_.push_back(path);
    for (const json& name : recipe_["names"]) names_.push_back(name);
    for (size_t i = names_.size(); i < paths_.size(); ++i) names_.push_back(NameOf(paths_[i]));
    for (const Task& task : tasks_) total_ += static_cast<int64_t>(task.samples.size() * paths_.size());
    scores_.assign(paths_.size(), std::vector<TaskScore>(tasks_.size()));
    about_.assign(paths_.size(), json::object());
  }

  StatusOr<bool> Next(json* event) override {
    if (cancelled()) return Cancelled("evaluation stopped after ", done_, " of ", total_, " samples; nothing is kept");
    if (session_ == nullptr) XH_RETURN_IF_ERROR(OpenModel());
    const Task& task = tasks_[task_];
    TaskScore& score = scores_[model_][task_];
    StatusOr<SampleResult> result =
        RunSample(*session_, task.kind, task.samples[score.samples.size()], recipe_["max_tokens"].get<int64_t>());
    if (!result.ok()) {
      return Annotate(result.status(),
                      absl::StrCat(names_[model_], " on ", task.name, ", row ", score.samples.size() + 1));
    }
    score.samples.push_back(*std::move(result));
    ++done_;
    *event = {{"kind", "evaluate"}, {"model", names_[model_]}, {"task", task.name},
              {"done", done_},      {"total", total_},         {"eta_seconds", SecondsLeft()}};
    if (score.samples.size() == task.samples.size()) {
      FinishTask(task, &score);
      (*event)[task.kind == TaskKind::kExactMatch ? "accuracy" : "perplexity"] =
          task.kind == TaskKind::kExactMatch ? score.accuracy : score.perplexity;
      Advance();
    }
    if (done_ < total_) return false;
    XH_RETURN_IF_ERROR(WriteReport());
    return true;
  }

  json Result() const override {
    json models = json::array();
    for (size_t m = 0; m < paths_.size(); ++m) models.push_back(ModelResult(m));
    return {{"teacher", names_[0]}, {"models", models}};
  }

 private:
  Status OpenModel() {
    const ModelName name = ParseModelName(paths_[model_]);
    XH_ASSIGN_OR_RETURN(std::shared_ptr<Model> model, Model::Load(runtime_, name.path));
    XH_RETURN_IF_ERROR(KeepBranch(name.branch, model.get()));
    about_[model_] = {{"state", model->Describe()["state"]}};
    if (recipe_["gates"]) {
      XH_ASSIGN_OR_RETURN(json gates, Gates(*model));
      if (!gates.is_null()) about_[model_]["gates"] = std::move(gates);
    }
    XH_ASSIGN_OR_RETURN(session_, Session::Open(std::move(model)));
    return absl::OkStatus();
  }

  StatusOr<json> Gates(const Model& model) const {
    std::vector<std::vector<int32_t>> texts;
    for (const Task& task : tasks_) {
      for (size_t i = 0; i < std::min(kGateRows, task.samples.size()); ++i) {
        XH_ASSIGN_OR_RETURN(texts.emplace_back(), PromptOf(model, task.kind, task.samples[i]));
      }
    }
    return GateMeans(model, texts);
  }

  // To the next task, and after the last to the next model: one model is in memory at a time.
  void Advance() {
    if (++task_ < tasks_.size()) return;
    task_ = 0;
    ++model_;
    session_.reset();
  }

  void FinishTask(const Task& task, TaskScore* score) {
    double correct = 0, log_likelihood = 0, tokens = 0;
    for (const SampleResult& sample : score->samples) {
      correct += sample.correct ? 1 : 0;
      log_likelihood += sample.log_likelihood;
      tokens += static_cast<double>(sample.tokens);
    }
    score->accuracy = correct / static_cast<double>(task.samples.size());
    score->perplexity = std::exp(-log_likelihood / std::max(1.0, tokens));
  }

  double SecondsLeft() const {
    const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    return elapsed / static_cast<double>(done_) * static_cast<double>(total_ - done_);
  }

  static std::vector<bool> Correct(const TaskScore& score) {
    std::vector<bool> correct;
    for (const SampleResult& sample : score.samples) correct.push_back(sample.correct);
    return correct;
  }

  json TaskResult(size_t m, size_t t) const {
    const Task& task = tasks_[t];
    const TaskScore& score = scores_[m][t];
    json out = {{"task", task.name}, {"samples", task.samples.size()}};
    if (task.kind == TaskKind::kPerplexity) {
      out["perplexity"] = score.perplexity;
      return out;
    }
    const Outcomes outcomes = CompareSamples(Correct(scores_[0][t]), Correct(score));
    out["accuracy"] = score.accuracy;
    out["standard_error"] = StandardError(score.accuracy, static_cast<int64_t>(task.samples.size()));
    out["recovery"] = Recovery({scores_[0][t].accuracy, score.accuracy});
    out["wins"] = outcomes.wins;
    out["ties"] = outcomes.ties;
    out["losses"] = outcomes.losses;
    if (!task.lengths.empty()) out["cells"] = Cells(task, score);
    return out;
  }

  // Accuracy at each length and depth of made questions.
  static json Cells(const Task& task, const TaskScore& score) {
    json cells = json::array();
    for (int64_t length : task.lengths) {
      for (double depth : task.depths) {
        int64_t correct = 0, samples = 0;
        for (size_t i = 0; i < score.samples.size(); ++i) {
          if (task.samples[i].length != length || task.samples[i].depth != depth) continue;
          ++samples;
          correct += score.samples[i].correct ? 1 : 0;
        }
        if (samples == 0) continue;
        cells.push_back({{"length", length},
                         {"depth", depth},
                         {"samples", samples},
                         {"accuracy", static_cast<double>(correct) / static_cast<double>(samples)}});
      }
    }
    return cells;
  }

  json ModelResult(size_t m) const {
    json out = {{"name", names_[m]}, {"path", paths_[m]}, {"tasks", json::array()}};
    out.update(about_[m]);
    std::vector<AccuracyPair> pairs;
    for (size_t t = 0; t < tasks_.size(); ++t) {
      out["tasks"].push_back(TaskResult(m, t));
      if (tasks_[t].kind == TaskKind::kExactMatch) pairs.push_back({scores_[0][t].accuracy, scores_[m][t].accuracy});
    }
    if (m == 0 || pairs.empty()) return out;
    out["c_0"] = WinAndTieRate(pairs, 0);
    out["alpha_star"] = CriticalAlpha(pairs);
    out["c_alpha"] = json::array();
    for (int percent = 0; percent <= 100; ++percent) out["c_alpha"].push_back(WinAndTieRate(pairs, percent / 100.0));
    return out;
  }

  // The result with every answer, for those who want to look.
  Status WriteReport() const {
    const std::string path = recipe_["output"];
    if (path.empty()) return absl::OkStatus();
    json report = Result();
    report["answers"] = json::array();
    for (size_t m = 0; m < paths_.size(); ++m) {
      for (size_t t = 0; t < tasks_.size(); ++t) {
        for (size_t i = 0; i < tasks_[t].samples.size(); ++i) {
          const SampleResult& sample = scores_[m][t].samples[i];
          if (tasks_[t].kind != TaskKind::kExactMatch) continue;
          report["answers"].push_back({{"model", names_[m]},
                                       {"task", tasks_[t].name},
                                       {"row", i + 1},
                                       {"expected", tasks_[t].samples[i].answer},
                                       {"answer", sample.answer},
                                       {"correct", sample.correct}});
        }
      }
    }
    std::ofstream file(path);
    file << report.dump(1, ' ', false, json::error_handler_t::replace) << "\n";
    file.close();
    if (!file) return IoError("the report ", path, " cannot be written");
    XH_ASSIGN_OR_RETURN(const std::string page, PageBeside(path));
    return WriteReportPage(page, report);
  }

  std::shared_ptr<Runtime> runtime_;
  json recipe_;
  std::vector<Task> tasks_;
  std::vector<std::string> paths_, names_;
  std::vector<std::vector<TaskScore>> scores_;  // [model][task]
  std::vector<json> about_;                     // of each model: state, gates
  std::unique_ptr<Session> session_;
  size_t model_ = 0, task_ = 0;
  int64_t done_ = 0, total_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

StatusOr<std::unique_ptr<Job>> OpenEvaluateJob(const std::shared_ptr<Runtime>& runtime, const json& recipe) {
  XH_ASSIGN_OR_RETURN(json checked, CheckOptions(kEvaluateSchema, recipe, "evaluate"));
  if (checked["models"].empty()) return InvalidArgument("evaluate: \"models\" is empty; name at least one");
  if (checked["tasks"].empty()) return InvalidArgument("evaluate: \"tasks\" is empty; name at least one");
  if (checked["names"].size() > checked["models"].size()) {
    return InvalidArgument("evaluate: \"names\" has ", checked["names"].size(), " entries for ",
                           checked["models"].size(), " models");
  }
  std::vector<Task> tasks;
  XH_RETURN_IF_ERROR(PageBeside(checked["output"]).status());
  XH_RETURN_IF_ERROR(CheckWritable(checked["output"]));
  std::shared_ptr<Model> teacher;  // loaded where questions are to be made
  for (const json& item : checked["tasks"]) {
    const std::string path = item;
    if (teacher == nullptr && IsRetrievalTask(path)) {
      XH_ASSIGN_OR_RETURN(teacher, Model::Load(runtime, ParseModelName(checked["models"][0]).path));
    }
    XH_ASSIGN_OR_RETURN(Task task, ReadTask(path, checked["limit"].get<int64_t>(), teacher.get()));
    tasks.push_back(std::move(task));
  }
  return std::unique_ptr<Job>(new EvaluateJob(runtime, std::move(checked), std::move(tasks)));
}

}  // namespace xh
