// A stage whose temperature is a state, as if it came from earlier steps. FAULT spoils it.
#include <cstring>

#include "xhybrid_plugin.h"

// Faults.
#define NOTHING 0
#define LOSES_STATE 1
#define CHANGES_ITS_MIND 2
#define NEVER_MINIMIZES 3
#define SWALLOWS_ERRORS 4

struct xh_stage {
  float temperature;
};

namespace {

const xh_host* the_host = nullptr;
int declarations = 0;

constexpr char kSchema[] = R"json({"options": [
  {"name": "temperature", "type": "real", "default": 2.0, "min": 0.5, "max": 100, "help": "of the first step"}
]})json";

xh_error* Error(xh_code code, const char* text) { return the_host->error_new(code, "stage.state", text); }

xh_error* Open(const xh_option* options, int64_t count, xh_stage** out) {
  float temperature = 2.0f;
  for (int64_t i = 0; i < count; ++i) {
    if (std::strcmp(options[i].key, "temperature") != 0) continue;
    temperature = static_cast<float>(options[i].real);
    if (options[i].kind != XH_OPTION_REAL || !(temperature >= 0.5f && temperature <= 100.0f)) {
      return Error(XH_INVALID_ARGUMENT, "\"temperature\" is none; allowed: a number from 0.5 to 100");
    }
  }
  *out = new xh_stage{temperature};
  return nullptr;
}

void Close(xh_stage* stage) { delete stage; }

xh_error* Declare(xh_stage* stage, const xh_stage_host* host, xh_step* step) {
  const char* const pattern = FAULT == CHANGES_ITS_MIND && ++declarations % 2 == 0 ? "*.xlstm.*" : "*";
  if (xh_error* error = host->trainable(step, pattern, 1)) return error;
  xh_value *teacher = nullptr, *student = nullptr, *loss = nullptr;
  xh_error* error = host->forward(step, XH_TEACHER, "logits", &teacher);
  if (error != nullptr) return FAULT == SWALLOWS_ERRORS ? nullptr : error;
  if (xh_error* failed = host->forward(step, XH_STUDENT, "logits", &student)) return failed;
  const xh_distill_params params = {XH_SIZED(xh_distill_params), XH_KL_RENORMALIZED, 0.5f, 0.5f, stage->temperature};
  if (xh_error* failed = host->loss(step, XH_OP_DISTILL_LOSS, &params, sizeof(params), 8, student, teacher, &loss)) {
    return failed;
  }
  return FAULT == NEVER_MINIMIZES ? nullptr : host->minimize(step, loss);
}

xh_error* Save(xh_stage* stage, void* sink, xh_error* (*write)(void* sink, const void* bytes, int64_t size)) {
  return write(sink, &stage->temperature, sizeof(stage->temperature));
}

xh_error* Restore(xh_stage* stage, const void* bytes, int64_t size) {
  if (size != static_cast<int64_t>(sizeof(float))) return Error(XH_CORRUPT, "the state is not of four bytes");
  if (FAULT == LOSES_STATE) {
    stage->temperature = 1.0f;
  } else {
    std::memcpy(&stage->temperature, bytes, sizeof(float));
  }
  return nullptr;
}

constexpr xh_stage_table kTable = {XH_SIZED(xh_stage_table), 0, kSchema, Open, Declare, Save, Restore, Close};
constexpr xh_plugin kPlugin = {XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_STAGE, 1,      "state", "1.0.0",
                               "Apache-2.0",        nullptr,        &kTable,         nullptr};

}  // namespace

const xh_plugin* xh_plugin_v1(const xh_host* host, int32_t index) {
  the_host = host;
  return index == 0 ? &kPlugin : nullptr;
}
