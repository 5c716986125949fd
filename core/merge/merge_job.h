// The job kind "merge": experts that began from the same weights become one model (SPEC.md 5), by a merge plugin.
#ifndef XHYBRID_CORE_MERGE_MERGE_JOB_H_
#define XHYBRID_CORE_MERGE_MERGE_JOB_H_

#include <memory>

#include "core/job.h"

namespace xh {

extern const char kMergeSchema[];

// Opens models and base, compares them, and lets the plugin check its options, all before any tensor is read; the
// output is begun, so that what cannot be written is known as well. Then each Next merges one tensor, in the order of
// names: {"kind": "merge", "tensor", "done", "total", "norms", "cosines", "sign_conflict"} (task_vectors.h); the last
// one makes the checkpoint visible: {"kind": "saved", "path"}. With dry_run there is one event, {"kind": "checked"}.
// A cancelled or failed merge leaves nothing behind.
//
// Config, layers and files of the output are the first model's; its history gains one entry; metadata "merge_report"
// has what the events said. Training state of the inputs is neither merged nor copied.
StatusOr<std::unique_ptr<Job>> OpenMergeJob(const std::shared_ptr<Runtime>& runtime, const nlohmann::json& recipe);

}  // namespace xh

#endif  // XHYBRID_CORE_MERGE_MERGE_JOB_H_
