#include "core/merge/merge_job.h"

#include <algorithm>

#include "core/checkpoint/dtype.h"
#include "core/merge/merge_inputs.h"
#include "core/merge/tensor_merger.h"
#include "core/model/save.h"
#include "core/options.h"

namespace xh {

const char kMergeSchema[] = R"json({"options": [
  {"name": "models", "type": "texts", "help": "the models to merge: checkpoints or Hugging Face directories"},
  {"name": "base", "type": "text", "default": "", "help": "the model that they began from, where the method needs it"},
  {"name": "method", "type": "text", "default": "linear", "help": "merge plugin: linear, slerp, task_arithmetic, ties"},
  {"name": "options", "type": "object", "default": {}, "help": "options of the method"},
  {"name": "output", "type": "text", "default": "", "help": "checkpoint directory to write, NAME.xhy"},
  {"name": "dtype", "type": "text", "default": "stored", "choices": ["stored", "f32", "bf16"],
   "help": "what the weights are written in; stored: as in the first model"},
  {"name": "replace", "type": "bool", "default": false, "help": "replace an existing checkpoint"},
  {"name": "dry_run", "type": "bool", "default": false, "help": "check everything and write nothing"}]})json";

namespace {

using nlohmann::json;

constexpr char kReportKey[] = "merge_report";

struct MergeRecipe {
  std::vector<std::string> models;
  std::string base;
  std::string method;
  json options;  // of the method, defaults filled in
  std::string output;
  xh_dtype dtype;  // 0: as stored
  bool replace;
  bool dry_run;
};

class MergeJob : public Job {
 public:
  MergeJob(MergeRecipe recipe, MergeInputs inputs, std::unique_ptr<TensorMerger> merger)
      : recipe_(std::move(recipe)),
        inputs_(std::move(inputs)),
        merger_(std::move(merger)),
        tensors_(First().tensors),
        sums_(inputs_.models.size()) {
    std::sort(tensors_.begin(), tensors_.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  }

  Status Open() {
    if (recipe_.dry_run) return absl::OkStatus();
    WriteOptions write;
    write.replace = recipe_.replace;
    XH_ASSIGN_OR_RETURN(writer_, CheckpointWriter::Open(recipe_.output, write));
    ModelFiles files = FilesOf(First());
    files.history.push_back(HistoryEntry());
    return AddModelMetadata(*writer_, First().config, files);
  }

  StatusOr<bool> Next(json* event) override {
    if (recipe_.dry_run) {
      *event = {{"kind", "checked"}, {"tensors", tensors_.size()}};
      return true;
    }
    if (writer_ == nullptr) return InvalidState("the merge has ended");
    if (cancelled()) {
      writer_.reset();
      return Cancelled("the merge was cancelled: nothing was written; start it again to begin anew");
    }
    if (done_ < tensors_.size()) {
      XH_RETURN_IF_ERROR(MergeTensor(tensors_[done_], event));
      return false;
    }
    writer_->SetMetadata(kReportKey, json({{"of", ReportSubject()}, {"tensors", report_}}).dump());
    XH_RETURN_IF_ERROR(writer_->Commit());
    writer_.reset();
    *event = {{"kind", "saved"}, {"path", recipe_.output}};
    return true;
  }

  json Result() const override {
    json result = {{"method", recipe_.method},   {"options", recipe_.options}, {"models", recipe_.models},
                   {"tensors", tensors_.size()}, {"parameters", parameters_},  {"dry_run", recipe_.dry_run}};
    if (!recipe_.base.empty()) result["base"] = recipe_.base;
    if (recipe_.dry_run) return result;
    result["output"] = recipe_.output;
    result["bytes"] = bytes_;
    result["report"] = sums_.Report();
    result["report"]["of"] = ReportSubject();
    return result;
  }

 private:
  const ModelSource& First() const { return inputs_.models.front().source; }
  const char* ReportSubject() const { return inputs_.base != nullptr ? "task vectors" : "weights"; }

  // What goes into the history: the recipe, and how the models beside the first came about.
  json HistoryEntry() const {
    json entry = {
        {"kind", "merge"}, {"method", recipe_.method}, {"options", recipe_.options}, {"models", json::array()}};
    for (size_t i = 0; i < inputs_.models.size(); ++i) {
      json model = {{"path", inputs_.models[i].path}};
      if (i > 0) model["history"] = inputs_.models[i].source.history;
      entry["models"].push_back(std::move(model));
    }
    if (inputs_.base != nullptr) entry["base"] = inputs_.base->path;
    return entry;
  }

  static StatusOr<MergeOperand> OperandOf(const MergeInput& input, const std::string& name) {
    auto stored = std::find_if(input.source.tensors.begin(), input.source.tensors.end(),
                               [&](const SourceTensor& tensor) { return tensor.name == name; });
    if (stored == input.source.tensors.end()) return Internal(input.path, " lost tensor ", name);
    XH_ASSIGN_OR_RETURN(const void* data, input.source.view(name));
    return MergeOperand{input.path, stored->dtype, data};
  }

  Status MergeTensor(const SourceTensor& tensor, json* event) {
    std::vector<MergeOperand> models;
    for (const MergeInput& input : inputs_.models) {
      XH_ASSIGN_OR_RETURN(MergeOperand operand, OperandOf(input, tensor.name));
      models.push_back(std::move(operand));
    }
    MergeOperand base{};
    if (inputs_.base != nullptr) {
      XH_ASSIGN_OR_RETURN(base, OperandOf(*inputs_.base, tensor.name));
    }
    XH_ASSIGN_OR_RETURN(const int64_t n, TensorBytes(XH_U8, tensor.shape));
    const xh_dtype dtype = recipe_.dtype != 0 ? recipe_.dtype : tensor.dtype;
    XH_ASSIGN_OR_RETURN(const MergedTensor merged,
                        merger_->Merge(tensor.name, models, inputs_.base != nullptr ? &base : nullptr, n, dtype));
    XH_RETURN_IF_ERROR(writer_->AddTensor(tensor.name, dtype, tensor.shape, merged.bytes.data()));
    sums_.Add(merged.sums);
    parameters_ += n;
    bytes_ += static_cast<int64_t>(merged.bytes.size());
    ++done_;
    *event = merged.sums.Report();
    (*event)["tensor"] = tensor.name;
    report_.push_back(*event);
    (*event)["kind"] = "merge";
    (*event)["done"] = done_;
    (*event)["total"] = tensors_.size();
    return absl::OkStatus();
  }

  const MergeRecipe recipe_;
  const MergeInputs inputs_;
  const std::unique_ptr<TensorMerger> merger_;
  std::vector<SourceTensor> tensors_;  // of the first model, by name
  std::unique_ptr<CheckpointWriter> writer_;
  TaskVectorSums sums_;  // over all tensors so far
  json report_ = json::array();
  size_t done_ = 0;
  int64_t parameters_ = 0;
  int64_t bytes_ = 0;
};

StatusOr<MergeRecipe> ReadRecipe(const json& recipe) {
  XH_ASSIGN_OR_RETURN(const json checked, CheckOptions(kMergeSchema, recipe, "merge"));
  const std::string dtype = checked["dtype"].get<std::string>();
  MergeRecipe read{checked["models"].get<std::vector<std::string>>(),
                   checked["base"].get<std::string>(),
                   checked["method"].get<std::string>(),
                   checked["options"],
                   checked["output"].get<std::string>(),
                   dtype == "f32"    ? XH_F32
                   : dtype == "bf16" ? XH_BF16
                                     : 0,
                   checked["replace"].get<bool>(),
                   checked["dry_run"].get<bool>()};
  if (read.models.empty()) return InvalidArgument("merge: \"models\" is empty; allowed: one path or more");
  if (read.output.empty() && !read.dry_run) {
    return InvalidArgument("merge: \"output\" is missing; allowed: a checkpoint directory to write, or \"dry_run\"");
  }
  return read;
}

}  // namespace

StatusOr<std::unique_ptr<Job>> OpenMergeJob(const std::shared_ptr<Runtime>& runtime, const json& recipe) {
  XH_ASSIGN_OR_RETURN(MergeRecipe read, ReadRecipe(recipe));
  XH_ASSIGN_OR_RETURN(const xh_merge_table* table, runtime->registry().FindMerge(read.method));
  XH_ASSIGN_OR_RETURN(read.options, CheckOptions(table->options_schema, read.options, "merge." + read.method));
  const OptionList options(read.options);
  XH_ASSIGN_OR_RETURN(std::unique_ptr<TensorMerger> merger,
                      TensorMerger::Open(table, read.method, options.data(), options.size(),
                                         static_cast<int32_t>(std::min<size_t>(read.models.size(), INT32_MAX)),
                                         !read.base.empty(), runtime->threads()));
  XH_ASSIGN_OR_RETURN(MergeInputs inputs, OpenMergeInputs(read.models, read.base));
  auto job = std::make_unique<MergeJob>(std::move(read), std::move(inputs), std::move(merger));
  XH_RETURN_IF_ERROR(job->Open());
  return std::unique_ptr<Job>(std::move(job));
}

}  // namespace xh
