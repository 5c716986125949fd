#include "core/train/declaration.h"

#include <cstring>
#include <deque>
#include <new>

#include "core/options.h"

// A symbolic result: what a model gives at a tap, or a loss.
struct xh_value {
  const xh_step* step;
  xh_forward which;
  xh::Tap tap;
  std::optional<xh::DeclaredLoss> loss;
};

// Records the calls of a stage.
struct xh_step {
  xh::StageDeclaration declaration;
  std::deque<xh_value> values;  // addresses stay
  bool minimized = false;
};

namespace xh {
namespace {

constexpr char kOrigin[] = "core";

xh_error* Refuse(const std::string& message) { return NewError(XH_INVALID_ARGUMENT, kOrigin, message); }

// The calls come from a plugin: nothing may be thrown into it.
template <typename Body>
xh_error* Recorded(Body&& body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return NewError(XH_OUT_OF_MEMORY, kOrigin, "out of memory");
  }
}

xh_error* Trainable(xh_step* step, const char* pattern, int32_t on) {
  return Recorded([&]() -> xh_error* {
    if (step == nullptr || pattern == nullptr) return Refuse("trainable: an argument is NULL");
    if (on != 0 && on != 1) return Refuse(absl::StrCat("trainable: `on` is ", on, "; allowed: 0, 1"));
    step->declaration.trainable.emplace_back(pattern, on == 1);
    return nullptr;
  });
}

xh_error* Forward(xh_step* step, xh_forward which, const char* tap, xh_value** out) {
  return Recorded([&]() -> xh_error* {
    if (step == nullptr || tap == nullptr || out == nullptr) return Refuse("forward: an argument is NULL");
    if (which < XH_TEACHER || which > XH_STUDENT_MIXERS) {
      return Refuse(absl::StrCat("forward: model ", which, " is unknown; allowed: 0 to ", +XH_STUDENT_MIXERS));
    }
    const bool mixer_out = std::strcmp(tap, "mixer.out") == 0;
    if (!mixer_out && std::strcmp(tap, "logits") != 0) {
      return Refuse(absl::StrCat("forward: tap \"", tap, "\" is unknown; allowed: \"mixer.out\", \"logits\""));
    }
    if (which == XH_STUDENT_MIXERS && !mixer_out) {
      return Refuse("forward: the student's mixers alone give no \"logits\"; allowed: \"mixer.out\"");
    }
    step->values.push_back({step, which, mixer_out ? Tap::kMixerOut : Tap::kLogits, std::nullopt});
    *out = &step->values.back();
    return nullptr;
  });
}

// Fills the loss of DISTILL_LOSS from what the plugin passed; the message when something is wrong.
std::string ReadDistillLoss(const void* params, uint32_t params_size, int32_t top_k, DeclaredLoss* loss) {
  xh_distill_params& distill = loss->distill;
  if (params == nullptr || params_size < sizeof(distill)) return "loss: DISTILL_LOSS needs xh_distill_params";
  std::memcpy(&distill, params, sizeof(distill));
  if (distill.struct_size < sizeof(distill)) return "loss: xh_distill_params.struct_size is too small";
  distill.struct_size = XH_SIZED(xh_distill_params);
  if (distill.mode < XH_KL_RENORMALIZED || distill.mode > XH_KL_TAIL_BUCKET) {
    return absl::StrCat("loss: KL mode ", distill.mode, " is unknown; allowed: 0 to ", +XH_KL_TAIL_BUCKET);
  }
  if (!(distill.gamma >= 0) || !(distill.beta >= 0) || !(distill.temperature > 0)) {
    return absl::StrCat("loss: gamma ", distill.gamma, ", beta ", distill.beta, ", temperature ", distill.temperature,
                        "; allowed: 0 or more, 0 or more, above 0");
  }
  if (top_k < 1) return absl::StrCat("loss: top_k is ", top_k, "; allowed: 1 or more");
  loss->top_k = top_k;
  return "";
}

xh_error* Loss(xh_step* step, xh_op op, const void* params, uint32_t params_size, int32_t top_k,
               const xh_value* student, const xh_value* teacher, xh_value** out) {
  return Recorded([&]() -> xh_error* {
    if (step == nullptr || student == nullptr || teacher == nullptr || out == nullptr) {
      return Refuse("loss: an argument is NULL");
    }
    if (student->step != step || teacher->step != step) return Refuse("loss: a value belongs to another step");
    if (student->loss.has_value() || teacher->loss.has_value()) return Refuse("loss: a value is itself a loss");
    if (student->which == XH_TEACHER || teacher->which != XH_TEACHER) {
      return Refuse("loss: compares a student's value with the teacher's, in that order");
    }
    if (student->tap != teacher->tap) return Refuse("loss: the two values are of different taps");
    DeclaredLoss loss{op, student->tap, student->which, {}, 0};
    if (op == XH_OP_DISTILL_LOSS && loss.tap == Tap::kLogits) {
      const std::string problem = ReadDistillLoss(params, params_size, top_k, &loss);
      if (!problem.empty()) return Refuse(problem);
    } else if (op != XH_OP_ALIGN_LOSS || loss.tap != Tap::kMixerOut) {
      return Refuse(absl::StrCat("loss: op ", op,
                                 " does not compare values of this tap; allowed: XH_OP_ALIGN_LOSS on \"mixer.out\", "
                                 "XH_OP_DISTILL_LOSS on \"logits\""));
    }
    step->values.push_back({step, student->which, loss.tap, loss});
    *out = &step->values.back();
    return nullptr;
  });
}

xh_error* Minimize(xh_step* step, const xh_value* loss) {
  return Recorded([&]() -> xh_error* {
    if (step == nullptr || loss == nullptr) return Refuse("minimize: an argument is NULL");
    if (loss->step != step || !loss->loss.has_value()) return Refuse("minimize: the value is no loss of this step");
    if (step->minimized) return Refuse("minimize: called a second time; allowed: once a step");
    step->declaration.loss = *loss->loss;
    step->minimized = true;
    return nullptr;
  });
}

constexpr xh_stage_host kStageHost = {XH_SIZED(xh_stage_host), 0, Trainable, Forward, Loss, Minimize};

xh_error* AppendBytes(void* sink, const void* bytes, int64_t size) {
  return Recorded([&]() -> xh_error* {
    if (size < 0 || (bytes == nullptr && size > 0)) return Refuse("write: no bytes");
    static_cast<std::string*>(sink)->append(static_cast<const char*>(bytes), static_cast<size_t>(size));
    return nullptr;
  });
}

}  // namespace

