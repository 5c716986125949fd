// The directory of a run: one process at a time, training checkpoints by step, metrics, recipe.
#ifndef XHYBRID_CORE_TRAIN_RUN_DIRECTORY_H_
#define XHYBRID_CORE_TRAIN_RUN_DIRECTORY_H_

#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "nlohmann/json.hpp"

namespace xh {

// Holds a lock on the directory while it lives; the system drops it with the process. One thread at a time.
class RunDirectory {
 public:
  // Makes the directory where it is missing. InvalidState when another process trains in it.
  static StatusOr<std::unique_ptr<RunDirectory>> Open(const std::string& path);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string CheckpointPath(int64_t step) const;  // "PATH/step-00000100.xhy"
  std::string StudentPath() const;                 // "PATH/student.xhy"
  // Steps of which there is a training checkpoint, newest first.
  StatusOr<std::vector<int64_t>> CheckpointSteps() const;
  // Removes all training checkpoints but the `keep` newest.
  Status RemoveOldCheckpoints(int64_t keep) const;

  // recipe.json: what the run was started with; a null value when there is none yet.
  StatusOr<nlohmann::json> ReadRecipeFile() const;
  Status WriteRecipeFile(const nlohmann::json& recipe) const;

  // metrics.jsonl: one object a line, with the step of the run as "total_step".
  // Drops what comes after `total_step` (also a line that was cut off) and opens the file for AppendMetrics.
  Status StartMetrics(int64_t total_step);
  Status AppendMetrics(const nlohmann::json& line);
  Status SyncMetrics();

 private:
  explicit RunDirectory(std::string path) : path_(std::move(path)) {}
  Status Lock();
  Status ReplaceFile(const std::string& name, const std::string& content) const;

  std::string path_;
  int lock_ = -1;
  int metrics_ = -1;
};

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_RUN_DIRECTORY_H_
