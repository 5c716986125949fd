// What a stage says of one step: which parameters train, what runs, and the loss that training makes small.
#ifndef XHYBRID_CORE_TRAIN_DECLARATION_H_
#define XHYBRID_CORE_TRAIN_DECLARATION_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/train/stage_options.h"
#include "xhybrid_plugin.h"

namespace xh {

enum class Tap { kMixerOut, kLogits };

struct DeclaredLoss {
  xh_op op = 0;  // XH_OP_ALIGN_LOSS on kMixerOut, XH_OP_DISTILL_LOSS on kLogits
  Tap tap = Tap::kMixerOut;
  xh_forward student = XH_STUDENT;  // XH_STUDENT or XH_STUDENT_MIXERS; the other side is the teacher
  xh_distill_params distill = {};   // of XH_OP_DISTILL_LOSS
  int32_t top_k = 0;                // likewise
};

struct StageDeclaration {
  std::vector<std::pair<std::string, bool>> trainable;  // patterns in the order given; the last match counts
  DeclaredLoss loss;

  bool Trains(const std::string& parameter) const;  // false where no pattern matches
};

// True when `pattern`, in which '*' stands for any text, covers all of `text`.
bool MatchesPattern(const std::string& pattern, const std::string& text);

// An opened stage plugin; closes itself. One thread at a time.
class Stage {
 public:
  static StatusOr<std::unique_ptr<Stage>> Open(const StageRecipe& recipe);
  ~Stage();

  StatusOr<StageDeclaration> Declare();
  // State that must survive a restart; "" when the stage has none.
  StatusOr<std::string> Save();
  Status Restore(const std::string& bytes);

 private:
  Stage(const xh_stage_table* table, std::string name) : table_(table), name_(std::move(name)) {}
  const xh_stage_table* table_;
  std::string name_;
  xh_stage* stage_ = nullptr;
};

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_DECLARATION_H_
