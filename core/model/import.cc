#include "core/model/import.h"

#include <utility>

#include "core/checkpoint/dtype.h"
#include "core/model/save.h"
#include "core/options.h"

namespace xh {

const char kImportSchema[] = R"({"options": [
  {"name": "model", "type": "text", "help": "Hugging Face directory: config.json, safetensors, tokenizer files"},
  {"name": "output", "type": "text", "default": "", "help": "checkpoint directory to write, NAME.xhy"},
  {"name": "dtype", "type": "text", "default": "stored", "choices": ["stored", "f32", "bf16"],
   "help": "what the weights are written in"},
  {"name": "replace", "type": "bool", "default": false, "help": "replace an existing checkpoint"},
  {"name": "dry_run", "type": "bool", "default": false, "help": "check the model and write nothing"}]})";

namespace {

using nlohmann::json;

struct ImportOptions {
  std::string model;
  std::string output;
  xh_dtype dtype;  // 0: as stored
  bool replace;
  bool dry_run;
};

class ImportJob : public Job {
 public:
  ImportJob(ImportOptions options, ModelSource source) : options_(std::move(options)), source_(std::move(source)) {}

  // Makes the output, so that what cannot be written is known before anything is read.
  Status Open() {
    if (options_.dry_run) return absl::OkStatus();
    WriteOptions write;
    write.replace = options_.replace;
    XH_ASSIGN_OR_RETURN(writer_, CheckpointWriter::Open(options_.output, write));
    ModelFiles files = FilesOf(source_);
    if (files.history.empty()) {  // an exported model has one, and comes back as it was
      files.history = json::array({{{"kind", "import"}, {"model", options_.model}, {"family", source_.config.family}}});
    }
    return AddModelMetadata(*writer_, source_.config, files);
  }

  StatusOr<bool> Next(json* event) override {
    if (options_.dry_run) {
      *event = {{"kind", "checked"}, {"path", options_.model}, {"tensors", source_.tensors.size()}};
      return true;
    }
    if (cancelled()) {
      writer_.reset();
      return Cancelled("the import was cancelled: nothing was written; start it again to begin anew");
    }
    if (writer_ == nullptr) return InvalidState("the import has ended");
    if (next_ < source_.tensors.size()) {
      XH_RETURN_IF_ERROR(WriteTensor(source_.tensors[next_], event));
      ++next_;
      return false;
    }
    XH_RETURN_IF_ERROR(writer_->Commit());
    writer_.reset();
    *event = {{"kind", "saved"}, {"path", options_.output}};
    return true;
  }

  json Result() const override {
    int64_t parameters = 0;
    for (const SourceTensor& tensor : source_.tensors) parameters += TensorBytes(XH_U8, tensor.shape).value_or(0);
    json result = {
        {"model", options_.model},           {"family", source_.config.family}, {"layers", source_.config.layer_count},
        {"tensors", source_.tensors.size()}, {"parameters", parameters},        {"dry_run", options_.dry_run}};
    if (!options_.dry_run) {
      result["output"] = options_.output;
      result["bytes"] = bytes_;
    }
    return result;
  }

 private:
  Status WriteTensor(const SourceTensor& tensor, json* event) {
    const xh_dtype dtype = options_.dtype != 0 ? options_.dtype : tensor.dtype;
    XH_ASSIGN_OR_RETURN(const int64_t count, TensorBytes(XH_U8, tensor.shape));
    XH_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(dtype, tensor.shape));
    XH_ASSIGN_OR_RETURN(const void* stored, source_.view(tensor.name));
    const bool same = dtype == tensor.dtype;
    std::string converted(same ? 0 : static_cast<size_t>(bytes), '\0');
    const Status finite =
        ConvertFinite(tensor.name, tensor.dtype, stored, count, dtype, same ? nullptr : converted.data());
    if (!finite.ok()) return Annotate(finite, options_.model);
    XH_RETURN_IF_ERROR(writer_->AddTensor(tensor.name, dtype, tensor.shape, same ? stored : converted.data()));
    bytes_ += bytes;
    *event = {{"kind", "tensor"},
              {"name", tensor.name},
              {"done", next_ + 1},
              {"total", source_.tensors.size()},
              {"bytes", bytes}};
    return absl::OkStatus();
  }

  const ImportOptions options_;
  const ModelSource source_;
  std::unique_ptr<CheckpointWriter> writer_;
  size_t next_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace

StatusOr<std::unique_ptr<Job>> OpenImportJob(const std::shared_ptr<Runtime>&, const json& recipe) {
  XH_ASSIGN_OR_RETURN(const json checked, CheckOptions(kImportSchema, recipe, "import"));
  const std::string dtype = checked["dtype"].get<std::string>();
  ImportOptions options{checked["model"].get<std::string>(), checked["output"].get<std::string>(),
                        dtype == "f32"    ? XH_F32
                        : dtype == "bf16" ? XH_BF16
                                          : 0,
                        checked["replace"].get<bool>(), checked["dry_run"].get<bool>()};
  if (options.output.empty() && !options.dry_run) {
    return InvalidArgument("import: \"output\" is missing; allowed: a checkpoint directory to write, or \"dry_run\"");
  }
  XH_ASSIGN_OR_RETURN(ModelSource source, OpenHuggingFace(options.model));
  auto job = std::make_unique<ImportJob>(std::move(options), std::move(source));
  XH_RETURN_IF_ERROR(job->Open());
  return std::unique_ptr<Job>(std::move(job));
}

}  // namespace xh