bool MatchesPattern(const std::string& pattern, const std::string& text) {
  size_t p = 0, t = 0;
  size_t star = std::string::npos, resume = 0;  // the last '*' and where its text may end next
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p, ++t;
    } else if (star != std::string::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

bool StageDeclaration::Trains(const std::string& parameter) const {
  for (auto rule = trainable.rbegin(); rule != trainable.rend(); ++rule) {
    if (MatchesPattern(rule->first, parameter)) return rule->second;
  }
  return false;
}

StatusOr<std::unique_ptr<Stage>> Stage::Open(const StageRecipe& recipe) {
  const xh_stage_table* table = recipe.table;
  const std::string origin = absl::StrCat("stage.", recipe.name);
  if ((table->save == nullptr) != (table->restore == nullptr)) {
    return Incompatible(origin, ": has only one of save and restore");
  }
  std::unique_ptr<Stage> stage(new Stage(table, recipe.name));
  const OptionList options(recipe.plugin_options);
  XH_RETURN_IF_ERROR(Annotate(FromError(table->open(options.data(), options.size(), &stage->stage_)), origin));
  return stage;
}

Stage::~Stage() {
  if (stage_ != nullptr) table_->close(stage_);
}

StatusOr<StageDeclaration> Stage::Declare() {
  xh_step step;
  const Status declared = FromError(table_->declare(stage_, &kStageHost, &step));
  XH_RETURN_IF_ERROR(Annotate(declared, absl::StrCat("stage.", name_)));
  if (!step.minimized) return Incompatible("stage.", name_, ": its step minimizes no loss");
  return std::move(step.declaration);
}

StatusOr<std::string> Stage::Save() {
  std::string bytes;
  if (table_->save == nullptr) return bytes;
  XH_RETURN_IF_ERROR(FromError(table_->save(stage_, &bytes, AppendBytes)));
  return bytes;
}

Status Stage::Restore(const std::string& bytes) {
  if (table_->restore == nullptr) {
    return bytes.empty() ? absl::OkStatus()
                         : Incompatible("stage.", name_, ": cannot restore the state that was saved");
  }
  return FromError(table_->restore(stage_, bytes.data(), static_cast<int64_t>(bytes.size())));
}

}  // namespace xh
