// Tasks that are made rather than read: a code to be found at chosen lengths and depths of a text (SPEC.md 7).
//   {"task": "recall", "lengths": [128, 512], "depths": [0, 0.5, 1], "samples": 16, "seed": 0}
//   {"task": "needle", "text": "stories.jsonl", "lengths": ...}     one code in real text, rows with "text"
#ifndef XHYBRID_CORE_EVALUATE_RETRIEVAL_TASK_H_
#define XHYBRID_CORE_EVALUATE_RETRIEVAL_TASK_H_

#include <string>

#include "core/evaluate/tasks.h"

namespace xh {

// Whether a task file describes a task to be made: its name ends with ".json".
bool IsRetrievalTask(const std::string& path);

// Makes `samples` questions for each length and depth, or the first `limit` of all (0: all), of which the first few
// cover all lengths. A question with its text, as `model`'s template writes it, has at most `length` of its tokens.
// Depth 0 is the text's beginning, 1 its end. "text" is beside the file or absolute. InvalidArgument for a length that
// is beyond the model's context, or that holds no question.
StatusOr<Task> MakeRetrievalTask(const std::string& path, int64_t limit, const Model& model);

}  // namespace xh

#endif  // XHYBRID_CORE_EVALUATE_RETRIEVAL_TASK_H_
