#include "core/train/trainer.h"

#include <algorithm>

#include "core/json_fields.h"

namespace xh {
namespace {

// What the summed loss is multiplied with: the loss is a mean over what counts.
double Scale(const StepMetrics& metrics) { return 1.0 / static_cast<double>(std::max<int64_t>(1, metrics.targets)); }

}  // namespace

StageTrainer::StageTrainer(StageRecipe recipe, const BatchShape& shape) : recipe_(std::move(recipe)), shape_(shape) {}

StatusOr<std::unique_ptr<StageTrainer>> StageTrainer::Create(const Model& teacher, Student* student,
                                                             const StageRecipe& recipe, const BatchShape& shape,
                                                             xh_dtype activations) {
  std::unique_ptr<StageTrainer> trainer(new StageTrainer(recipe, shape));
  const std::string where = absl::StrCat("stage.", recipe.name);
  XH_ASSIGN_OR_RETURN(trainer->stage_, Stage::Open(recipe));
  XH_ASSIGN_OR_RETURN(trainer->declaration_, trainer->stage_->Declare());
  const StageDeclaration& declaration = trainer->declaration_;
  auto trains = [&](const std::string& name) { return declaration.Trains(name); };
  XH_RETURN_IF_ERROR(OwnTrained(teacher, trains, student));
  std::map<std::string, Weight> trained;
  for (const auto& [name, weight] : student->weights) {
    if (trains(name)) trained[name] = weight;
  }
  if (trained.empty()) {
    return InvalidArgument(where,
                           ": no parameter of the student trains; a student of this stage has at least one layer "
                           "of mixer kind \"hybrid\" or \"mlstm\"");
  }
  XH_ASSIGN_OR_RETURN(trainer->optimizer_, Optimizer::Create(teacher.device, trained, recipe.adamw, recipe.clip));
  const Optimizer* optimizer = trainer->optimizer_.get();
  auto gradient_of = [optimizer](const std::string& name) { return optimizer->GradientOf(name); };
  StatusOr<std::unique_ptr<StepProgram>> program =
      StepProgram::Build(teacher, *student, gradient_of, declaration.loss,
                         {shape.micro_rows, shape.rows / shape.micro_rows, shape.tokens, activations,
                          shape.reset_at_document, shape.checkpoint_blocks});
  if (!program.ok()) return Annotate(program.status(), where);
  trainer->program_ = *std::move(program);
  XH_RETURN_IF_ERROR(trainer->optimizer_->Compile(trainer->program_->sums(), trainer->program_->sum_count()));
  return trainer;
}

double StageTrainer::LossOf(const LossSums& sums, double scale) const {
  double loss = 0;
  for (const LossSums::Layer& layer : sums.layers) loss += layer.error;
  const xh_distill_params& distill = declaration_.loss.distill;
  if (declaration_.loss.op == XH_OP_DISTILL_LOSS) {
    const double temperature = distill.temperature;
    loss = distill.gamma * sums.cross_entropy + distill.beta * temperature * temperature * sums.kl;
  }
  return loss * scale;
}

// Gathers the gradients of a whole batch: micro-batches weigh as their tokens do, so that the result is that of one
// pass.
Status StageTrainer::QueueBatch(BatchStream& batches, StepMetrics* metrics) {
  const auto tokens = static_cast<size_t>(shape_.rows * shape_.tokens);
  for (std::vector<int32_t>* rows : {&ids_, &targets_, &starts_}) rows->resize(tokens);
  for (int64_t row = 0; row < shape_.rows; ++row) {
    const int64_t at = row * shape_.tokens;
    batches.NextRow(ids_.data() + at, targets_.data() + at, starts_.data() + at);
  }
  const bool distills = declaration_.loss.op == XH_OP_DISTILL_LOSS;
  metrics->targets = shape_.rows * shape_.tokens;
  if (distills) {
    metrics->targets = std::count_if(targets_.begin(), targets_.end(), [](int32_t target) { return target >= 0; });
  }
  metrics->learning_rate = LearningRate(recipe_.schedule, step_);
  XH_RETURN_IF_ERROR(QueueMicroBatches(Scale(*metrics)));
  XH_RETURN_IF_ERROR(optimizer_->Update(metrics->learning_rate));
  return program_->FetchSums();
}

Status StageTrainer::QueueMicroBatches(double scale) {
  XH_RETURN_IF_ERROR(optimizer_->ZeroGradients());
  for (int64_t row = 0; row < shape_.rows; row += shape_.micro_rows) {
    const int64_t at = row * shape_.tokens;
    XH_RETURN_IF_ERROR(program_->Run(row / shape_.micro_rows, ids_.data() + at, targets_.data() + at,
                                     starts_.data() + at, static_cast<float>(scale)));
  }
  return absl::OkStatus();
}

// Waits for the device, once a step.
Status StageTrainer::Finish(StepMetrics* metrics) {
  XH_ASSIGN_OR_RETURN(const Optimizer::Outcome outcome, optimizer_->Finish());
  metrics->sums = program_->Sums();
  metrics->loss = LossOf(metrics->sums, Scale(*metrics));
  metrics->gradient_norm = outcome.gradient_norm;
  metrics->skipped = outcome.skipped;
  skipped_ += outcome.skipped ? 1 : 0;
  skipped_in_a_row_ = outcome.skipped ? skipped_in_a_row_ + 1 : 0;
  return absl::OkStatus();
}

StatusOr<StepMetrics> StageTrainer::Step(BatchStream& batches) {
  StepMetrics metrics;
  Status done = QueueBatch(batches, &metrics);
  if (done.ok()) done = Finish(&metrics);
  if (!done.ok()) return Annotate(done, absl::StrCat("stage.", recipe_.name, ": step ", step_ + 1));
  ++step_;
  if (skipped_in_a_row_ >= kMostSkipped) {
    return InvalidState("stage.", recipe_.name, ": step ", step_, " is the ", skipped_in_a_row_,
                        "th in a row without a finite loss and gradient (loss ", metrics.loss, ", gradient norm ",
                        metrics.gradient_norm, "); a lower \"learning_rate\" or a \"clip\" may help");
  }
  return metrics;
}

nlohmann::json StageTrainer::Position() const {
  return {{"step", step_},
          {"updates", optimizer_->updates()},
          {"skipped", skipped_},
          {"skipped_in_a_row", skipped_in_a_row_}};
}

Status StageTrainer::Restore(const nlohmann::json& position) {
  JsonFields fields(&position, "the trainer's position");
  XH_ASSIGN_OR_RETURN(step_, fields.Int("step", 0, recipe_.schedule.steps));
  XH_ASSIGN_OR_RETURN(const int64_t updates, fields.Int("updates", 0, step_));
  XH_ASSIGN_OR_RETURN(skipped_, fields.Int("skipped", 0, step_));
  XH_ASSIGN_OR_RETURN(skipped_in_a_row_, fields.Int("skipped_in_a_row", 0, step_));
  optimizer_->set_updates(updates);
  return absl::OkStatus();
}

}  // namespace xh
