// The mean of the models. FAULT spoils it.
#include "xhybrid_plugin.h"

// Faults.
#define NOTHING 0
#define DEPENDS_ON_TILE 1
#define KEEPS_WHAT_WAS 2
#define WRITES_PAST_THE_END 3
#define BAD_DEFAULT 4
#define LEAKS 5

struct xh_merge {
  int32_t models;
  mutable float last;  // of KEEPS_WHAT_WAS
};

namespace {

constexpr const char* kSchema =
    FAULT == BAD_DEFAULT ? R"({"options": [{"name": "t", "type": "real", "default": 2, "max": 1, "help": "none"}]})"
                         : R"({"options": []})";

xh_error* Open(const xh_option*, int64_t, int32_t model_count, xh_merge** out) {
  *out = new xh_merge{model_count, 0.0f};
  return nullptr;
}

void Close(xh_merge* merge) {
  if (FAULT != LEAKS) delete merge;
}

xh_error* Combine(const xh_merge* merge, const char*, const float* const* models, const float*, int64_t, int64_t n,
                  float* out) {
  for (int64_t i = 0; i < n; ++i) {
    double sum = FAULT == KEEPS_WHAT_WAS ? static_cast<double>(merge->last) : 0.0;
    for (int32_t model = 0; model < merge->models; ++model) sum += static_cast<double>(models[model][i]);
    out[i] = static_cast<float>(sum / merge->models);
    // As vectors with a remainder of their own rounding do.
    if (FAULT == DEPENDS_ON_TILE && i >= n / 8 * 8) out[i] *= 1.0000001f;
  }
  if (FAULT == KEEPS_WHAT_WAS && n > 0) merge->last = 1e-3f * out[n - 1];
  if (FAULT == WRITES_PAST_THE_END && n > 0) out[n] = 0.0f;
  return nullptr;
}

constexpr xh_merge_table kTable = {
    XH_SIZED(xh_merge_table), XH_MERGE_ELEMENTWISE, 2, 0, kSchema, Open, nullptr, Combine, Close};
constexpr xh_plugin kPlugin = {XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_MERGE, 1,      "mean", "1.0.0",
                               "Apache-2.0",        nullptr,        &kTable,         nullptr};

}  // namespace

const xh_plugin* xh_plugin_v1(const xh_host*, int32_t index) { return index == 0 ? &kPlugin : nullptr; }
