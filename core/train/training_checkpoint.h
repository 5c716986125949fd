// A training checkpoint: a model that also holds where its training stands, so that it goes on as if never stopped.
#ifndef XHYBRID_CORE_TRAIN_TRAINING_CHECKPOINT_H_
#define XHYBRID_CORE_TRAIN_TRAINING_CHECKPOINT_H_

#include <memory>
#include <string>

#include "core/checkpoint/reader.h"
#include "core/model/save.h"
#include "core/train/student.h"
#include "core/train/trainer.h"

namespace xh {

// Where a run stands. A checkpoint written between two stages has no trainer.
struct TrainingPosition {
  int64_t total_step = 0;   // optimizer steps of all stages
  int64_t stage = 0;        // index of the stage in hand; the number of stages when all are done
  nlohmann::json trainer;   // StageTrainer::Position; null between stages
  nlohmann::json loader;    // BatchStream::Position
  std::string stage_bytes;  // of the stage plugin
};

// Writes the student with everything of `position` and, where `trainer` is not NULL, the optimizer's tensors. `files`
// are the teacher's; the history is the student's. An existing checkpoint of that name is replaced.
Status WriteTrainingCheckpoint(const std::string& path, const Student& student, const ModelFiles& files,
                               const TrainingPosition& position, const StageTrainer* trainer, Device& device);

// Corrupt or Incompatible when this is no training checkpoint.
StatusOr<TrainingPosition> ReadTrainingPosition(const CheckpointReader& reader);
// Puts the optimizer's tensors, the stage's bytes and the counters back into a trainer that was just created.
Status RestoreTrainer(CheckpointReader& reader, const TrainingPosition& position, StageTrainer* trainer,
                      Device& device);

// The student alone: what other programs load.
Status WriteStudent(const std::string& path, const Student& student, const ModelFiles& files, Device& device);

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_TRAINING_CHECKPOINT_H_
