// Stage I, layer-wise hidden-state alignment (SPEC.md 3): every layer's new mixer learns to give what the teacher's
// attention gives before W_o, fed with the teacher's own block input. Only the new parameters train.
#include "xhybrid_plugin.h"

// One object serves every run: the stage has no options of its own and no state.
struct xh_stage {
  int unused;
};

namespace {

constexpr char kSchema[] = R"json({"options": [
  {"name": "learning_rate", "type": "real", "default": 0.01, "min": 0, "max": 10, "help": "peak learning rate"},
  {"name": "warmup", "type": "int", "default": 20, "min": 0, "max": 1000000000,
   "help": "steps over which the learning rate rises to its peak"},
  {"name": "schedule", "type": "text", "default": "cosine", "choices": ["constant", "linear", "cosine"],
   "help": "how the learning rate goes on after the warm-up"},
  {"name": "final_learning_rate", "type": "real", "default": 1e-5, "min": 0, "max": 10,
   "help": "learning rate of the last step (linear, cosine)"},
  {"name": "clip", "type": "real", "default": 0, "min": 0, "max": 1e9,
   "help": "largest global gradient norm; 0: not clipped"},
  {"name": "weight_decay", "type": "real", "default": 0.1, "min": 0, "max": 10, "help": "AdamW weight decay"},
  {"name": "beta1", "type": "real", "default": 0.9, "min": 0, "max": 0.999999, "help": "AdamW beta 1"},
  {"name": "beta2", "type": "real", "default": 0.95, "min": 0, "max": 0.999999, "help": "AdamW beta 2"}
]})json";

xh_stage the_stage = {0};

xh_error* Open(const xh_option*, int64_t, xh_stage** out) {
  *out = &the_stage;
  return nullptr;
}

void Close(xh_stage*) {}

xh_error* Declare(xh_stage*, const xh_stage_host* host, xh_step* step) {
  if (xh_error* error = host->trainable(step, "*", 0)) return error;
  if (xh_error* error = host->trainable(step, "*.xlstm.*", 1)) return error;
  xh_value* teacher = nullptr;
  if (xh_error* error = host->forward(step, XH_TEACHER, "mixer.out", &teacher)) return error;
  xh_value* student = nullptr;
  if (xh_error* error = host->forward(step, XH_STUDENT_MIXERS, "mixer.out", &student)) return error;
  xh_value* loss = nullptr;
  if (xh_error* error = host->loss(step, XH_OP_ALIGN_LOSS, nullptr, 0, 0, student, teacher, &loss)) return error;
  return host->minimize(step, loss);
}

constexpr xh_stage_table kTable = {XH_SIZED(xh_stage_table), 0, kSchema, Open, Declare, nullptr, nullptr, Close};
constexpr xh_plugin kPlugin = {XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_STAGE, 1,      "align", "1.0.0",
                               "Apache-2.0",        nullptr,        &kTable,         nullptr};

}  // namespace

const xh_plugin* xh_plugin_v1(const xh_host*, int32_t index) { return index == 0 ? &kPlugin : nullptr; }
