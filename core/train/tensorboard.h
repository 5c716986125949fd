// Metrics as TensorBoard events: a second sink beside metrics.jsonl.
#ifndef XHYBRID_CORE_TRAIN_TENSORBOARD_H_
#define XHYBRID_CORE_TRAIN_TENSORBOARD_H_

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"

namespace xh {

// One events file in a directory; each process writes its own, and TensorBoard joins them by step. One thread at a
// time.
class EventWriter {
 public:
  static StatusOr<std::unique_ptr<EventWriter>> Open(const std::string& directory);
  Status Append(int64_t step, const std::vector<std::pair<std::string, double>>& scalars);

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  EventWriter(std::string path, std::FILE* file) : path_(std::move(path)), file_(file) {}
  Status WriteRecord(const std::string& event);

  std::string path_;
  std::unique_ptr<std::FILE, Closer> file_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_TENSORBOARD_H_
