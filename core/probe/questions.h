// Retrieval probes: texts whose end can only be predicted by finding something far back (SPEC.md 7).
#ifndef XHYBRID_CORE_PROBE_QUESTIONS_H_
#define XHYBRID_CORE_PROBE_QUESTIONS_H_

#include <string>
#include <vector>

#include "core/evaluate/tasks.h"
#include "core/model/model.h"

namespace xh {

struct Question {
  std::vector<int32_t> ids;  // prompt and answer
  int64_t answer = 0;        // where the answer begins
  int32_t kind = 0;          // number of the probe that it belongs to
};

struct QuestionOptions {
  std::vector<int64_t> lengths;  // tokens of a question, about; each at most the model's context
  int64_t count = 0;             // questions of a kind and length
  uint64_t seed = 0;
};

// Questions built with the model's tokenizer, the same for the same seed:
//   recall     a list of codes, one of which is asked for; as a chat where the model has a template
//   copy       a list of words, written twice: the answer is the end of the second
//   induction  random tokens, written twice; the only kind for a model without a tokenizer
const std::vector<std::string>& QuestionKinds();
// InvalidArgument when no question of a length fits.
StatusOr<std::vector<Question>> MakeQuestions(const Model& model, const std::string& kind,
                                              const QuestionOptions& options);
// The rows of a task file with known answers; rows longer than the context are left out, *left_out counts them.
StatusOr<std::vector<Question>> QuestionsOf(const Model& model, const Task& task, int64_t* left_out);

}  // namespace xh

#endif  // XHYBRID_CORE_PROBE_QUESTIONS_H_
