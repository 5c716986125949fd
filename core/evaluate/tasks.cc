#include "core/evaluate/tasks.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/ascii.h"
#include "core/evaluate/retrieval_task.h"
#include "core/json_fields.h"
#include "core/line_reader.h"
#include "core/model/tap.h"

namespace xh {
namespace {

constexpr int64_t kMostLineBytes = 16 << 20;

StatusOr<Sample> ReadMessages(const nlohmann::json& messages, const std::string& where) {
  if (!messages.is_array() || messages.size() < 2) {
    return InvalidArgument(where, ": \"messages\" must be a list of a question and its answer");
  }
  Sample sample;
  for (size_t i = 0; i < messages.size(); ++i) {
    JsonFields fields(&messages[i], absl::StrCat(where, ": messages[", i, "]"));
    XH_ASSIGN_OR_RETURN(std::string role, fields.Text("role"));
    XH_ASSIGN_OR_RETURN(std::string content, fields.Text("content"));
    if (i + 1 < messages.size()) {
      sample.prompt.push_back({std::move(role), std::move(content)});
    } else if (role != "assistant") {
      return InvalidArgument(where, ": the last message is of \"", role, "\"; allowed: assistant, the answer");
    } else {
      sample.answer = std::move(content);
    }
  }
  return sample;
}

StatusOr<Sample> ReadRow(const std::string& line, const std::string& where, TaskKind* kind) {
  XH_ASSIGN_OR_RETURN(nlohmann::json row, ParseJson(line, where, kMostLineBytes));
  JsonFields fields(&row, where);
  if (fields.Has("messages")) {
    *kind = TaskKind::kExactMatch;
    return ReadMessages(*fields.Get("messages"), where);
  }
  *kind = TaskKind::kPerplexity;
  Sample sample;
  StatusOr<std::string> text = fields.Text("text");
  if (!text.ok()) return InvalidArgument(where, ": a row needs \"messages\" or \"text\"");
  sample.text = *std::move(text);
  return sample;
}

Status AddRow(const std::string& line, const std::string& where, Task* task) {
  if (absl::StripAsciiWhitespace(line).empty()) return absl::OkStatus();
  TaskKind kind;
  XH_ASSIGN_OR_RETURN(Sample sample, ReadRow(line, where, &kind));
  if (!task->samples.empty() && kind != task->kind) {
    return InvalidArgument(where, ": a row with \"messages\" among rows with \"text\"; a task has one kind");
  }
  task->kind = kind;
  task->samples.push_back(std::move(sample));
  return absl::OkStatus();
}

// The likeliest answer up to an end token, as text.
StatusOr<SampleResult> Answer(Session& session, const Sample& sample, int64_t max_tokens) {
  XH_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, PromptOf(session.model(), TaskKind::kExactMatch, sample));
  XH_RETURN_IF_ERROR(session.Reset());
  SamplerOptions greedy;
  greedy.max_tokens = max_tokens;
  XH_RETURN_IF_ERROR(session.SetSampler(greedy));
  XH_RETURN_IF_ERROR(session.Feed(ids.data(), static_cast<int64_t>(ids.size())));
  SampleResult result;
  for (bool finished = false; !finished; ++result.tokens) {
    XH_ASSIGN_OR_RETURN(Chosen chosen, session.Next());
    result.answer += chosen.piece;
    finished = chosen.finished || session.position() == session.capacity();
  }
  result.answer = std::string(absl::StripAsciiWhitespace(result.answer));
  result.correct = result.answer == absl::StripAsciiWhitespace(sample.answer);
  return result;
}

// Texts longer than the context are scored in pieces of it.
StatusOr<SampleResult> Score(const Model& model, const Sample& sample) {
  XH_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, PromptOf(model, TaskKind::kPerplexity, sample));
  SampleResult result;
  const int64_t count = static_cast<int64_t>(ids.size());
  for (int64_t first = 0; first + 1 < count; first += model.config.context - 1) {
    const int64_t tokens = std::min(model.config.context, count - first);
    XH_ASSIGN_OR_RETURN(std::vector<float> scores, ScoreTokens(model, ids.data() + first, tokens));
    for (float score : scores) result.log_likelihood += score;
    result.tokens += static_cast<int64_t>(scores.size());
  }
  return result;
}

}  // namespace

StatusOr<Task> ReadTask(const std::string& path, int64_t limit, const Model* maker) {
  if (IsRetrievalTask(path)) {
    if (maker == nullptr) return InvalidArgument("task ", path, " describes questions; allowed here: rows of JSONL");
    return MakeRetrievalTask(path, limit, *maker);
  }
  XH_ASSIGN_OR_RETURN(LineReader reader, LineReader::Open(path));
  Task task;
  std::string name = std::filesystem::path(path).filename().string();
  task.name = name.substr(0, name.find('.'));
  std::vector<std::string> lines;
  do {
    int64_t number = 0;
    XH_RETURN_IF_ERROR(reader.NextBlock(&lines, &number));
    for (const std::string& line : lines) {
      if (limit > 0 && static_cast<int64_t>(task.samples.size()) == limit) return task;
      XH_RETURN_IF_ERROR(AddRow(line, absl::StrCat(path, ":", number++), &task));
    }
  } while (!lines.empty());
  if (task.samples.empty()) return InvalidArgument("task ", path, " has no rows");
  return task;
}

StatusOr<std::vector<int32_t>> PromptOf(const Model& model, TaskKind kind, const Sample& sample) {
  if (model.tokenizer == nullptr)
    return InvalidState(model.path, " has no tokenizer that can be used: ", model.tokenizer_problem);
  if (kind == TaskKind::kPerplexity) return model.tokenizer->Encode(sample.text, true);
  XH_ASSIGN_OR_RETURN(const std::string prompt, model.tokenizer->RenderChat(sample.prompt, true));
  return model.tokenizer->Encode(prompt, true);
}

StatusOr<SampleResult> RunSample(Session& session, TaskKind kind, const Sample& sample, int64_t max_tokens) {
  return kind == TaskKind::kExactMatch ? Answer(session, sample, max_tokens) : Score(session.model(), sample);
}

}  // namespace xh
