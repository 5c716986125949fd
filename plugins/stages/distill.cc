// Stage II, sparse knowledge distillation (SPEC.md 4): mean over tokens of gamma CE(next token) + beta KL(teacher ||
// student) on the teacher's top k tokens. All parameters train.
#include <cstring>
#include <new>

#include "stage_options.h"
#include "xhybrid_plugin.h"

struct xh_stage {
  xh_distill_params loss;
  int32_t top_k;
  bool mixers_only;
};

namespace {

const xh_host* host_services = nullptr;

constexpr char kSchema[] = R"json({"options": [
  {"name": "learning_rate", "type": "real", "default": 1e-5, "min": 0, "max": 10,
   "help": "peak learning rate; models of a few million parameters want about 2e-4"},
  {"name": "warmup", "type": "int", "default": 20, "min": 0, "max": 1000000000,
   "help": "steps over which the learning rate rises to its peak"},
  {"name": "schedule", "type": "text", "default": "constant", "choices": ["constant", "linear", "cosine"],
   "help": "how the learning rate goes on after the warm-up"},
  {"name": "clip", "type": "real", "default": 1.0, "min": 0, "max": 1e9,
   "help": "largest global gradient norm; 0: not clipped"},
  {"name": "weight_decay", "type": "real", "default": 0.1, "min": 0, "max": 10, "help": "AdamW weight decay"},
  {"name": "train", "type": "text", "default": "all", "choices": ["all", "mixers"],
   "help": "all parameters, or only those that the student has beyond the teacher"},
  {"name": "gamma", "type": "real", "default": 0.9, "min": 0, "max": 1e6, "help": "weight of the cross entropy"},
  {"name": "beta", "type": "real", "default": 0.1, "min": 0, "max": 1e6, "help": "weight of the KL divergence"},
  {"name": "top_k", "type": "int", "default": 256, "min": 1, "max": 65536,
   "help": "tokens of the teacher's distribution that the KL compares; at most the vocabulary"},
  {"name": "temperature", "type": "real", "default": 1.0, "min": 0.001, "max": 1000,
   "help": "divides both sides' logits in the KL"},
  {"name": "kl", "type": "text", "default": "renormalized", "choices": ["renormalized", "full_student", "tail_bucket"],
   "help": "student renormalised on the top k, over the full vocabulary, or with the rest as one more class"}
]})json";

xh_kl_mode ModeOf(const char* name) {
  if (std::strcmp(name, "full_student") == 0) return XH_KL_FULL_STUDENT;
  if (std::strcmp(name, "tail_bucket") == 0) return XH_KL_TAIL_BUCKET;
  return XH_KL_RENORMALIZED;
}

xh_error* Open(const xh_option* options, int64_t count, xh_stage** out) {
  xh_stage* stage = new (std::nothrow) xh_stage;
  if (stage == nullptr) return host_services->error_new(XH_OUT_OF_MEMORY, "stage.distill", "out of memory");
  auto real = [&](const char* key, double missing) {
    return static_cast<float>(xh_stages::RealOption(options, count, key, missing));
  };
  stage->loss = {XH_SIZED(xh_distill_params), ModeOf(xh_stages::TextOption(options, count, "kl", "renormalized")),
                 real("gamma", 0.9), real("beta", 0.1), real("temperature", 1.0)};
  stage->top_k = static_cast<int32_t>(xh_stages::IntOption(options, count, "top_k", 256));
  stage->mixers_only = std::strcmp(xh_stages::TextOption(options, count, "train", "all"), "mixers") == 0;
  if (!(stage->loss.gamma + stage->loss.beta > 0)) {
    delete stage;
    return host_services->error_new(XH_INVALID_ARGUMENT, "stage.distill",
                                    "\"gamma\" and \"beta\" are both 0; allowed: at least one above 0");
  }
  *out = stage;
  return nullptr;
}

void Close(xh_stage* stage) { delete stage; }

xh_error* Declare(xh_stage* stage, const xh_stage_host* host, xh_step* step) {
  if (xh_error* error = host->trainable(step, "*", stage->mixers_only ? 0 : 1)) return error;
  if (stage->mixers_only) {
    if (xh_error* error = host->trainable(step, "*.xlstm.*", 1)) return error;
  }
  xh_value* teacher = nullptr;
  if (xh_error* error = host->forward(step, XH_TEACHER, "logits", &teacher)) return error;
  xh_value* student = nullptr;
  if (xh_error* error = host->forward(step, XH_STUDENT, "logits", &student)) return error;
  xh_value* loss = nullptr;
  if (xh_error* error = host->loss(step, XH_OP_DISTILL_LOSS, &stage->loss, sizeof(stage->loss), stage->top_k, student,
                                   teacher, &loss)) {
    return error;
  }
  return host->minimize(step, loss);
}

constexpr xh_stage_table kTable = {XH_SIZED(xh_stage_table), 0, kSchema, Open, Declare, nullptr, nullptr, Close};
constexpr xh_plugin kPlugin = {XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_STAGE, 1,      "distill", "1.0.0",
                               "Apache-2.0",        nullptr,        &kTable,         nullptr};

}  // namespace

const xh_plugin* xh_plugin_v1(const xh_host* host, int32_t index) {
  host_services = host;
  return index == 0 ? &kPlugin : nullptr;
}
