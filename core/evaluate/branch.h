// A trained student with one of its two branches switched off: what each of them is worth (SPEC.md 7).
#ifndef XHYBRID_CORE_EVALUATE_BRANCH_H_
#define XHYBRID_CORE_EVALUATE_BRANCH_H_

#include <string>
#include <vector>

#include "core/model/model.h"
#include "nlohmann/json.hpp"

namespace xh {

enum class Branch { kBoth, kWindow, kMlstm };

// "runs/a/student.xhy", or the same with ":window" or ":mlstm" behind it: that branch alone.
struct ModelName {
  std::string path;
  Branch branch = Branch::kBoth;
};
ModelName ParseModelName(const std::string& name);

// Sets every output gate of the hybrid layers to 0 or to 1; nothing for kBoth. InvalidArgument for a model that mixes
// no branches.
Status KeepBranch(Branch branch, Model* model);

// The mean over the tokens of `texts` of the gate o of every head that mixes two branches, 0 to 1, [layer][head]; null
// for a head that does not, and null as a whole where none does. Texts beyond the context are cut.
StatusOr<nlohmann::json> GateMeans(const Model& model, const std::vector<std::vector<int32_t>>& texts);

}  // namespace xh

#endif  // XHYBRID_CORE_EVALUATE_BRANCH_H_
