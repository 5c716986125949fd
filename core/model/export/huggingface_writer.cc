#include "core/model/export/huggingface_writer.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "core/checkpoint/names.h"
#include "core/format.h"

namespace xh {
namespace {

using nlohmann::json;

constexpr char kWhole[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";

// What tells that a directory holds a model: only such a one is ever replaced.
std::string MarkerOf(const std::string& target) {
  const bool whole = File::OpenRead(target + "/" + kWhole, Links::kFollow).ok();
  return whole ? kWhole : kIndex;
}

std::string IndexText(const std::vector<SafeTensor>& tensors, const std::vector<Shard>& shards) {
  int64_t bytes = 0;
  json map = json::object();
  for (const Shard& shard : shards) {
    for (size_t i = shard.first; i < shard.first + shard.count; ++i) {
      map[tensors[i].name] = shard.file;
      bytes += tensors[i].bytes;
    }
  }
  const json index = {{"metadata", {{"total_size", bytes}}}, {"weight_map", std::move(map)}};
  return index.dump(2) + "\n";
}

}  // namespace

std::vector<Shard> PlanShards(const std::vector<SafeTensor>& tensors, int64_t shard_bytes) {
  std::vector<Shard> shards;
  int64_t used = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const bool fits = !shards.empty() && used <= shard_bytes && tensors[i].bytes <= shard_bytes - used;
    if (!fits) {
      shards.push_back({"", i, 0});
      used = 0;
    }
    used += tensors[i].bytes;
    ++shards.back().count;
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].file = shards.size() == 1 ? kWhole : Format("model-%05d-of-%05d.safetensors", i + 1, shards.size());
  }
  return shards;
}

HuggingFaceWriter::HuggingFaceWriter(std::unique_ptr<AtomicDirectory> directory, std::vector<SafeTensor> tensors,
                                     std::vector<Shard> shards)
    : directory_(std::move(directory)), tensors_(std::move(tensors)), shards_(std::move(shards)) {}

StatusOr<std::unique_ptr<HuggingFaceWriter>> HuggingFaceWriter::Open(const std::string& target, bool replace,
                                                                     std::vector<SafeTensor> tensors,
                                                                     int64_t shard_bytes) {
  XH_ASSIGN_OR_RETURN(auto directory, AtomicDirectory::Open(target, replace, MarkerOf(target)));
  std::vector<Shard> shards = PlanShards(tensors, shard_bytes);
  return std::unique_ptr<HuggingFaceWriter>(
      new HuggingFaceWriter(std::move(directory), std::move(tensors), std::move(shards)));
}

Status HuggingFaceWriter::Keep(Status status) {
  if (status.ok()) return status;
  failure_ = std::move(status);
  file_.reset();
  directory_->Abandon();  // at once: on a full disk its space is needed
  return failure_;
}

Status HuggingFaceWriter::AddTensor(const void* data) {
  XH_RETURN_IF_ERROR(failure_);
  if (tensor_ == tensors_.size()) return InvalidState("all ", tensors_.size(), " tensors are written");
  return Keep(WriteTensor(data));
}

Status HuggingFaceWriter::WriteTensor(const void* data) {
  const Shard& shard = shards_[shard_];
  if (tensor_ == shard.first) {
    const auto first = tensors_.begin() + static_cast<ptrdiff_t>(shard.first);
    const std::vector<SafeTensor> list(first, first + static_cast<ptrdiff_t>(shard.count));
    // transformers 4 refuses a file that does not say whose order of dimensions it has.
    XH_ASSIGN_OR_RETURN(file_,
                        SafetensorsWriter::Create(directory_->directory(), shard.file, list, {{"format", "pt"}}));
  }
  XH_RETURN_IF_ERROR(file_->Write(data));
  if (++tensor_ < shard.first + shard.count) return absl::OkStatus();
  ++shard_;
  return file_->Close();
}

Status HuggingFaceWriter::AddFile(const std::string& name, const std::string& bytes) {
  XH_RETURN_IF_ERROR(failure_);
  return Keep(WriteFile(name, bytes));
}

Status HuggingFaceWriter::WriteFile(const std::string& name, const std::string& bytes) {
  XH_RETURN_IF_ERROR(CheckBareFileName(name));
  XH_ASSIGN_OR_RETURN(File file, File::CreateAt(directory_->directory(), name));
  XH_RETURN_IF_ERROR(file.Write(bytes.data(), static_cast<int64_t>(bytes.size())));
  XH_RETURN_IF_ERROR(file.Sync());
  return file.Close();
}

Status HuggingFaceWriter::Finish() {
  if (shards_.size() > 1) XH_RETURN_IF_ERROR(WriteFile(kIndex, IndexText(tensors_, shards_)));
  return directory_->Commit();
}

Status HuggingFaceWriter::Commit() {
  XH_RETURN_IF_ERROR(failure_);
  if (tensor_ < tensors_.size()) return InvalidState(tensor_, " of ", tensors_.size(), " tensors are written");
  return Keep(Finish());
}

}  // namespace xh
