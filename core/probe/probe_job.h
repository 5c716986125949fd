// The job kind "probe": finds the heads that carry retrieval and writes a plan that keeps them (SPEC.md 7).
#ifndef XHYBRID_CORE_PROBE_PROBE_JOB_H_
#define XHYBRID_CORE_PROBE_PROBE_JOB_H_

#include <memory>

#include "core/job.h"

namespace xh {

extern const char kProbeSchema[];

// Each Next runs one batch of questions through the masks of the phase: {"kind": "probe", "phase", "done", "total",
// "eta_seconds"}. What was measured is kept beside the output after every phase, so that the same probe goes on there.
// The result has the plan, a table of layers and heads, and accuracies by kind of question.
StatusOr<std::unique_ptr<Job>> OpenProbeJob(const std::shared_ptr<Runtime>& runtime, const nlohmann::json& recipe);

}  // namespace xh

#endif  // XHYBRID_CORE_PROBE_PROBE_JOB_H_
