#include "core/model/export.h"

#include <algorithm>
#include <utility>

#include "core/checkpoint/dtype.h"
#include "core/checkpoint/names.h"
#include "core/model/export/config_file.h"
#include "core/model/export/huggingface_writer.h"
#include "core/model/export/python_files.h"
#include "core/model/source.h"
#include "core/options.h"
#include "core/text/tokenizer.h"

namespace xh {

const char kExportSchema[] = R"({"options": [
  {"name": "model", "type": "text", "help": "checkpoint, or Hugging Face directory"},
  {"name": "output", "type": "text", "default": "", "help": "Hugging Face directory to write"},
  {"name": "dtype", "type": "text", "default": "stored", "choices": ["stored", "f32", "bf16"],
   "help": "what the weights are written in"},
  {"name": "shard_size", "type": "int", "default": 5000000000, "min": 1, "max": 1000000000000000,
   "help": "bytes of weights a file holds at most; a larger tensor has its own"},
  {"name": "replace", "type": "bool", "default": false, "help": "replace an existing directory that holds a model"},
  {"name": "dry_run", "type": "bool", "default": false, "help": "check the model and write nothing"}]})";

namespace {

using nlohmann::json;

struct ExportOptions {
  std::string model;
  std::string output;
  xh_dtype dtype;  // 0: as stored
  int64_t shard_size;
  bool replace;
  bool dry_run;
};

// Only names that import reads: the directory would otherwise not come back whole, or lose a file to another.
Status AddKnown(const std::map<std::string, std::string>& from, const std::vector<std::string>& known, const char* what,
                std::map<std::string, std::string>* files) {
  for (const auto& [name, bytes] : from) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return Unsupported("the model carries the ", what, " file ", Quoted(name), ", which an import does not read");
    }
    (*files)[name] = bytes;
  }
  return absl::OkStatus();
}

class ExportJob : public Job {
 public:
  ExportJob(ExportOptions options, ModelSource source) : options_(std::move(options)), source_(std::move(source)) {}

  // Makes every file but the weights, and the output, so that what cannot be written is known before anything is read.
  Status Open() {
    XH_RETURN_IF_ERROR(MakeTensors());
    const Status made = MakeFiles();
    if (!made.ok()) return Annotate(made, options_.model);
    if (options_.dry_run) return absl::OkStatus();
    XH_ASSIGN_OR_RETURN(writer_,
                        HuggingFaceWriter::Open(options_.output, options_.replace, tensors_, options_.shard_size));
    return absl::OkStatus();
  }

  StatusOr<bool> Next(json* event) override {
    if (options_.dry_run) {
      *event = {{"kind", "checked"}, {"path", options_.model}, {"tensors", tensors_.size()}};
      return true;
    }
    if (cancelled()) {
      writer_.reset();
      return Cancelled("the export was cancelled: nothing was written; start it again to begin anew");
    }
    if (writer_ == nullptr) return InvalidState("the export has ended");
    StatusOr<bool> finished = Piece(event);
    if (!finished.ok() || *finished) writer_.reset();
    return finished;
  }

  json Result() const override {
    json result = {{"model", options_.model},
                   {"family", source_.config.family},
                   {"needs_code", needs_code_},
                   {"layers", source_.config.layer_count},
                   {"tensors", tensors_.size()},
                   {"bytes", bytes_},
                   {"shards", PlanShards(tensors_, options_.shard_size).size()},
                   {"dry_run", options_.dry_run}};
    if (!options_.dry_run) result["output"] = options_.output;
    return result;
  }

 private:
  Status MakeTensors() {
    for (const SourceTensor& tensor : source_.tensors) {
      const xh_dtype dtype = options_.dtype != 0 ? options_.dtype : tensor.dtype;
      XH_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(dtype, tensor.shape));
      tensors_.push_back({tensor.name, dtype, tensor.shape, bytes});
      bytes_ += bytes;
    }
    return absl::OkStatus();
  }

  Status MakeFiles() {
    XH_RETURN_IF_ERROR(
        AddKnown(source_.huggingface_files, {"config.json", "generation_config.json"}, "Hugging Face", &files_));
    XH_RETURN_IF_ERROR(AddKnown(source_.tokenizer_files, TokenizerFileNames(), "tokenizer", &files_));
    XH_ASSIGN_OR_RETURN(ConfigFile config, MakeConfigFile(source_, tensors_.front().dtype));
    files_["config.json"] = std::move(config.text);
    needs_code_ = config.needs_code;
    if (needs_code_) files_.insert(PythonFiles().begin(), PythonFiles().end());
    return absl::OkStatus();
  }

  StatusOr<bool> Piece(json* event) {
    if (next_ < tensors_.size()) {
      XH_RETURN_IF_ERROR(WriteTensor(source_.tensors[next_], tensors_[next_]));
      *event = {{"kind", "tensor"},
                {"name", tensors_[next_].name},
                {"done", next_ + 1},
                {"total", tensors_.size()},
                {"bytes", tensors_[next_].bytes}};
      ++next_;
      return false;
    }
    for (const auto& [name, bytes] : files_) XH_RETURN_IF_ERROR(writer_->AddFile(name, bytes));
    XH_RETURN_IF_ERROR(writer_->Commit());
    *event = {{"kind", "saved"}, {"path", options_.output}};
    return true;
  }

  Status WriteTensor(const SourceTensor& from, const SafeTensor& to) {
    XH_ASSIGN_OR_RETURN(const void* stored, source_.view(from.name));
    const bool same = from.dtype == to.dtype;
    std::string converted(same ? 0 : static_cast<size_t>(to.bytes), '\0');
    const Status finite = ConvertFinite(from.name, from.dtype, stored, ElementCount(from.shape), to.dtype,
                                        same ? nullptr : converted.data());
    if (!finite.ok()) return Annotate(finite, options_.model);
    return writer_->AddTensor(same ? stored : converted.data());
  }

  const ExportOptions options_;
  const ModelSource source_;
  std::vector<SafeTensor> tensors_;           // as they are written; the embeddings come first
  std::map<std::string, std::string> files_;  // name -> bytes
  bool needs_code_ = false;
  int64_t bytes_ = 0;
  std::unique_ptr<HuggingFaceWriter> writer_;
  size_t next_ = 0;
};

}  // namespace

StatusOr<std::unique_ptr<Job>> OpenExportJob(const std::shared_ptr<Runtime>&, const json& recipe) {
  XH_ASSIGN_OR_RETURN(const json checked, CheckOptions(kExportSchema, recipe, "export"));
  const std::string dtype = checked["dtype"].get<std::string>();
  ExportOptions options{checked["model"].get<std::string>(),
                        checked["output"].get<std::string>(),
                        dtype == "f32"    ? XH_F32
                        : dtype == "bf16" ? XH_BF16
                                          : 0,
                        checked["shard_size"].get<int64_t>(),
                        checked["replace"].get<bool>(),
                        checked["dry_run"].get<bool>()};
  if (options.output.empty() && !options.dry_run) {
    return InvalidArgument("export: \"output\" is missing; allowed: a directory to write, or \"dry_run\"");
  }
  XH_ASSIGN_OR_RETURN(ModelSource source, OpenModelSource(options.model));
  auto job = std::make_unique<ExportJob>(std::move(options), std::move(source));
  XH_RETURN_IF_ERROR(job->Open());
  return std::unique_ptr<Job>(std::move(job));
}

}  // namespace xh
