#include "core/train/run.h"

#include <chrono>
#include <filesystem>

#include "core/checkpoint/dtype.h"
#include "core/format.h"
#include "core/json_fields.h"
#include "core/train/report.h"

namespace xh {

using nlohmann::json;

StatusOr<std::unique_ptr<DistillRun>> DistillRun::Open(std::shared_ptr<Runtime> runtime, Recipe recipe) {
  std::unique_ptr<DistillRun> run(new DistillRun(std::move(runtime), std::move(recipe)));
  if (!run->recipe_.dry_run) {
    XH_ASSIGN_OR_RETURN(run->directory_, RunDirectory::Open(run->recipe_.output));
  }
  XH_RETURN_IF_ERROR(run->CheckMemory());
  XH_RETURN_IF_ERROR(run->LoadTeacher());
  // What a probe's plan says becomes options of the student, so that the run's description holds it.
  XH_RETURN_IF_ERROR(ReadStudentPlan(run->teacher_->config, &run->recipe_));
  XH_RETURN_IF_ERROR(run->OpenData());
  return run;
}

StatusOr<bool> DistillRun::Prepare() {
  XH_ASSIGN_OR_RETURN(const bool all, ReadData());
  if (!all) return false;
  XH_RETURN_IF_ERROR(Describe());
  XH_RETURN_IF_ERROR(OpenDirectory());
  XH_RETURN_IF_ERROR(PlanStages());
  if (!recipe_.dry_run) XH_RETURN_IF_ERROR(directory_->StartMetrics(total_step_));
  return true;
}

// ---- what the recipe names ----

// Compiles every stage without its memory: their errors and their sizes are known before a weight is read.
Status DistillRun::CheckMemory() {
  XH_ASSIGN_OR_RETURN(memory_, PlanRun());
  return CheckFits(runtime_, recipe_, memory_, memory_.available);
}

// A run that goes on does not need the student that it began with: a checkpoint of its own is as large.
StatusOr<MemoryPlan> DistillRun::PlanRun() {
  StatusOr<MemoryPlan> plan = PlanMemory(runtime_, recipe_);
  if (plan.ok() || recipe_.start.empty() || directory_ == nullptr) return plan;
  XH_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, directory_->CheckpointSteps());
  for (int64_t step : steps) {
    Recipe resumed = recipe_;
    resumed.start = directory_->CheckpointPath(step);
    StatusOr<MemoryPlan> other = PlanMemory(runtime_, resumed);
    if (other.ok()) return other;
  }
  return plan;
}

Status DistillRun::LoadTeacher() {
  XH_ASSIGN_OR_RETURN(teacher_, Model::Load(runtime_, recipe_.teacher, recipe_.dtype));
  const ModelConfig& config = teacher_->config;
  XH_RETURN_IF_ERROR(CheckTeacher(recipe_, config));
  if (teacher_->tokenizer != nullptr && teacher_->tokenizer->vocab_size() > config.vocab_size) {
    return Incompatible(recipe_.teacher, ": the tokenizer has ", teacher_->tokenizer->vocab_size(),
                        " tokens, the model's vocabulary ", config.vocab_size);
  }
  return absl::OkStatus();
}

Status DistillRun::OpenData() {
  DocumentOptions options;
  options.tokenizer = teacher_->tokenizer.get();
  options.tokenizer_problem = teacher_->tokenizer_problem;
  options.config = &teacher_->config;
  options.loss_on_assistant = recipe_.loss_on_assistant;
  options.max_bad_rows = recipe_.max_bad_rows;
  options.warn = [this](const std::string& text) { runtime_->Log(XH_LOG_WARNING, "core", text); };
  for (const DataSource& source : recipe_.data) {
    XH_ASSIGN_OR_RETURN(std::unique_ptr<DocumentReader> reader, DocumentReader::Open(source, options));
    readers_.push_back(std::move(reader));
  }
  documents_.emplace_back();
  return absl::OkStatus();
}

// One block; true when there is none left.
StatusOr<bool> DistillRun::ReadData() {
  XH_ASSIGN_OR_RETURN(const bool more, readers_[documents_.size() - 1]->Next(&documents_.back()));
  if (more) return false;
  if (documents_.size() < readers_.size()) {
    documents_.emplace_back();
    return false;
  }
  std::vector<double> weights;
  for (const DataSource& source : recipe_.data) weights.push_back(source.weight);
  XH_ASSIGN_OR_RETURN(BatchStream stream,
                      BatchStream::Open(std::move(documents_), std::move(weights), recipe_.context, recipe_.seed));
  batches_ = std::make_unique<BatchStream>(std::move(stream));
  return true;
}

