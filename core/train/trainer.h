// Trains a student through one stage: batches of micro-batches, clipping, AdamW.
#ifndef XHYBRID_CORE_TRAIN_TRAINER_H_
#define XHYBRID_CORE_TRAIN_TRAINER_H_

#include <memory>
#include <string>
#include <vector>

#include "core/train/batches.h"
#include "core/train/declaration.h"
#include "core/train/optimizer.h"
#include "core/train/step_program.h"

namespace xh {

struct BatchShape {
  int64_t rows = 1;        // of a step
  int64_t micro_rows = 1;  // of a forward and backward; divides rows
  int64_t tokens = 1;      // of a row
  bool reset_at_document = false;
  bool checkpoint_blocks = false;
};

struct StepMetrics {
  double loss = 0;  // what is minimised, a mean over tokens (alignment: over tokens, summed over layers)
  double learning_rate = 0;
  double gradient_norm = 0;  // before clipping
  bool skipped = false;      // loss or gradient was not finite: nothing was changed
  int64_t targets = 0;       // tokens that count
  LossSums sums;
};

// One thread at a time. The teacher and *student must outlive it; *student's trained weights change with every step.
class StageTrainer {
 public:
  // Gives trained parameters memory of their own and compiles the step. InvalidArgument when nothing trains.
  static StatusOr<std::unique_ptr<StageTrainer>> Create(const Model& teacher, Student* student,
                                                        const StageRecipe& recipe, const BatchShape& shape,
                                                        xh_dtype activations);

  // The next optimizer step. InvalidState after kMostSkipped steps in a row whose loss or gradient was not finite.
  StatusOr<StepMetrics> Step(BatchStream& batches);

  static constexpr int64_t kMostSkipped = 5;

  int64_t step() const { return step_; }  // steps done
  bool finished() const { return step_ >= recipe_.schedule.steps; }
  int64_t skipped() const { return skipped_; }
  const StageRecipe& recipe() const { return recipe_; }
  const Optimizer& optimizer() const { return *optimizer_; }
  Optimizer& optimizer() { return *optimizer_; }
  Stage& stage() { return *stage_; }
  StepProgram& program() { return *program_; }
  // Device memory of the step and the optimizer, without the weights.
  int64_t memory_bytes() const { return program_->memory_bytes() + optimizer_->bytes(); }

  // Counters that a checkpoint holds besides the optimizer's tensors and the stage's bytes.
  nlohmann::json Position() const;
  Status Restore(const nlohmann::json& position);

 private:
  StageTrainer(StageRecipe recipe, const BatchShape& shape);
  Status QueueBatch(BatchStream& batches, StepMetrics* metrics);
  Status QueueMicroBatches(double scale);
  Status Finish(StepMetrics* metrics);
  double LossOf(const LossSums& sums, double scale) const;

  StageRecipe recipe_;
  BatchShape shape_;
  std::unique_ptr<Stage> stage_;
  StageDeclaration declaration_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<StepProgram> program_;
  std::vector<int32_t> ids_, targets_, starts_;  // of a batch, [rows, tokens]
  int64_t step_ = 0;
  int64_t skipped_ = 0;
  int64_t skipped_in_a_row_ = 0;
};

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_TRAINER_H_
