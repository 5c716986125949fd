// The job kind "export": a model becomes a Hugging Face directory, which import reads back as it was.
#ifndef XHYBRID_CORE_MODEL_EXPORT_H_
#define XHYBRID_CORE_MODEL_EXPORT_H_

#include <memory>

#include "core/job.h"

namespace xh {

extern const char kExportSchema[];

// Checks the recipe, the model and the files that travel with it before anything is written. Then each Next writes one
// tensor: {"kind": "tensor", "name", "done", "total", "bytes"}, where the largest tensor bounds the memory, and the
// last one adds the small files and makes the directory visible: {"kind": "saved", "path"}; with dry_run there is one
// event, {"kind": "checked"}. A cancelled or failed export leaves nothing behind.
//
// A model that is of a teacher's family, mixers and all, has the teacher's own config.json and loads without other
// code. A student has the type "xhybrid" (export/config_file.h) and three Python files, which transformers runs with
// trust_remote_code. generation_config.json and the tokenizer's files are written as they came.
StatusOr<std::unique_ptr<Job>> OpenExportJob(const std::shared_ptr<Runtime>& runtime, const nlohmann::json& recipe);

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_EXPORT_H_
