// Writing a checkpoint directory: tensors stream into shards, the manifest comes last, one rename makes it visible.
#ifndef XHYBRID_CORE_CHECKPOINT_WRITER_H_
#define XHYBRID_CORE_CHECKPOINT_WRITER_H_

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/checkpoint/atomic_directory.h"
#include "core/checkpoint/digest.h"
#include "core/checkpoint/file.h"
#include "core/checkpoint/manifest.h"
#include "core/error.h"

namespace xh {

struct WriteOptions {
  bool replace = false;             // an existing checkpoint of that name is exchanged for the new one
  int64_t shard_bytes = 4ll << 30;  // a shard is closed before it grows beyond; a larger tensor has its own
};

// One thread at a time. A failure of the storage (a full disk) removes what was written so far and is returned by every
// later call; the target is then as it was before. The same calls give bit-identical files.
class CheckpointWriter {
 public:
  // InvalidState when the target exists and `replace` is not set; NotFound when its parent does not exist.
  static StatusOr<std::unique_ptr<CheckpointWriter>> Open(const std::string& target_directory,
                                                          const WriteOptions& options = WriteOptions());
  // Removes the temporary directory when Commit did not succeed.
  ~CheckpointWriter();

  // `data` is contiguous, row-major, in this machine's byte order. Names are unique; any order.
  Status AddTensor(const std::string& name, xh_dtype dtype, const std::vector<int64_t>& shape, const void* data);
  // The same in pieces: exactly the tensor's bytes by Append between Begin and End.
  Status BeginTensor(const std::string& name, xh_dtype dtype, const std::vector<int64_t>& shape);
  Status Append(const void* data, int64_t bytes);
  Status EndTensor();

  void AddLayer(const LayerEntry& layer);                              // in the order of the blocks
  void SetMetadata(const std::string& key, const std::string& value);  // any bytes; replaces an earlier value

  // Makes the checkpoint visible under its name, durably. Nothing can be added afterwards; when it fails, what was
  // written is removed.
  Status Commit();

 private:
  CheckpointWriter(std::unique_ptr<AtomicDirectory> directory, int64_t shard_bytes, std::string target);
  Status CheckUsable() const;
  Status Fail(Status failure);
  Status OpenShard();
  Status CloseShard();
  Status WriteBytes(const void* data, int64_t bytes);
  Status Pad(int64_t to);
  Status PlaceTensor();
  Status CheckText() const;
  Status WriteManifest();
  Status Finish();

  std::unique_ptr<AtomicDirectory> directory_;
  const int64_t shard_bytes_;
  const std::string target_;
  Status failure_;
  bool committed_ = false;

  Manifest manifest_;
  std::set<std::string> names_;
  File shard_;  // the open one; the last of manifest_.shards counts its bytes
  bool shard_open_ = false;
  Sha256 sha_;
  TensorEntry tensor_;  // the open one
  bool tensor_open_ = false;
  int64_t tensor_written_ = 0;
};

}  // namespace xh

#endif  // XHYBRID_CORE_CHECKPOINT_WRITER_H_
