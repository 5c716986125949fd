// The job kind "tokenize": data files become rows of token ids, once for many runs.
#ifndef XHYBRID_CORE_TRAIN_TOKENIZE_JOB_H_
#define XHYBRID_CORE_TRAIN_TOKENIZE_JOB_H_

#include <memory>

#include "core/job.h"

namespace xh {

extern const char kTokenizeSchema[];

// Each Next tokenises one block of rows on all cores: {"kind": "tokenize", "done", "total" (bytes), "eta_seconds"}.
// Rows are {"ids": [...]}, with "masked" where loss_on is "assistant": a distillation makes of them what it makes of
// the data itself. The output appears when it is whole.
StatusOr<std::unique_ptr<Job>> OpenTokenizeJob(const std::shared_ptr<Runtime>& runtime, const nlohmann::json& recipe);

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_TOKENIZE_JOB_H_
