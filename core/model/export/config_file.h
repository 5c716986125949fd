// config.json of an exported model, and the way back. A model that is its teacher's family to the last field keeps the
// teacher's own text; any other is of the type "xhybrid" and holds what it is in one object of that name:
//   "xhybrid": {ConfigToJson, "format": 1, "teacher_config": the text of the teacher's config.json, "history": [...]}
#ifndef XHYBRID_CORE_MODEL_EXPORT_CONFIG_FILE_H_
#define XHYBRID_CORE_MODEL_EXPORT_CONFIG_FILE_H_

#include <string>

#include "core/model/source.h"

namespace xh {

struct ConfigFile {
  std::string text;
  bool needs_code;  // of the type "xhybrid": the Python files go with it
};

// `dtype` is what the embeddings are written in; "dtype" and "torch_dtype" of the text are corrected where they name
// another. Incompatible when the model carries no config.json of its teacher.
StatusOr<ConfigFile> MakeConfigFile(const ModelSource& source, xh_dtype dtype);

// Reads what MakeConfigFile wrote for the type "xhybrid" from huggingface_files["config.json"] into config, history and
// that file itself, which becomes the teacher's again. False, and nothing is changed, when the file is missing or of
// another type. `where` names it in messages. Unsupported for a format that a newer version writes.
StatusOr<bool> ReadConfigFile(const std::string& where, ModelSource* source);

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_EXPORT_CONFIG_FILE_H_