int64_t DistillRun::data_bytes() const {
  int64_t bytes = 0;
  for (const auto& reader : readers_) bytes += reader->bytes();
  return bytes;
}

int64_t DistillRun::data_bytes_read() const {
  int64_t bytes = 0;
  for (const auto& reader : readers_) bytes += reader->bytes_read();
  return bytes;
}

// The recipe with digests of what it names: a file that changed since is another run.
Status DistillRun::Describe() {
  description_ = recipe_.Describe();
  for (size_t i = 0; i < recipe_.data.size(); ++i) {
    description_["data"][i]["sha256"] = batches_->sources()[i].sha256;
  }
  XH_ASSIGN_OR_RETURN(const uint32_t checksum, WeightsChecksum(*teacher_));
  description_["teacher_crc32c"] = Format("%08x", checksum);
  return absl::OkStatus();
}

// ---- where to begin ----

Status DistillRun::OpenDirectory() {
  if (recipe_.dry_run) return Begin();
  XH_ASSIGN_OR_RETURN(const json before, directory_->ReadRecipeFile());
  XH_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, directory_->CheckpointSteps());
  if (before.is_null() && steps.empty()) {
    XH_RETURN_IF_ERROR(Begin());
    return directory_->WriteRecipeFile(description_);
  }
  if (!recipe_.resume) {
    return InvalidState(recipe_.output, " already holds a run; \"resume\" is \"no\": choose another \"output\"");
  }
  const std::string difference = FirstDifference(description_, before);
  if (!difference.empty()) {
    return InvalidState(recipe_.output, " holds a run of another recipe: ", difference,
                        "; choose another \"output\" to begin anew");
  }
  if (steps.empty()) return Begin();
  XH_ASSIGN_OR_RETURN(const std::string newest, NewestCheckpoint());
  return Resume(newest);
}

Status DistillRun::Begin() {
  if (!recipe_.start.empty()) {
    XH_ASSIGN_OR_RETURN(student_, LoadStudent(runtime_, recipe_.start, *teacher_, recipe_.dtype));
    return absl::OkStatus();
  }
  XH_ASSIGN_OR_RETURN(student_, SeedStudent(*teacher_, recipe_.student_options, recipe_.dtype));
  return absl::OkStatus();
}

// The newest training checkpoint whose every byte is as it was written.
StatusOr<std::string> DistillRun::NewestCheckpoint() {
  XH_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, directory_->CheckpointSteps());
  Status problem;
  for (int64_t step : steps) {
    const std::string path = directory_->CheckpointPath(step);
    StatusOr<std::shared_ptr<CheckpointReader>> reader = CheckpointReader::Open(path);
    problem = reader.ok() ? (*reader)->Verify() : reader.status();
    if (problem.ok()) problem = ReadTrainingPosition(**reader).status();
    if (problem.ok()) return path;
    runtime_->Log(XH_LOG_WARNING, "core", absl::StrCat("passed over: ", std::string(problem.message())));
  }
  return Annotate(problem, absl::StrCat(recipe_.output, ": no training checkpoint can be read"));
}

Status DistillRun::Resume(const std::string& path) {
  XH_ASSIGN_OR_RETURN(const std::shared_ptr<CheckpointReader> reader, CheckpointReader::Open(path));
  XH_ASSIGN_OR_RETURN(const TrainingPosition position, ReadTrainingPosition(*reader));
  if (position.stage > static_cast<int64_t>(recipe_.stages.size())) {
    return Corrupt(path, ": stage ", position.stage, " of ", recipe_.stages.size());
  }
  XH_ASSIGN_OR_RETURN(student_, LoadStudent(runtime_, path, *teacher_, recipe_.dtype));
  XH_RETURN_IF_ERROR(batches_->Restore(position.loader));
  stage_ = position.stage;
  total_step_ = position.total_step;
  saved_step_ = position.total_step;
  if (finished() || position.trainer.is_null()) return absl::OkStatus();
  XH_ASSIGN_OR_RETURN(trainer_, MakeTrainer(stage_, &student_));
  return RestoreTrainer(*reader, position, trainer_.get(), *teacher_->device);
}

StatusOr<std::unique_ptr<StageTrainer>> DistillRun::MakeTrainer(int64_t stage, Student* student) {
  return StageTrainer::Create(*teacher_, student, recipe_.stages[static_cast<size_t>(stage)], BatchShapeOf(recipe_),
                              recipe_.dtype);
}

Status DistillRun::PlanStages() {
  for (const StageMemory& stage : memory_.stages) {
    plans_.push_back({stage.stage, stage.steps, stage.trained_parameters, stage.without_weights()});
  }
  if (finished() || trainer_ != nullptr) return absl::OkStatus();
  XH_ASSIGN_OR_RETURN(trainer_, MakeTrainer(stage_, &student_));
  return absl::OkStatus();
}

