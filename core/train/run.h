// A distill run from its recipe to the finished student: prepares, steps, saves, resumes.
#ifndef XHYBRID_CORE_TRAIN_RUN_H_
#define XHYBRID_CORE_TRAIN_RUN_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/runtime.h"
#include "core/train/batches.h"
#include "core/train/memory_plan.h"
#include "core/train/recipe.h"
#include "core/train/run_directory.h"
#include "core/train/trainer.h"
#include "core/train/training_checkpoint.h"

namespace xh {

// What a stage costs, as compiled.
struct StagePlan {
  std::string name;
  int64_t steps = 0;
  int64_t trained_parameters = 0;
  int64_t memory_bytes = 0;  // step and optimizer, without the weights
};

// One thread at a time. After an error nothing but destruction is allowed; what was saved stays.
//
// A run killed at any point goes on from its newest training checkpoint as if it had never stopped: the same rows, the
// same numbers, the same student bit for bit (on the same machine and thread count).
class DistillRun {
 public:
  // Checks that the run fits into the device's memory, loads the teacher and opens the data. With dry_run nothing is
  // written.
  static StatusOr<std::unique_ptr<DistillRun>> Open(std::shared_ptr<Runtime> runtime, Recipe recipe);
  // Tokenises one block of the data; after the last one, which gives true, finds the place to go on from and compiles
  // the stage in hand. Nothing below may be called before.
  StatusOr<bool> Prepare();
  int64_t data_bytes() const;       // of all files
  int64_t data_bytes_read() const;  // so far

  // One optimizer step of the stage in hand; also appended to metrics.jsonl.
  struct StepReport {
    std::string stage;
    int64_t step = 0;  // of the stage, from 1
    int64_t steps = 0;
    int64_t total_step = 0;
    int64_t total_steps = 0;
    double seconds = 0;
    StepMetrics metrics;
  };
  StatusOr<StepReport> Step();
  bool stage_finished() const { return trainer_ != nullptr && trainer_->finished(); }
  // Enters the stage into the student's history, prepares the next one and saves.
  Status FinishStage();
  bool finished() const { return stage_ == static_cast<int64_t>(recipe_.stages.size()); }
  // Writes a training checkpoint and removes older ones; returns its path.
  StatusOr<std::string> Save();
  bool save_due() const;
  bool saved() const { return saved_step_ == total_step_; }
  // Writes student.xhy once all stages are done; returns its path.
  StatusOr<std::string> WriteFinalStudent();
  // One line of metrics.jsonl.
  Status AppendMetrics(const nlohmann::json& line);

  const Recipe& recipe() const { return recipe_; }
  const Model& teacher() const { return *teacher_; }
  const Student& student() const { return student_; }
  const BatchStream& batches() const { return *batches_; }
  const std::vector<StagePlan>& plans() const { return plans_; }
  const MemoryPlan& memory() const { return memory_; }
  int64_t stage() const { return stage_; }
  StageTrainer* trainer() { return trainer_.get(); }  // of the stage in hand; NULL when all are done
  int64_t total_step() const { return total_step_; }
  int64_t total_steps() const;
  int64_t memory_bytes() const;  // weights, optimizer and step of the stage in hand
  int64_t skipped_rows() const;

 private:
  DistillRun(std::shared_ptr<Runtime> runtime, Recipe recipe)
      : runtime_(std::move(runtime)), recipe_(std::move(recipe)) {}
  Status CheckMemory();
  StatusOr<MemoryPlan> PlanRun();
  Status LoadTeacher();
  Status OpenData();
  StatusOr<bool> ReadData();
  Status Describe();
  Status OpenDirectory();
  Status Begin();
  Status Resume(const std::string& path);
  StatusOr<std::string> NewestCheckpoint();
  StatusOr<std::unique_ptr<StageTrainer>> MakeTrainer(int64_t stage, Student* student);
  Status PlanStages();
  nlohmann::json HistoryEntry() const;

  std::shared_ptr<Runtime> runtime_;
  Recipe recipe_;
  MemoryPlan memory_;
  std::shared_ptr<Model> teacher_;
  std::vector<std::unique_ptr<DocumentReader>> readers_;  // one a source
  std::vector<Documents> documents_;                      // of those that were read; the last is in hand
  std::unique_ptr<BatchStream> batches_;
  nlohmann::json description_;  // recipe.json
  std::unique_ptr<RunDirectory> directory_;
  Student student_;
  std::unique_ptr<StageTrainer> trainer_;
  std::vector<StagePlan> plans_;
  StepMetrics last_;  // of the stage in hand
  int64_t stage_ = 0;
  int64_t total_step_ = 0;
  int64_t saved_step_ = -1;
};

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_RUN_H_
