// Tasks as JSONL files. A row with "messages" is a question with a known answer; a row with "text" is text to predict.
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
};

struct Task {
  std::string name;  // of the file, without its ending
  TaskKind kind;
  std::vector<Sample> samples;
};

// Reads at most `limit` rows (0: all). All rows of a task are of one kind. Errors name file and line.
StatusOr<Task> ReadTask(const std::string& path, int64_t limit);

// What a model made of one sample.
struct SampleResult {
  std::string answer;         // kExactMatch
  bool correct = false;       // kExactMatch
  double log_likelihood = 0;  // kPerplexity: sum over tokens
  int64_t tokens = 0;         // generated or scored
};

// Runs one sample on an idle session of the model. Results do not depend on what was run before.
StatusOr<SampleResult> RunSample(Session& session, TaskKind kind, const Sample& sample, int64_t max_tokens);

}  // namespace xh

#endif  // XHYBRID_CORE_EVALUATE_TASKS_H_
