#include "core/train/trainer.h"

#include <algorithm>
#include <cmath>

#include "core/json_fields.h"

namespace xh {

StageTrainer::StageTrainer(StageRecipe recipe, const BatchShape& shape) : recipe_(std::move(recipe)), shape_(shape) {
  ids_.resize(static_cast<size_t>(shape.rows * shape.tokens));
  targets_.resize(ids_.size());
  starts_.resize(ids_.size());
}

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
  XH_ASSIGN_OR_RETURN(trainer->optimizer_, Optimizer::Create(teacher.device, trained, recipe.adamw));
  const Optimizer* optimizer = trainer->optimizer_.get();
  auto gradient_of = [optimizer](const std::string& name) { return optimizer->GradientOf(name); };
  StatusOr<std::unique_ptr<StepProgram>> program =
      StepProgram::Build(teacher, *student, gradient_of, declaration.loss,
                         {shape.micro_rows, shape.tokens, activations, shape.reset_at_document});
  if (!program.ok()) return Annotate(program.status(), where);
  trainer->program_ = *std::move(program);
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
Status StageTrainer::RunBatch(BatchStream& batches, StepMetrics* metrics) {
  for (int64_t row = 0; row < shape_.rows; ++row) {
    const int64_t at = row * shape_.tokens;
    batches.NextRow(ids_.data() + at, targets_.data() + at, starts_.data() + at);
  }
  const bool distills = declaration_.loss.op == XH_OP_DISTILL_LOSS;
  metrics->targets = shape_.rows * shape_.tokens;
  if (distills) {
    metrics->targets = std::count_if(targets_.begin(), targets_.end(), [](int32_t target) { return target >= 0; });
  }
  const double scale = 1.0 / static_cast<double>(std::max<int64_t>(1, metrics->targets));
  metrics->sums = program_->ZeroSums();
  XH_RETURN_IF_ERROR(optimizer_->ZeroGradients());
  for (int64_t row = 0; row < shape_.rows; row += shape_.micro_rows) {
    const int64_t at = row * shape_.tokens;
    XH_RETURN_IF_ERROR(program_->Run(ids_.data() + at, targets_.data() + at, starts_.data() + at,
                                     static_cast<float>(scale), &metrics->sums));
  }
  metrics->loss = LossOf(metrics->sums, scale);
  return absl::OkStatus();
}

Status StageTrainer::Apply(StepMetrics* metrics) {
  XH_ASSIGN_OR_RETURN(metrics->gradient_norm, optimizer_->GradientNorm());
  metrics->learning_rate = LearningRate(recipe_.schedule, step_);
  metrics->skipped = !std::isfinite(metrics->loss) || !std::isfinite(metrics->gradient_norm);
  if (metrics->skipped) {
    ++skipped_;
    ++skipped_in_a_row_;
    return absl::OkStatus();
  }
  skipped_in_a_row_ = 0;
  const bool clips = recipe_.clip > 0 && metrics->gradient_norm > recipe_.clip;
  return optimizer_->Update(metrics->learning_rate, clips ? recipe_.clip / metrics->gradient_norm : 1.0);
}

StatusOr<StepMetrics> StageTrainer::Step(BatchStream& batches) {
  StepMetrics metrics;
  Status done = RunBatch(batches, &metrics);
  if (done.ok()) done = Apply(&metrics);
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
