// The models that a merge reads: opened, and checked to be of one shape before any tensor is read.
#ifndef XHYBRID_CORE_MERGE_MERGE_INPUTS_H_
#define XHYBRID_CORE_MERGE_MERGE_INPUTS_H_

#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/model/source.h"

namespace xh {

struct MergeInput {
  std::string path;
  ModelSource source;
};

struct MergeInputs {
  std::vector<MergeInput> models;    // at least one
  std::unique_ptr<MergeInput> base;  // NULL without one
};

// Opens models and base ("": none) and compares each with the first model: config (sizes, rotary embedding, the mixer
// of every layer), tensor names and shapes, tokenizer files. Incompatible, naming the first difference and both paths.
// Stored dtypes may differ.
StatusOr<MergeInputs> OpenMergeInputs(const std::vector<std::string>& models, const std::string& base);

}  // namespace xh

#endif  // XHYBRID_CORE_MERGE_MERGE_INPUTS_H_
