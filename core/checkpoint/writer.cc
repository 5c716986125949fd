#include "core/checkpoint/writer.h"

#include <algorithm>
#include <utility>

#include "core/checkpoint/dtype.h"
#include "core/checkpoint/names.h"
#include "core/format.h"

namespace xh {
namespace {

constexpr int64_t kChunk = 1ll << 20;  // digests and the write of a piece meet it in the cache

int64_t Aligned(int64_t offset) { return (offset + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment; }

}  // namespace

CheckpointWriter::CheckpointWriter(std::unique_ptr<AtomicDirectory> directory, int64_t shard_bytes, std::string target)
    : directory_(std::move(directory)), shard_bytes_(shard_bytes), target_(std::move(target)) {
  manifest_.producer = "libxhybrid " XHYBRID_RELEASE;
}

CheckpointWriter::~CheckpointWriter() = default;

StatusOr<std::unique_ptr<CheckpointWriter>> CheckpointWriter::Open(const std::string& target_directory,
                                                                   const WriteOptions& options) {
  if (options.shard_bytes < 1) return InvalidArgument("shard_bytes is ", options.shard_bytes, "; allowed: 1 or more");
  XH_ASSIGN_OR_RETURN(auto directory, AtomicDirectory::Open(target_directory, options.replace, kManifestFile));
  return std::unique_ptr<CheckpointWriter>(
      new CheckpointWriter(std::move(directory), options.shard_bytes, target_directory));
}

Status CheckpointWriter::CheckUsable() const {
  if (committed_) return InvalidState("checkpoint ", target_, " is committed; nothing can be added");
  return failure_;
}

Status CheckpointWriter::Fail(Status failure) {
  if (failure.ok()) return failure;
  failure_ = std::move(failure);
  shard_ = File();
  directory_->Abandon();  // at once: on a full disk its space is needed
  return failure_;
}

Status CheckpointWriter::AddTensor(const std::string& name, xh_dtype dtype, const std::vector<int64_t>& shape,
                                   const void* data) {
  XH_RETURN_IF_ERROR(BeginTensor(name, dtype, shape));
  XH_RETURN_IF_ERROR(Append(data, tensor_.bytes));
  return EndTensor();
}

Status CheckpointWriter::BeginTensor(const std::string& name, xh_dtype dtype, const std::vector<int64_t>& shape) {
  XH_RETURN_IF_ERROR(CheckUsable());
  if (tensor_open_) return InvalidState("tensor ", Quoted(tensor_.name), " is not ended yet");
  XH_RETURN_IF_ERROR(CheckName("tensor name", name));
  StatusOr<int64_t> bytes = TensorBytes(dtype, shape);
  if (!bytes.ok()) return Annotate(bytes.status(), absl::StrCat("tensor ", Quoted(name)));
  if (names_.count(name) > 0) return InvalidArgument("tensor ", Quoted(name), " is added twice");
  tensor_ = TensorEntry();
  tensor_.name = name;
  tensor_.dtype = dtype;
  tensor_.shape = shape;
  tensor_.bytes = *bytes;
  XH_RETURN_IF_ERROR(Fail(PlaceTensor()));
  names_.insert(name);
  tensor_open_ = true;
  tensor_written_ = 0;
  return absl::OkStatus();
}

Status CheckpointWriter::PlaceTensor() {
  if (shard_open_) {
    const int64_t used = manifest_.shards.back().bytes;
    const int64_t begin = Aligned(used);
    if (used > 0 && (begin > shard_bytes_ || tensor_.bytes > shard_bytes_ - begin)) XH_RETURN_IF_ERROR(CloseShard());
  }
  if (!shard_open_) XH_RETURN_IF_ERROR(OpenShard());
  XH_RETURN_IF_ERROR(Pad(Aligned(manifest_.shards.back().bytes)));
  tensor_.shard = static_cast<uint32_t>(manifest_.shards.size() - 1);
  tensor_.offset = static_cast<uint64_t>(manifest_.shards.back().bytes);
  return absl::OkStatus();
}

Status CheckpointWriter::Append(const void* data, int64_t bytes) {
  XH_RETURN_IF_ERROR(CheckUsable());
  if (!tensor_open_) return InvalidState("no tensor is begun in checkpoint ", target_);
  if (bytes < 0 || bytes > tensor_.bytes - tensor_written_) {
    return InvalidArgument("tensor ", Quoted(tensor_.name), " is given ", bytes, " bytes; allowed: 0 to ",
                           tensor_.bytes - tensor_written_);
  }
  const char* from = static_cast<const char*>(data);
  for (int64_t done = 0; done < bytes;) {
    const int64_t piece = std::min(bytes - done, kChunk);
    tensor_.crc32c = Crc32c(from + done, static_cast<size_t>(piece), tensor_.crc32c);
    XH_RETURN_IF_ERROR(Fail(WriteBytes(from + done, piece)));
    done += piece;
  }
  tensor_written_ += bytes;
  return absl::OkStatus();
}

Status CheckpointWriter::EndTensor() {
  XH_RETURN_IF_ERROR(CheckUsable());
  if (!tensor_open_) return InvalidState("no tensor is begun in checkpoint ", target_);
  if (tensor_written_ != tensor_.bytes) {
    return InvalidState("tensor ", Quoted(tensor_.name), " has ", tensor_written_, " of its ", tensor_.bytes, " bytes");
  }
  manifest_.tensors.push_back(std::move(tensor_));
  tensor_open_ = false;
  return absl::OkStatus();
}

void CheckpointWriter::AddLayer(const LayerEntry& layer) { manifest_.layers.push_back(layer); }

void CheckpointWriter::SetMetadata(const std::string& key, const std::string& value) {
  manifest_.metadata[key] = value;
}

Status CheckpointWriter::OpenShard() {
  ShardEntry entry;
  entry.path = Format("tensors-%05d.bin", manifest_.shards.size());
  entry.digest_kind = DigestKind::kSha256;
  XH_ASSIGN_OR_RETURN(shard_, File::CreateAt(directory_->directory(), entry.path));
  manifest_.shards.push_back(std::move(entry));
  sha_ = Sha256();
  shard_open_ = true;
  return absl::OkStatus();
}

Status CheckpointWriter::CloseShard() {
  const Sha256::Digest digest = sha_.Finish();
  manifest_.shards.back().digest.assign(digest.begin(), digest.end());
  shard_open_ = false;
  XH_RETURN_IF_ERROR(shard_.Sync());
  return shard_.Close();
}

Status CheckpointWriter::WriteBytes(const void* data, int64_t bytes) {
  XH_RETURN_IF_ERROR(shard_.Write(data, bytes));
  sha_.Update(data, static_cast<size_t>(bytes));
  manifest_.shards.back().bytes += bytes;
  return absl::OkStatus();
}

Status CheckpointWriter::Pad(int64_t to) {
  static constexpr char kZeros[kTensorAlignment] = {};
  return WriteBytes(kZeros, to - manifest_.shards.back().bytes);
}

Status CheckpointWriter::CheckText() const {
  for (const auto& [key, value] : manifest_.metadata) XH_RETURN_IF_ERROR(CheckName("metadata key", key));
  for (const LayerEntry& layer : manifest_.layers) {
    XH_RETURN_IF_ERROR(CheckName("layer kind", layer.kind));
    for (const auto& [key, value] : layer.settings) XH_RETURN_IF_ERROR(CheckName("layer setting", key));
  }
  return absl::OkStatus();
}

Status CheckpointWriter::WriteManifest() {
  XH_ASSIGN_OR_RETURN(const std::vector<uint8_t> content, EncodeManifest(manifest_));
  XH_ASSIGN_OR_RETURN(File file, File::CreateAt(directory_->directory(), kManifestFile));
  XH_RETURN_IF_ERROR(file.Write(content.data(), static_cast<int64_t>(content.size())));
  XH_RETURN_IF_ERROR(file.Sync());
  return file.Close();
}

Status CheckpointWriter::Finish() {
  XH_RETURN_IF_ERROR(CheckText());
  if (shard_open_) XH_RETURN_IF_ERROR(CloseShard());
  XH_RETURN_IF_ERROR(WriteManifest());
  return directory_->Commit();
}

Status CheckpointWriter::Commit() {
  XH_RETURN_IF_ERROR(CheckUsable());
  if (tensor_open_) return InvalidState("tensor ", Quoted(tensor_.name), " is not ended yet");
  XH_RETURN_IF_ERROR(Fail(Finish()));
  committed_ = true;
  return absl::OkStatus();
}

}  // namespace xh
