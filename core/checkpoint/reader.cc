#include "core/checkpoint/reader.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "core/checkpoint/atomic_directory.h"
#include "core/checkpoint/digest.h"
#include "core/checkpoint/file.h"
#include "core/checkpoint/names.h"

namespace xh {
namespace {

constexpr int64_t kChunk = 1ll << 20;

struct Shard {
  File file;
  Region mapping;  // empty in copy mode and where the system refuses to map
};

// What is known about one tensor's bytes.
struct TensorState {
  std::mutex mutex;
  const void* data = nullptr;  // set once the checksum was found right
  Region copy;
};

Status Damaged(const File& file, const TensorEntry& tensor, uint32_t found) {
  return Corrupt("tensor ", Quoted(tensor.name), " in ", file.path(), " is damaged: its crc32c is ", found,
                 ", the manifest says ", tensor.crc32c);
}

// An interrupted replacement on a file system that cannot exchange directories leaves the old checkpoint beside its
// name.
StatusOr<File> OpenCheckpointDirectory(const std::string& directory) {
  StatusOr<File> opened = File::OpenDirectory(directory);
  if (opened.ok()) return opened;
  if (CodeOf(opened.status()) == XH_NOT_FOUND) {
    StatusOr<File> aside = File::OpenDirectory(SetAsidePath(directory));
    if (aside.ok()) return aside;
  }
  struct stat about;
  if (::stat(directory.c_str(), &about) == 0 && !S_ISDIR(about.st_mode)) {
    return Corrupt(directory, " is not an xhybrid checkpoint: a directory with ", kManifestFile, " is needed");
  }
  return opened;
}

StatusOr<std::vector<uint8_t>> ReadManifestFile(const File& directory) {
  StatusOr<File> opened = File::OpenReadAt(directory, kManifestFile, Links::kRefuse);
  if (!opened.ok() && CodeOf(opened.status()) == XH_NOT_FOUND) {
    return NotFound(directory.path(), " is not an xhybrid checkpoint: it has no ", kManifestFile);
  }
  XH_ASSIGN_OR_RETURN(const File file, std::move(opened));
  XH_ASSIGN_OR_RETURN(const int64_t bytes, file.Size());
  if (bytes > kManifestCap + kManifestHeaderBytes) {
    return Corrupt(file.path(), " has ", bytes, " bytes; allowed: at most ", kManifestCap + kManifestHeaderBytes);
  }
  // Into memory: what was checked cannot change afterwards.
  std::vector<uint8_t> content(static_cast<size_t>(bytes));
  XH_RETURN_IF_ERROR(file.ReadAt(0, content.data(), bytes));
  return content;
}

Status CheckSize(const File& file, const ShardEntry& entry) {
  XH_ASSIGN_OR_RETURN(const int64_t bytes, file.Size());
  if (bytes == entry.bytes) return absl::OkStatus();
  return Corrupt(file.path(), " has ", bytes, " bytes; the manifest says ", entry.bytes);
}

StatusOr<Shard> OpenShard(const File& directory, const ShardEntry& entry, LoadMode mode) {
  Shard shard;
  StatusOr<File> file = File::OpenReadAt(directory, entry.path, Links::kRefuse);
  if (!file.ok() && CodeOf(file.status()) == XH_NOT_FOUND) {
    return Corrupt(directory.path(), " is incomplete: its file ", Quoted(entry.path), " is missing");
  }
  XH_ASSIGN_OR_RETURN(shard.file, std::move(file));
  XH_RETURN_IF_ERROR(CheckSize(shard.file, entry));
  if (mode == LoadMode::kMap) {
    StatusOr<Region> mapping = Region::Map(shard.file, 0, entry.bytes);
    if (mapping.ok()) shard.mapping = *std::move(mapping);
  }
  return shard;
}

// Reads one shard from its first to its last byte, a chunk at a time.
class ShardCheck {
 public:
  ShardCheck(const File& file, const ShardEntry& entry) : file_(file), entry_(entry), buffer_(kChunk) {}

  Status Padding(int64_t end) {
    return Advance(end, [this](const uint8_t* data, int64_t bytes) -> Status {
      const uint8_t* other = std::find_if(data, data + bytes, [](uint8_t byte) { return byte != 0; });
      if (other == data + bytes) return absl::OkStatus();
      return Corrupt(file_.path(), " is damaged: padding byte ", at_ + (other - data), " is ", int{*other}, ", not 0");
    });
  }

  Status Tensor(const TensorEntry& tensor) {
    uint32_t crc = 0;
    XH_RETURN_IF_ERROR(Advance(at_ + tensor.bytes, [&crc](const uint8_t* data, int64_t bytes) -> Status {
      crc = Crc32c(data, static_cast<size_t>(bytes), crc);
      return absl::OkStatus();
    }));
    return crc == tensor.crc32c ? absl::OkStatus() : Damaged(file_, tensor, crc);
  }

  Status Digest() {
    std::vector<uint8_t> found;
    if (entry_.digest_kind == DigestKind::kSha256) {
      const Sha256::Digest digest = sha_.Finish();
      found.assign(digest.begin(), digest.end());
    } else if (entry_.digest_kind == DigestKind::kCrc32c) {
      found.resize(sizeof(crc_));
      std::memcpy(found.data(), &crc_, sizeof(crc_));
    }
    if (found == entry_.digest) return absl::OkStatus();
    return Corrupt(file_.path(), " is damaged: its digest differs from the one in the manifest");
  }

