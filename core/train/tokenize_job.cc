#include "core/train/tokenize_job.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <utility>

#include "core/model/source.h"
#include "core/options.h"
#include "core/train/dataset.h"

namespace xh {

const char kTokenizeSchema[] = R"json({"options": [
  {"name": "model", "type": "text", "help": "model directory, or one that holds tokenizer files alone"},
  {"name": "data", "type": "texts", "help": "JSONL files: rows with \"messages\" or \"text\""},
  {"name": "kind", "type": "text", "default": "auto", "choices": ["auto", "chat", "text"], "help": "what rows are"},
  {"name": "output", "type": "text", "default": "", "help": "JSONL file to write, rows {\"ids\": [...]}"},
  {"name": "loss_on", "type": "text", "default": "all", "choices": ["all", "assistant"],
   "help": "assistant: rows say which tokens an assistant did not write, for a distillation with the same option"},
  {"name": "max_bad_rows", "type": "int", "default": 10, "min": 0, "max": 1000000000,
   "help": "malformed rows a file that are skipped with a warning before the job stops"},
  {"name": "replace", "type": "bool", "default": false, "help": "replace an existing file"},
  {"name": "dry_run", "type": "bool", "default": false, "help": "count and write nothing"}]})json";

namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

// {"ids": [...], "masked": [[first, end], ...]?} of one document of Documents.
std::string RowOf(const int32_t* tokens, int64_t count, bool with_masked) {
  std::string ids, masked;
  for (int64_t t = 0; t < count; ++t) {
    absl::StrAppend(&ids, t > 0 ? "," : "", tokens[t] < 0 ? ~tokens[t] : tokens[t]);
    if (tokens[t] >= 0) continue;
    const bool begins = t == 0 || tokens[t - 1] >= 0, ends = t + 1 == count || tokens[t + 1] >= 0;
    if (begins) absl::StrAppend(&masked, masked.empty() ? "" : ",", "[", t, ",");
    if (ends) absl::StrAppend(&masked, t + 1, "]");
  }
  if (!with_masked) return absl::StrCat("{\"ids\":[", ids, "]}\n");
  return absl::StrCat("{\"ids\":[", ids, "],\"masked\":[", masked, "]}\n");
}

class TokenizeJob : public Job {
 public:
  TokenizeJob(json recipe, std::shared_ptr<Tokenizer> tokenizer, ModelConfig config)
      : recipe_(std::move(recipe)),
        output_(recipe_["output"].get<std::string>()),
        tokenizer_(std::move(tokenizer)),
        config_(std::move(config)) {}
  ~TokenizeJob() override { RemoveTemporary(); }

  Status Open(const std::shared_ptr<Runtime>& runtime) {
    DocumentOptions options;
    options.tokenizer = tokenizer_.get();
    options.config = &config_;
    options.loss_on_assistant = recipe_["loss_on"] == "assistant";
    options.max_bad_rows = recipe_["max_bad_rows"].get<int64_t>();
    options.warn = [runtime](const std::string& text) { runtime->Log(XH_LOG_WARNING, "core", text); };
    for (const json& path : recipe_["data"]) {
      DataSource source;
      source.path = path.get<std::string>();
      source.kind = recipe_["kind"].get<std::string>();
      XH_ASSIGN_OR_RETURN(std::unique_ptr<DocumentReader> reader, DocumentReader::Open(source, options));
      total_bytes_ += reader->bytes();
      readers_.push_back(std::move(reader));
    }
    if (recipe_["dry_run"].get<bool>()) return absl::OkStatus();
    if (std::filesystem::exists(output_) && !recipe_["replace"].get<bool>()) {
      return InvalidState("tokenize: ", output_, " exists; allowed: another \"output\", or \"replace\"");
    }
    file_.open(output_ + ".tmp", std::ios::binary);
    return file_ ? absl::OkStatus() : IoError(output_, " cannot be written");
  }

