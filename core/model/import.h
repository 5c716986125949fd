// The job kind "import": a Hugging Face directory becomes a checkpoint.
#ifndef XHYBRID_CORE_MODEL_IMPORT_H_
#define XHYBRID_CORE_MODEL_IMPORT_H_

#include <memory>

#include "core/job.h"

namespace xh {

extern const char kImportSchema[];

// Checks the recipe, the config and every tensor's name, shape and dtype before any tensor is read. Then each Next
// writes one tensor: {"kind": "tensor", "name", "done", "total", "bytes"}, where the largest tensor bounds the memory,
// and the last one makes the checkpoint visible: {"kind": "saved", "path"}; with dry_run there is one event, {"kind":
// "checked"}. A cancelled or failed import leaves nothing behind.
StatusOr<std::unique_ptr<Job>> OpenImportJob(const std::shared_ptr<Runtime>& runtime, const nlohmann::json& recipe);

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_IMPORT_H_
