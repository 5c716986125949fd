// A Hugging Face directory while it is written: weights in one file or in shards with an index, and small files.
#ifndef XHYBRID_CORE_MODEL_EXPORT_HUGGINGFACE_WRITER_H_
#define XHYBRID_CORE_MODEL_EXPORT_HUGGINGFACE_WRITER_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/checkpoint/atomic_directory.h"
#include "core/checkpoint/safetensors.h"
#include "core/error.h"

namespace xh {

// Consecutive tensors of one file.
struct Shard {
  std::string file;  // "model.safetensors", or "model-00001-of-00003.safetensors"
  size_t first = 0;
  size_t count = 0;
};
// As few files as the order allows: each holds at most `shard_bytes` of tensors (their `bytes`), or one larger tensor.
std::vector<Shard> PlanShards(const std::vector<SafeTensor>& tensors, int64_t shard_bytes);

// One thread at a time. After an error nothing is left, and every later call gives that error again.
class HuggingFaceWriter {
 public:
  // InvalidState when the target exists, unless `replace` is set and it is empty or holds safetensors as this writes
  // them. NotFound when its parent does not exist.
  static StatusOr<std::unique_ptr<HuggingFaceWriter>> Open(const std::string& target, bool replace,
                                                           std::vector<SafeTensor> tensors, int64_t shard_bytes);
  Status AddTensor(const void* data);  // the next one: contiguous, row-major
  Status AddFile(const std::string& name, const std::string& bytes);
  // Adds the index where there are shards, and makes the directory visible under its name. Every tensor must be there.
  Status Commit();

 private:
  HuggingFaceWriter(std::unique_ptr<AtomicDirectory> directory, std::vector<SafeTensor> tensors,
                    std::vector<Shard> shards);
  Status Keep(Status status);
  Status WriteTensor(const void* data);
  Status WriteFile(const std::string& name, const std::string& bytes);
  Status Finish();

  std::unique_ptr<AtomicDirectory> directory_;
  const std::vector<SafeTensor> tensors_;
  const std::vector<Shard> shards_;
  size_t shard_ = 0;   // the one that is written
  size_t tensor_ = 0;  // the next one
  std::optional<SafetensorsWriter> file_;
  Status failure_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_EXPORT_HUGGINGFACE_WRITER_H_