 private:
  template <typename Check>
  Status Advance(int64_t end, Check check) {
    while (at_ < end) {
      const int64_t bytes = std::min(end - at_, kChunk);
      XH_RETURN_IF_ERROR(file_.ReadAt(at_, buffer_.data(), bytes));
      const size_t size = static_cast<size_t>(bytes);
      if (entry_.digest_kind == DigestKind::kSha256) sha_.Update(buffer_.data(), size);
      if (entry_.digest_kind == DigestKind::kCrc32c) crc_ = Crc32c(buffer_.data(), size, crc_);
      XH_RETURN_IF_ERROR(check(buffer_.data(), bytes));
      at_ += bytes;
    }
    return absl::OkStatus();
  }

  const File& file_;
  const ShardEntry& entry_;
  std::vector<uint8_t> buffer_;
  int64_t at_ = 0;
  Sha256 sha_;
  uint32_t crc_ = 0;
};

}  // namespace

struct CheckpointReader::State {
  std::string directory;
  Manifest manifest;
  std::vector<Shard> shards;
  std::unique_ptr<TensorState[]> tensors;  // beside manifest.tensors

  StatusOr<const void*> Data(size_t index) {
    const TensorEntry& entry = manifest.tensors[index];
    TensorState& tensor = tensors[index];
    std::lock_guard<std::mutex> lock(tensor.mutex);
    if (tensor.data != nullptr) return tensor.data;
    const Shard& shard = shards[entry.shard];
    Region copy;
    const uint8_t* data = shard.mapping.data();
    if (data != nullptr) {
      // Reading a mapping beyond the end of its file raises SIGBUS: a file that was cut off since is refused here.
      XH_RETURN_IF_ERROR(CheckSize(shard.file, manifest.shards[entry.shard]));
      data += entry.offset;
    } else {
      XH_ASSIGN_OR_RETURN(copy, Region::Copy(shard.file, static_cast<int64_t>(entry.offset), entry.bytes));
      data = copy.data();
    }
    const uint32_t crc = Crc32c(data, static_cast<size_t>(entry.bytes));
    if (crc != entry.crc32c) return Damaged(shard.file, entry, crc);
    tensor.copy = std::move(copy);
    tensor.data = data;
    return tensor.data;
  }

  // `next` walks the tensors in the order in which they lie; it is left behind those of shard `index`.
  Status VerifyShard(size_t index, std::vector<const TensorEntry*>::const_iterator* next,
                     std::vector<const TensorEntry*>::const_iterator end) const {
    const ShardEntry& entry = manifest.shards[index];
    const File& file = shards[index].file;
    XH_RETURN_IF_ERROR(CheckSize(file, entry));
    ShardCheck check(file, entry);
    for (; *next != end && (**next)->shard == index; ++*next) {
      XH_RETURN_IF_ERROR(check.Padding(static_cast<int64_t>((**next)->offset)));
      XH_RETURN_IF_ERROR(check.Tensor(***next));
    }
    XH_RETURN_IF_ERROR(check.Padding(entry.bytes));
    return check.Digest();
  }
};

CheckpointReader::CheckpointReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
CheckpointReader::~CheckpointReader() = default;

StatusOr<std::shared_ptr<CheckpointReader>> CheckpointReader::Open(const std::string& directory, LoadMode mode) {
  auto state = std::make_unique<State>();
  state->directory = directory;
  XH_ASSIGN_OR_RETURN(const File folder, OpenCheckpointDirectory(directory));
  XH_ASSIGN_OR_RETURN(const std::vector<uint8_t> file, ReadManifestFile(folder));
  XH_ASSIGN_OR_RETURN(state->manifest, DecodeManifest(file, folder.path() + "/" + kManifestFile));
  for (const ShardEntry& entry : state->manifest.shards) {
    XH_ASSIGN_OR_RETURN(Shard shard, OpenShard(folder, entry, mode));
    state->shards.push_back(std::move(shard));
  }
  state->tensors = std::make_unique<TensorState[]>(state->manifest.tensors.size());
  return std::shared_ptr<CheckpointReader>(new CheckpointReader(std::move(state)));
}

const std::vector<TensorEntry>& CheckpointReader::tensors() const { return state_->manifest.tensors; }
const std::map<std::string, std::string>& CheckpointReader::metadata() const { return state_->manifest.metadata; }
const std::vector<LayerEntry>& CheckpointReader::layers() const { return state_->manifest.layers; }
std::string CheckpointReader::producer() const { return state_->manifest.producer; }
const std::string& CheckpointReader::directory() const { return state_->directory; }

const TensorEntry* CheckpointReader::Find(const std::string& name) const {
  const std::vector<TensorEntry>& all = tensors();
  const auto found = std::lower_bound(
      all.begin(), all.end(), name, [](const TensorEntry& entry, const std::string& key) { return entry.name < key; });
  return found != all.end() && found->name == name ? &*found : nullptr;
}

StatusOr<const void*> CheckpointReader::Data(const std::string& name) {
  const TensorEntry* entry = Find(name);
  if (entry == nullptr) return NotFound("checkpoint ", directory(), " has no tensor ", Quoted(name));
  return state_->Data(static_cast<size_t>(entry - tensors().data()));
}

Status CheckpointReader::Verify() {
  const std::vector<const TensorEntry*> order = InStorageOrder(state_->manifest);
  auto next = order.begin();
  for (size_t i = 0; i < state_->shards.size(); ++i) XH_RETURN_IF_ERROR(state_->VerifyShard(i, &next, order.end()));
  return absl::OkStatus();
}

}  // namespace xh
