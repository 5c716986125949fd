#include "core/probe/probe_job.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <utility>

#include "core/checkpoint/dtype.h"
#include "core/json_fields.h"
#include "core/model/limits.h"
#include "core/options.h"
#include "core/plot.h"
#include "core/probe/heat_map.h"
#include "core/probe/plan.h"
#include "core/probe/selection.h"

namespace xh {

const char kProbeSchema[] = R"json({"options": [
  {"name": "model", "type": "text", "help": "checkpoint or Hugging Face directory of the teacher"},
  {"name": "output", "type": "text", "default": "",
   "help": "plan to write, NAME.json; a heat map goes beside it as NAME.html; empty: none"},
  {"name": "window", "type": "int", "default": 512, "min": 1, "max": 1073741824,
   "help": "tokens that a cut head sees, the current one included"},
  {"name": "sinks", "type": "int", "default": 4, "min": 0, "max": 65536, "help": "first tokens that stay visible"},
  {"name": "kinds", "type": "texts", "default": ["recall", "copy", "induction"],
   "help": "questions to build: recall (a code among many), copy (words), induction (random tokens)"},
  {"name": "tasks", "type": "texts", "default": [], "help": "JSONL files with questions of your own, as for evaluate"},
  {"name": "lengths", "type": "list", "default": [],
   "help": "tokens of the questions; empty: 2, 4, 8 and 16 windows, up to the model's context"},
  {"name": "questions", "type": "int", "default": 32, "min": 1, "max": 1000000,
   "help": "of a kind and length; rows of a task"},
  {"name": "keep_heads", "type": "int", "default": -1, "min": -1, "max": 1000000000,
   "help": "key/value heads to keep; -1: as many as it takes to close \"target\" of the gap"},
  {"name": "bytes_per_token", "type": "int", "default": -1, "min": -1, "max": 9007199254740992,
   "help": "the same budget in bytes of state that a token of context adds; -1: none"},
  {"name": "target", "type": "real", "default": 0.95, "min": 0, "max": 1,
   "help": "share of the gap in log-probability at which enough is kept"},
  {"name": "dtype", "type": "text", "default": "stored", "choices": ["stored", "f32", "bf16"],
   "help": "what weights and activations are computed in"},
  {"name": "seed", "type": "int", "default": 0, "min": 0, "max": 9007199254740992, "help": "of the questions"}]})json";

namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr char kWhere[] = "probe";
constexpr double kTellsSomething = 0.1;  // a kind counts when keeping everything answers this much more than cutting

json ScoreToJson(const Score& score) { return {score.log_probability, score.correct, score.questions}; }

Status WriteText(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".tmp";
  std::ofstream file(temporary, std::ios::binary);
  file << text;
  file.close();
  std::error_code failed;
  if (file) std::filesystem::rename(temporary, path, failed);
  if (!file || failed) return IoError(path, " cannot be written");
  return absl::OkStatus();
}

class ProbeJob : public Job {
 public:
  ProbeJob(json recipe, std::shared_ptr<const Model> model, std::vector<std::string> kinds,
           std::vector<Question> questions, Selection::Options budget)
      : recipe_(std::move(recipe)),
        model_(std::move(model)),
        kinds_(std::move(kinds)),
        selection_(model_->config, budget),
        ablation_(model_, std::move(questions),
                  {recipe_["window"].get<int32_t>(), recipe_["sinks"].get<int32_t>(), kBatchTokens}) {
    wanted_ = {UniformMask(model_->config, true), UniformMask(model_->config, false)};
    LoadMeasured();
  }

  StatusOr<bool> Next(json* event) override {
    if (cancelled()) return Cancelled("the probe was stopped; the same command goes on after its last whole phase");
    if (missing_.empty()) {
      for (const Mask& mask : wanted_) {
        if (measured_.count(MaskKey(mask)) == 0) missing_.push_back(mask);
      }
      pass_.assign(missing_.size(), Scores(kinds_.size()));
      batch_ = 0;
      pass_start_ = Clock::now();
    }
    if (!missing_.empty()) {
      XH_RETURN_IF_ERROR(ablation_.Run(batch_, missing_, &pass_));
      ++batch_;
    }
    const int64_t total = missing_.empty() ? 1 : ablation_.batches(), done = missing_.empty() ? 1 : batch_;
    const double elapsed = std::chrono::duration<double>(Clock::now() - pass_start_).count();
    *event = {{"kind", "probe"},
              {"part", counts_.empty() ? "kinds" : selection_.phase()},
              {"done", done},
              {"total", total},
              {"eta_seconds", elapsed / static_cast<double>(done) * static_cast<double>(total - done)}};
    if (done < total) return false;
    return FinishPass();
  }

