#include "tests/conformance/stage_recorder.h"

#include <algorithm>
#include <cstring>

#include "tests/conformance/host.h"

namespace xh::test {
namespace {

// Writes a call down; an error when this is the one that fails.
xh_error* Record(xh_step* step, std::string call) {
  step->calls.push_back(std::move(call));
  if (static_cast<int>(step->calls.size()) - 1 != step->fail_at) return nullptr;
  return step->failed = TestHost().error_new(XH_OUT_OF_MEMORY, "core", "no memory for the step");
}

void Wrong(xh_step* step, const std::string& what) { step->wrong.push_back(what); }

std::string Shown(const char* text) { return text == nullptr ? "NULL" : text; }

std::string Index(xh_step* step, const xh_value* value) {
  for (size_t i = 0; i < step->values.size(); ++i) {
    if (&step->values[i] == value) return std::to_string(i);
  }
  Wrong(step, "a value that the host did not give in this step");
  return "?";
}

xh_error* Trainable(xh_step* step, const char* pattern, int32_t on) {
  if (pattern == nullptr || *pattern == '\0') Wrong(step, "trainable without a pattern");
  if (on != 0 && on != 1) Wrong(step, "trainable with " + std::to_string(on) + ", 0 or 1 is allowed");
  step->trainable += on;
  return Record(step, "trainable " + Shown(pattern) + " " + std::to_string(on));
}

xh_error* Forward(xh_step* step, xh_forward which, const char* tap, xh_value** out) {
  const std::string name = Shown(tap);
  if (which < XH_TEACHER || which > XH_STUDENT_MIXERS) Wrong(step, "forward of " + std::to_string(which));
  if (name != "mixer.out" && name != "logits") Wrong(step, "the tap \"" + name + "\"");
  if (xh_error* error = Record(step, "forward " + std::to_string(which) + " " + name)) return error;
  step->values.push_back({xh_value::kForward, which, name});
  *out = &step->values.back();
  return nullptr;
}

void CheckSides(xh_step* step, const xh_value& student, const xh_value& teacher) {
  if (student.kind != xh_value::kForward || student.which == XH_TEACHER) Wrong(step, "a loss whose student is none");
  if (teacher.kind != xh_value::kForward || teacher.which != XH_TEACHER) Wrong(step, "a loss whose teacher is none");
  if (student.tap != teacher.tap) Wrong(step, "a loss between \"" + student.tap + "\" and \"" + teacher.tap + "\"");
}

std::string DistillText(xh_step* step, const void* params, uint32_t size, int32_t top_k) {
  xh_distill_params p = {};
  if (params == nullptr || size < sizeof(p)) {
    Wrong(step, "a DISTILL_LOSS without xh_distill_params");
    return "";
  }
  std::memcpy(&p, params, sizeof(p));
  if (p.struct_size != sizeof(p)) Wrong(step, "xh_distill_params.struct_size is " + std::to_string(p.struct_size));
  if (p.mode < XH_KL_RENORMALIZED || p.mode > XH_KL_TAIL_BUCKET) Wrong(step, "KL mode " + std::to_string(p.mode));
  if (!(p.temperature > 0.0f)) Wrong(step, "temperature " + std::to_string(p.temperature));
  if (top_k < 1) Wrong(step, "top_k " + std::to_string(top_k));
  return " mode " + std::to_string(p.mode) + " " + std::to_string(p.gamma) + " " + std::to_string(p.beta) + " " +
         std::to_string(p.temperature);
}

xh_error* Loss(xh_step* step, xh_op op, const void* params, uint32_t params_size, int32_t top_k,
               const xh_value* student, const xh_value* teacher, xh_value** out) {
  std::string call = "loss " + std::to_string(op) + " " + Index(step, student) + " " + Index(step, teacher) + " top " +
                     std::to_string(top_k);
  if (step->wrong.empty()) CheckSides(step, *student, *teacher);
  if (op == XH_OP_DISTILL_LOSS) {
    call += DistillText(step, params, params_size, top_k);
  } else if (op != XH_OP_ALIGN_LOSS) {
    Wrong(step, "a loss of op " + std::to_string(op));
  } else if (params != nullptr) {
    Wrong(step, "an ALIGN_LOSS with params");
  }
  if (xh_error* error = Record(step, call)) return error;
  step->values.push_back({xh_value::kLoss, 0, ""});
  *out = &step->values.back();
  return nullptr;
}

xh_error* Minimize(xh_step* step, const xh_value* loss) {
  const std::string index = Index(step, loss);
  if (index != "?" && loss->kind != xh_value::kLoss) Wrong(step, "minimize of what is no loss");
  ++step->minimized;
  return Record(step, "minimize " + index);
}

}  // namespace

const xh_stage_host& RecordingHost() {
  static constexpr xh_stage_host host = {XH_SIZED(xh_stage_host), 0, Trainable, Forward, Loss, Minimize};
  return host;
}

}  // namespace xh::test
