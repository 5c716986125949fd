#include "core/train/training_checkpoint.h"

#include <algorithm>

#include "core/checkpoint/dtype.h"
#include "core/checkpoint/writer.h"
#include "core/json_fields.h"

namespace xh {
namespace {

using nlohmann::json;

constexpr char kPositionKey[] = "train/position";
constexpr char kStageKey[] = "train/stage";
constexpr int64_t kPieceBytes = 16ll << 20;  // copied from the device at once

Status AddOptimizerTensor(CheckpointWriter& writer, const OptimizerTensor& tensor, Device& device,
                          std::vector<char>* piece) {
  XH_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(XH_F32, tensor.shape));
  XH_RETURN_IF_ERROR(writer.BeginTensor(tensor.name, XH_F32, tensor.shape));
  for (int64_t done = 0; done < bytes;) {
    const int64_t count = std::min(kPieceBytes, bytes - done);
    piece->resize(static_cast<size_t>(count));
    XH_RETURN_IF_ERROR(device.Copy(piece->data(), reinterpret_cast<const char*>(tensor.data) + done, count));
    XH_RETURN_IF_ERROR(device.Synchronize());
    XH_RETURN_IF_ERROR(writer.Append(piece->data(), count));
    done += count;
  }
  return writer.EndTensor();
}

Status AddStudent(CheckpointWriter& writer, const Student& student, ModelFiles files, Device& device) {
  files.history = student.history;
  return AddModel(writer, student.config, student.weights, device, files);
}

StatusOr<std::unique_ptr<CheckpointWriter>> OpenReplacing(const std::string& path) {
  WriteOptions options;
  options.replace = true;
  return CheckpointWriter::Open(path, options);
}

}  // namespace

Status WriteTrainingCheckpoint(const std::string& path, const Student& student, const ModelFiles& files,
                               const TrainingPosition& position, const StageTrainer* trainer, Device& device) {
  XH_ASSIGN_OR_RETURN(const std::unique_ptr<CheckpointWriter> writer, OpenReplacing(path));
  XH_RETURN_IF_ERROR(AddStudent(*writer, student, files, device));
  const json text = {{"total_step", position.total_step},
                     {"stage", position.stage},
                     {"trainer", position.trainer},
                     {"loader", position.loader}};
  writer->SetMetadata(kPositionKey, text.dump());
  if (!position.stage_bytes.empty()) writer->SetMetadata(kStageKey, position.stage_bytes);
  std::vector<char> piece;
  if (trainer != nullptr) {
    for (const OptimizerTensor& tensor : trainer->optimizer().Tensors()) {
      XH_RETURN_IF_ERROR(AddOptimizerTensor(*writer, tensor, device, &piece));
    }
  }
  return writer->Commit();
}

StatusOr<TrainingPosition> ReadTrainingPosition(const CheckpointReader& reader) {
  const auto text = reader.metadata().find(kPositionKey);
  if (text == reader.metadata().end()) return Incompatible(reader.directory(), " is not a training checkpoint");
  StatusOr<json> parsed = ParseJson(text->second, absl::StrCat(reader.directory(), ": ", kPositionKey));
  if (!parsed.ok()) return Corrupt(std::string(parsed.status().message()));
  TrainingPosition position;
  JsonFields fields(&*parsed, reader.directory());
  XH_ASSIGN_OR_RETURN(position.total_step, fields.Int("total_step", 0, INT64_MAX));
  XH_ASSIGN_OR_RETURN(position.stage, fields.Int("stage", 0, INT64_MAX));
  if (const json* trainer = fields.Get("trainer")) position.trainer = *trainer;
  if (const json* loader = fields.Get("loader")) position.loader = *loader;
  const auto bytes = reader.metadata().find(kStageKey);
  if (bytes != reader.metadata().end()) position.stage_bytes = bytes->second;
  return position;
}

Status RestoreTrainer(CheckpointReader& reader, const TrainingPosition& position, StageTrainer* trainer,
                      Device& device) {
  for (const OptimizerTensor& tensor : trainer->optimizer().Tensors()) {
    const TensorEntry* entry = reader.Find(tensor.name);
    if (entry == nullptr || entry->dtype != XH_F32 || entry->shape != tensor.shape) {
      return Incompatible(reader.directory(), ": \"", tensor.name, "\" is missing or has another shape");
    }
    XH_ASSIGN_OR_RETURN(const void* bytes, reader.Data(tensor.name));
    XH_RETURN_IF_ERROR(device.Copy(tensor.data, bytes, entry->bytes));
  }
  XH_RETURN_IF_ERROR(device.Synchronize());
  XH_RETURN_IF_ERROR(trainer->stage().Restore(position.stage_bytes));
  return trainer->Restore(position.trainer);
}

Status WriteStudent(const std::string& path, const Student& student, const ModelFiles& files, Device& device) {
  XH_ASSIGN_OR_RETURN(const std::unique_ptr<CheckpointWriter> writer, OpenReplacing(path));
  XH_RETURN_IF_ERROR(AddStudent(*writer, student, files, device));
  return writer->Commit();
}

}  // namespace xh