  json Result() const override { return result_; }

 private:
  static constexpr int64_t kBatchTokens = 4096;

  // Ends a pass; true when the choice is made.
  StatusOr<bool> FinishPass() {
    for (size_t m = 0; m < missing_.size(); ++m) measured_[MaskKey(missing_[m])] = pass_[m];
    missing_.clear();
    XH_RETURN_IF_ERROR(SaveMeasured());
    if (counts_.empty()) {  // the first pass asks which questions tell something, the others ask only those
      ChooseKinds();
      ablation_.KeepKinds(counts_);
      wanted_ = selection_.Wanted();
      return false;
    }
    std::vector<double> values;
    for (const Mask& mask : wanted_) values.push_back(Value(measured_.at(MaskKey(mask))));
    selection_.Learn(values);
    wanted_ = selection_.Wanted();
    if (!wanted_.empty()) return false;
    MakeResult();
    XH_RETURN_IF_ERROR(WriteResult());
    return true;
  }

  const Scores& Of(const Mask& mask) const { return measured_.at(MaskKey(mask)); }
  const Scores& Full() const { return Of(UniformMask(model_->config, true)); }
  const Scores& Cut() const { return Of(UniformMask(model_->config, false)); }

  static double Accuracy(const Score& score) {
    return static_cast<double>(score.correct) / static_cast<double>(std::max<int64_t>(1, score.questions));
  }
  static double MeanLogProbability(const Score& score) {
    return score.log_probability / static_cast<double>(std::max<int64_t>(1, score.questions));
  }

  // A kind of question that the whole model cannot answer either says nothing about its heads.
  void ChooseKinds() {
    for (size_t k = 0; k < kinds_.size(); ++k) {
      counts_.push_back(Accuracy(Full()[k]) - Accuracy(Cut()[k]) >= kTellsSomething);
    }
    if (std::find(counts_.begin(), counts_.end(), true) == counts_.end()) counts_.assign(kinds_.size(), true);
  }

  // The mean over the kinds that count.
  double Value(const Scores& scores) const {
    double sum = 0, count = 0;
    for (size_t k = 0; k < kinds_.size(); ++k) {
      if (!counts_[k]) continue;
      sum += MeanLogProbability(scores[k]);
      ++count;
    }
    return sum / count;
  }

  json Measure(const Mask& mask) const {
    const Scores& scores = Of(mask);
    json kinds = json::object();
    for (size_t k = 0; k < kinds_.size(); ++k) {
      if (scores[k].questions == 0) continue;  // a kind that tells nothing
      kinds[kinds_[k]] = {{"accuracy", Accuracy(scores[k])},
                          {"log_probability", MeanLogProbability(scores[k])},
                          {"questions", scores[k].questions}};
    }
    return kinds;
  }

  json Entry(const Importance& importance) const {
    const Mask full = UniformMask(model_->config, true), cut = UniformMask(model_->config, false);
    Mask alone = cut, without = full;
    for (int64_t h = 0; h < model_->config.kv_heads; ++h) {
      const bool part = importance.head.head < 0 || importance.head.head == h;
      alone[importance.head.layer][h] = part;
      without[importance.head.layer][h] = !part;
    }
    json entry = {{"layer", importance.head.layer},
                  {"gain", importance.gain},
                  {"drop", importance.drop},
                  {"kept_alone", Measure(alone)},
                  {"cut_alone", Measure(without)}};
    if (importance.head.head >= 0) entry["head"] = importance.head.head;
    return entry;
  }

  void MakeResult() {
    const ModelConfig& config = model_->config;
    const xh_dtype dtype = model_->activation_dtype();
    json layers = json::array(), heads = json::array(), counted = json::array();
    for (const Importance& layer : selection_.layers()) layers.push_back(Entry(layer));
    for (const Importance& head : selection_.heads()) heads.push_back(Entry(head));
    for (size_t k = 0; k < kinds_.size(); ++k) {
      if (counts_[k]) counted.push_back(kinds_[k]);
    }
    const Plan plan{recipe_["window"].get<int32_t>(), recipe_["sinks"].get<int32_t>(), selection_.kept()};
    result_ = {{"plan", PlanToJson(config, plan)},
               {"recovered", selection_.recovered()},
               {"counted", counted},
               {"all_kept", Measure(UniformMask(config, true))},
               {"all_cut", Measure(UniformMask(config, false))},
               {"bytes_per_token", BytesPerToken(config, selection_.kept(), dtype)},
               {"teacher_bytes_per_token", BytesPerToken(config, UniformMask(config, true), dtype)},
               {"layers", layers},
               {"heads", heads}};
    if (measured_.count(MaskKey(selection_.kept())) > 0) result_["chosen"] = Measure(selection_.kept());
    if (!selection_.has_gap()) result_["note"] = "cutting every head costs nothing on these questions: none is kept";
  }