// ---- steps ----

StatusOr<DistillRun::StepReport> DistillRun::Step() {
  const auto start = std::chrono::steady_clock::now();
  StepReport report;
  XH_ASSIGN_OR_RETURN(report.metrics, trainer_->Step(*batches_));
  ++total_step_;
  last_ = report.metrics;
  report.stage = trainer_->recipe().name;
  report.step = trainer_->step();
  report.steps = trainer_->recipe().schedule.steps;
  report.total_step = total_step_;
  report.total_steps = total_steps();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

Status DistillRun::AppendMetrics(const json& line) { return directory_->AppendMetrics(line); }

bool DistillRun::save_due() const {
  return recipe_.save_every > 0 && trainer_ != nullptr && trainer_->step() % recipe_.save_every == 0;
}

StatusOr<std::string> DistillRun::Save() {
  TrainingPosition position;
  position.total_step = total_step_;
  position.stage = stage_;
  position.loader = batches_->Position();
  const bool inside = trainer_ != nullptr && trainer_->step() > 0;
  if (inside) {
    position.trainer = trainer_->Position();
    StatusOr<std::string> bytes = trainer_->stage().Save();
    if (!bytes.ok()) {
      return Annotate(bytes.status(), absl::StrCat("stage.", trainer_->recipe().name, ": step ", trainer_->step()));
    }
    position.stage_bytes = *std::move(bytes);
  }
  XH_RETURN_IF_ERROR(directory_->SyncMetrics());
  const std::string path = directory_->CheckpointPath(total_step_);
  XH_RETURN_IF_ERROR(WriteTrainingCheckpoint(path, student_, FilesOf(*teacher_), position,
                                             inside ? trainer_.get() : nullptr, *teacher_->device));
  saved_step_ = total_step_;
  XH_RETURN_IF_ERROR(directory_->RemoveOldCheckpoints(recipe_.keep));
  return path;
}

Status DistillRun::FinishStage() {
  student_.history.push_back(HistoryEntry());
  trainer_.reset();
  ++stage_;
  if (!finished()) {
    XH_ASSIGN_OR_RETURN(trainer_, MakeTrainer(stage_, &student_));
  }
  return Save().status();
}

// Names no time and no place: a run that was interrupted leaves the same history.
json DistillRun::HistoryEntry() const {
  json data = json::array();
  for (size_t i = 0; i < recipe_.data.size(); ++i) {
    data.push_back({{"file", std::filesystem::path(recipe_.data[i].path).filename().string()},
                    {"sha256", batches_->sources()[i].sha256},
                    {"weight", recipe_.data[i].weight}});
  }
  const StageRecipe& recipe = trainer_->recipe();
  const int64_t steps = trainer_->step();
  return {{"kind", "stage"},
          {"stage", recipe.name},
          {"options", recipe.options},
          {"data", std::move(data)},
          {"context", recipe_.context},
          {"batch", recipe_.batch},
          {"seed", recipe_.seed},
          {"dtype", DTypeName(recipe_.dtype)},
          {"loss_on", recipe_.loss_on_assistant ? "assistant" : "all"},
          {"reset_at_document", recipe_.reset_at_document},
          {"teacher_crc32c", description_["teacher_crc32c"]},
          {"steps", steps},
          {"skipped_steps", trainer_->skipped()},
          {"tokens", steps * recipe_.batch * recipe_.context},
          {"metrics", MetricsToJson(last_)},
          {"producer", "libxhybrid " XHYBRID_RELEASE}};
}

StatusOr<std::string> DistillRun::WriteFinalStudent() {
  const std::string path = directory_->StudentPath();
  XH_RETURN_IF_ERROR(WriteStudent(path, student_, FilesOf(*teacher_), *teacher_->device));
  return path;
}

// ---- figures ----

int64_t DistillRun::total_steps() const {
  int64_t steps = 0;
  for (const StageRecipe& stage : recipe_.stages) steps += stage.schedule.steps;
  return steps;
}

int64_t DistillRun::memory_bytes() const {
  int64_t bytes = trainer_ != nullptr ? trainer_->memory_bytes() : 0;
  for (const auto& [name, weight] : teacher_->weights) bytes += weight.buffer->bytes();
  for (const auto& [name, weight] : student_.weights) {
    const auto shared = teacher_->weights.find(name);
    const bool own = shared == teacher_->weights.end() || shared->second.buffer != weight.buffer;
    if (own) bytes += weight.buffer->bytes();
  }
  return bytes;
}

int64_t DistillRun::skipped_rows() const {
  int64_t rows = 0;
  for (const Documents& documents : batches_->sources()) rows += documents.skipped_rows;
  return rows;
}

}  // namespace xh
