// Tasks as JSONL files, gzip'd or not. A row with "messages" is a question with a known answer; a row with "text" is
// text to predict. A JSON file describes questions to be made: retrieval_task.h.
#ifndef XHYBRID_CORE_EVALUATE_TASKS_H_
#define XHYBRID_CORE_EVALUATE_TASKS_H_

#include <string>
#include <vector>

#include "core/generate/session.h"
#include "core/model/model.h"

namespace xh {

enum class TaskKind {
  kExactMatch,  // greedy answer equals the last message, white space around both ignored
  kPerplexity   // exp of the mean negative log-likelihood of a token
};

struct Sample {
  std::vector<Message> prompt;  // kExactMatch: every message but the last
  std::string answer;           // kExactMatch: the last message's content
  std::string text;             // kPerplexity
  int64_t length = 0;           // tokens, about, and place of what is asked for: questions made for a task
  double depth = 0;
};

struct Task {
  std::string name;  // of the file, without its ending
  TaskKind kind;
  std::vector<Sample> samples;
  // Of made questions, every pair of which some samples have; empty for files of rows.
  std::vector<int64_t> lengths;
  std::vector<double> depths;
};

// Reads at most `limit` rows (0: all). All rows of a task are of one kind. Errors name file and line. Questions that a
// JSON file describes are made with the tokenizer of `maker`; without one that is refused.
StatusOr<Task> ReadTask(const std::string& path, int64_t limit, const Model* maker = nullptr);

// What a model made of one sample.
struct SampleResult {
  std::string answer;         // kExactMatch
  bool correct = false;       // kExactMatch
  double log_likelihood = 0;  // kPerplexity: sum over tokens
  int64_t tokens = 0;         // generated or scored
};

// What a model reads of a sample: the question in its chat template, or the text.
StatusOr<std::vector<int32_t>> PromptOf(const Model& model, TaskKind kind, const Sample& sample);

// Runs one sample on an idle session of the model. Results do not depend on what was run before.
StatusOr<SampleResult> RunSample(Session& session, TaskKind kind, const Sample& sample, int64_t max_tokens);

}  // namespace xh

#endif  // XHYBRID_CORE_EVALUATE_TASKS_H_