  Status WriteResult() {
    const std::string path = recipe_["output"];
    if (path.empty()) return absl::OkStatus();
    json file = result_["plan"];
    file["measured"] = result_;
    file["measured"].erase("plan");
    XH_RETURN_IF_ERROR(WriteText(path, file.dump(1, ' ', false, json::error_handler_t::replace) + "\n"));
    XH_ASSIGN_OR_RETURN(const std::string page, PageBeside(path));
    XH_RETURN_IF_ERROR(WriteText(page, HeatMap(result_)));
    std::error_code ignored;
    std::filesystem::remove(PartialPath(), ignored);
    return absl::OkStatus();
  }

  // ---- what was measured, for going on after an interruption ----

  std::string PartialPath() const { return recipe_["output"].get<std::string>() + ".partial"; }

  // Everything that decides a measurement.
  json Fingerprint() const {
    json asked = recipe_;
    for (const char* key : {"output", "keep_heads", "bytes_per_token", "target"}) asked.erase(key);
    return {{"asked", asked}, {"config", ConfigToJson(model_->config)}, {"history", model_->history}};
  }

  Status SaveMeasured() const {
    if (recipe_["output"].get<std::string>().empty()) return absl::OkStatus();
    json masks = json::object();
    for (const auto& [key, scores] : measured_) {
      for (const Score& score : scores) masks[key].push_back(ScoreToJson(score));
    }
    return WriteText(PartialPath(), json({{"of", Fingerprint()}, {"masks", masks}}).dump());
  }

  // A file of another probe, or a damaged one, is passed over: it saves time, no more.
  void LoadMeasured() {
    if (recipe_["output"].get<std::string>().empty()) return;
    const StatusOr<json> file = ReadJsonFile(PartialPath());
    if (!file.ok() || !file->is_object() || file->value("of", json()) != Fingerprint()) return;
    const json masks = file->value("masks", json::object());
    for (const auto& [key, list] : masks.items()) {
      Scores scores;
      for (const json& item : list) {
        const bool whole = item.is_array() && item.size() == 3 && item[0].is_number() && item[1].is_number_integer() &&
                           item[2].is_number_integer();
        if (whole) scores.push_back({item[0].get<double>(), item[1].get<int64_t>(), item[2].get<int64_t>()});
      }
      if (scores.size() == kinds_.size()) measured_[key] = std::move(scores);
    }
  }

  const json recipe_;
  const std::shared_ptr<const Model> model_;
  const std::vector<std::string> kinds_;
  Selection selection_;
  Ablation ablation_;
  std::vector<bool> counts_;  // by kind
  std::map<std::string, Scores> measured_;
  std::vector<Mask> wanted_, missing_;
  std::vector<Scores> pass_;
  int64_t batch_ = 0;
  Clock::time_point pass_start_ = Clock::now();
  json result_;
};

StatusOr<std::vector<int64_t>> Lengths(const json& recipe, const ModelConfig& config) {
  std::vector<int64_t> lengths;
  const int64_t window = recipe["window"].get<int64_t>();
  for (const json& length : recipe["lengths"]) {
    const bool fits = length.is_number_integer() && length >= 1 && length <= config.context;
    if (!fits) {
      return InvalidArgument(kWhere, ": \"lengths\" holds ", ShownJson(length), "; allowed: integers from 1 to ",
                             config.context, " (the model's context)");
    }
    lengths.push_back(length.get<int64_t>());
  }
  for (int64_t windows = 2; recipe["lengths"].empty() && windows <= 16; windows *= 2) {
    if (windows * window <= config.context) lengths.push_back(windows * window);
  }
  if (lengths.empty()) lengths.push_back(config.context);
  return lengths;
}

// Two kinds of one name are told apart by a number.
void AddKind(std::string name, std::vector<Question> questions, std::vector<std::string>* kinds,
             std::vector<Question>* all) {
  const std::string plain = name;
  for (int number = 2; std::find(kinds->begin(), kinds->end(), name) != kinds->end(); ++number) {
    name = absl::StrCat(plain, " ", number);
  }
  for (Question& question : questions) {
    question.kind = static_cast<int32_t>(kinds->size());
    all->push_back(std::move(question));
  }
  kinds->push_back(std::move(name));
}