  StatusOr<bool> Next(json* event) override {
    if (cancelled()) {
      RemoveTemporary();
      return Cancelled("the tokenisation was stopped: nothing was written; start it again to begin anew");
    }
    if (reader_ == readers_.size()) return InvalidState("the tokenisation has ended");
    XH_ASSIGN_OR_RETURN(const bool more, readers_[reader_]->Next(&block_));
    XH_RETURN_IF_ERROR(WriteBlock());
    const int64_t done = done_bytes_ + readers_[reader_]->bytes_read();
    if (!more) {
      done_bytes_ += readers_[reader_]->bytes();
      readers_[reader_++].reset();
      skipped_ += block_.skipped_rows;
      block_ = Documents();
    }
    seconds_ = std::chrono::duration<double>(Clock::now() - start_).count();
    const double left = done > 0 ? seconds_ / static_cast<double>(done) * static_cast<double>(total_bytes_ - done) : 0;
    *event = {{"kind", "tokenize"}, {"done", done}, {"total", total_bytes_}, {"eta_seconds", left}};
    if (reader_ < readers_.size()) return false;
    XH_RETURN_IF_ERROR(Finish());
    return true;
  }

  json Result() const override {
    const double seconds = std::max(seconds_, 1e-9);
    return {{"documents", documents_},
            {"tokens", tokens_},
            {"skipped_rows", skipped_},
            {"bytes", total_bytes_},
            {"seconds", seconds_},
            {"tokens_per_second", static_cast<double>(tokens_) / seconds},
            {"bytes_per_second", static_cast<double>(total_bytes_) / seconds},
            {"output", recipe_["dry_run"].get<bool>() ? "" : output_}};
  }

 private:
  void RemoveTemporary() {
    if (!file_.is_open()) return;
    file_.close();
    std::error_code ignored;
    std::filesystem::remove(output_ + ".tmp", ignored);
  }

  // Counts and writes the documents in hand and forgets them; what was skipped of their file stays.
  Status WriteBlock() {
    documents_ += block_.count();
    tokens_ += static_cast<int64_t>(block_.tokens.size());
    const bool with_masked = recipe_["loss_on"] == "assistant";
    for (int64_t i = 0; file_.is_open() && i < block_.count(); ++i) {
      const int64_t first = block_.starts[i];
      file_ << RowOf(block_.tokens.data() + first, block_.starts[i + 1] - first, with_masked);
    }
    block_.tokens.clear();
    block_.starts = {0};
    return file_ ? absl::OkStatus() : IoError(output_, " cannot be written");
  }

  Status Finish() {
    if (!file_.is_open()) return absl::OkStatus();
    file_.close();
    std::error_code failed;
    if (file_) std::filesystem::rename(output_ + ".tmp", output_, failed);
    return file_ && !failed ? absl::OkStatus() : IoError(output_, " cannot be written");
  }

  const json recipe_;
  const std::string output_;
  const std::shared_ptr<Tokenizer> tokenizer_;
  const ModelConfig config_;
  std::vector<std::unique_ptr<DocumentReader>> readers_;
  size_t reader_ = 0;
  Documents block_;  // in hand
  std::ofstream file_;
  int64_t done_bytes_ = 0, total_bytes_ = 0, documents_ = 0, tokens_ = 0, skipped_ = 0;
  double seconds_ = 0;
  const Clock::time_point start_ = Clock::now();
};

}  // namespace

StatusOr<std::unique_ptr<Job>> OpenTokenizeJob(const std::shared_ptr<Runtime>& runtime, const json& recipe) {
  XH_ASSIGN_OR_RETURN(json checked, CheckOptions(kTokenizeSchema, recipe, "tokenize"));
  if (checked["data"].empty()) return InvalidArgument("tokenize: \"data\" is empty; name at least one file");
  if (checked["output"].get<std::string>().empty() && !checked["dry_run"].get<bool>()) {
    return InvalidArgument("tokenize: \"output\" is missing; allowed: a file to write, or \"dry_run\"");
  }
  const std::string path = checked["model"];
  XH_ASSIGN_OR_RETURN(const auto files, ReadTokenizerFiles(path));
  if (files.empty()) return NotFound(path, " has no tokenizer files");
  XH_ASSIGN_OR_RETURN(std::shared_ptr<Tokenizer> tokenizer, Tokenizer::Open(runtime->registry(), files));
  // Documents end as the model's config says; tokenizer files alone say nothing of it.
  ModelConfig config;
  config.vocab_size = tokenizer->vocab_size();
  const StatusOr<ModelSource> source = OpenModelSource(path);
  if (source.ok()) config = source->config;
  if (!source.ok() && CodeOf(source.status()) != XH_NOT_FOUND) return source.status();
  auto job = std::make_unique<TokenizeJob>(std::move(checked), std::move(tokenizer), std::move(config));
  XH_RETURN_IF_ERROR(job->Open(runtime));
  return std::unique_ptr<Job>(std::move(job));
}

}  // namespace xh
