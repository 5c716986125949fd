/* A merge plugin outside the project: the median of the models, element by element. It outvotes one expert that has
 * gone astray, where a mean follows it. Build it with find_package(xhybrid); then `xhybrid merge --method median ...`.
 */
#include "xhybrid_plugin.h"

enum { MOST_MODELS = 64 };

struct xh_merge {
  int32_t models;
};

static const xh_host* host;
static struct xh_merge counts[MOST_MODELS + 1]; /* one object for each number of models: nothing else is remembered */

static xh_error* open_merge(const xh_option* options, int64_t count, int32_t model_count, xh_merge** out) {
  (void)options;
  (void)count;
  if (model_count > MOST_MODELS) {
    return host->error_new(XH_INVALID_ARGUMENT, "merge.median", "too many models; allowed: 2 to 64");
  }
  *out = &counts[model_count];
  return NULL;
}

static float median(float* values, int32_t count) {
  for (int32_t i = 1; i < count; ++i) {
    const float value = values[i];
    int32_t j = i;
    for (; j > 0 && values[j - 1] > value; --j) values[j] = values[j - 1];
    values[j] = value;
  }
  return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static xh_error* combine(const xh_merge* merge, const char* name, const float* const* models, const float* base,
                         int64_t first, int64_t n, float* out) {
  (void)name;
  (void)base;
  (void)first;
  for (int64_t i = 0; i < n; ++i) {
    float values[MOST_MODELS];
    for (int32_t m = 0; m < merge->models; ++m) values[m] = models[m][i];
    out[i] = median(values, merge->models);
  }
  return NULL;
}

static void close_merge(xh_merge* merge) { (void)merge; }

static const xh_merge_table table = {
    XH_SIZED(xh_merge_table), XH_MERGE_ELEMENTWISE, 2, 0, "{\"options\": []}", open_merge, NULL, combine, close_merge};
static const xh_plugin plugin = {XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_MERGE, 1,   "median", "1.0.0",
                                 "Apache-2.0",        NULL,           &table,          NULL};

const xh_plugin* xh_plugin_v1(const xh_host* services, int32_t index) {
  host = services;
  for (int32_t i = 0; i <= MOST_MODELS; ++i) counts[i].models = i;
  return index == 0 ? &plugin : NULL;
}