Status MakeAllQuestions(const json& recipe, const Model& model, std::vector<std::string>* kinds,
                        std::vector<Question>* all) {
  QuestionOptions options;
  XH_ASSIGN_OR_RETURN(options.lengths, Lengths(recipe, model.config));
  options.count = recipe["questions"].get<int64_t>();
  options.seed = recipe["seed"].get<uint64_t>();
  for (const json& item : recipe["kinds"]) {
    const std::string kind = item.get<std::string>();
    const std::vector<std::string>& known = QuestionKinds();
    if (std::find(known.begin(), known.end(), kind) == known.end()) {
      return InvalidArgument(kWhere, ": \"kinds\" holds \"", kind, "\"; allowed: recall, copy, induction");
    }
    if (model.tokenizer == nullptr && kind != "induction") continue;
    XH_ASSIGN_OR_RETURN(std::vector<Question> questions, MakeQuestions(model, kind, options));
    AddKind(kind, std::move(questions), kinds, all);
  }
  for (const json& path : recipe["tasks"]) {
    XH_ASSIGN_OR_RETURN(const Task task, ReadTask(path, options.count, &model));
    const std::string where = path.get<std::string>();
    if (task.kind != TaskKind::kExactMatch) {
      return InvalidArgument(kWhere, ": ", where, " has rows with \"text\"; allowed: \"messages\" with an answer");
    }
    if (model.tokenizer == nullptr)
      return InvalidState(kWhere, ": ", where, " needs a tokenizer: ", model.tokenizer_problem);
    int64_t left_out = 0;
    XH_ASSIGN_OR_RETURN(std::vector<Question> questions, QuestionsOf(model, task, &left_out));
    if (questions.empty()) return InvalidArgument(kWhere, ": no row of ", where, " fits the model's context");
    AddKind(task.name, std::move(questions), kinds, all);
  }
  if (all->empty()) return InvalidArgument(kWhere, ": there are no questions; allowed: \"kinds\" or \"tasks\"");
  return absl::OkStatus();
}

StatusOr<Selection::Options> Budget(const json& recipe, const Model& model) {
  Selection::Options budget;
  budget.target = recipe["target"].get<double>();
  budget.most_heads = recipe["keep_heads"].get<int64_t>();
  const int64_t bytes = recipe["bytes_per_token"].get<int64_t>();
  if (bytes < 0) return budget;
  if (budget.most_heads >= 0) {
    return InvalidArgument(kWhere, ": \"keep_heads\" and \"bytes_per_token\" are both given; allowed: one budget");
  }
  budget.most_heads = bytes / (2 * model.config.head_dim * DTypeBytes(model.activation_dtype()));
  return budget;
}

Status CheckTeacher(const Model& model) {
  for (int64_t layer = 0; layer < model.config.layer_count; ++layer) {
    if (model.config.mixers[layer].kind == TeacherMixer(model.config, layer).kind) continue;
    return InvalidArgument(kWhere, ": ", model.path, " has the mixer \"", model.config.mixers[layer].kind,
                           "\" in layer ", layer, "; allowed: a teacher, whose attention is whole");
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<Job>> OpenProbeJob(const std::shared_ptr<Runtime>& runtime, const json& recipe) {
  XH_ASSIGN_OR_RETURN(json checked, CheckOptions(kProbeSchema, recipe, kWhere));
  XH_RETURN_IF_ERROR(PageBeside(checked["output"]).status());
  const std::string dtype = checked["dtype"];
  XH_ASSIGN_OR_RETURN(const std::shared_ptr<Model> model, Model::Load(runtime, checked["model"].get<std::string>(),
                                                                      dtype == "f32"    ? XH_F32
                                                                      : dtype == "bf16" ? XH_BF16
                                                                                        : 0));
  XH_RETURN_IF_ERROR(CheckTeacher(*model));
  XH_ASSIGN_OR_RETURN(const Selection::Options budget, Budget(checked, *model));
  std::vector<std::string> kinds;
  std::vector<Question> questions;
  XH_RETURN_IF_ERROR(MakeAllQuestions(checked, *model, &kinds, &questions));
  return std::unique_ptr<Job>(new ProbeJob(std::move(checked), model, std::move(kinds), std::move(questions), budget));
}

}  // namespace xh
