// Reading a checkpoint directory. A reader believes nothing that it has not checked: see manifest.h for the rules.
#ifndef XHYBRID_CORE_CHECKPOINT_READER_H_
#define XHYBRID_CORE_CHECKPOINT_READER_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/checkpoint/manifest.h"
#include "core/error.h"

namespace xh {

enum class LoadMode {
  kMap,   // shards are mapped: fast and shared. One that somebody cuts off is Corrupt at the first use of a tensor; in
          // use already, it raises SIGBUS
  kCopy,  // each tensor is copied when first used: for storage that others may truncate
};

// An open checkpoint. Any thread. It stays readable when the directory is replaced or removed meanwhile.
class CheckpointReader {
 public:
  // Checks the manifest and the size of every shard. NotFound, Corrupt, Incompatible or IoError.
  static StatusOr<std::shared_ptr<CheckpointReader>> Open(const std::string& directory, LoadMode mode = LoadMode::kMap);
  ~CheckpointReader();

  const std::vector<TensorEntry>& tensors() const;         // sorted by name
  const TensorEntry* Find(const std::string& name) const;  // NULL when there is none
  // The tensor's bytes, row-major and aligned to 4,096, valid while the reader lives; its checksum is checked on the
  // first use, and a damaged tensor is Corrupt on every use.
  StatusOr<const void*> Data(const std::string& name);
  const std::map<std::string, std::string>& metadata() const;
  const std::vector<LayerEntry>& layers() const;
  std::string producer() const;
  // Reads the whole of every shard: sizes, digests of shards and tensors, zero padding.
  Status Verify();
  const std::string& directory() const;  // as given to Open

 private:
  struct State;
  explicit CheckpointReader(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_CHECKPOINT_READER_H_
