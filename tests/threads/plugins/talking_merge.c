/* The merge "talking": the first model, with a word to the host for every tile, on whatever thread that comes. */
#include "xhybrid_plugin.h"

static const xh_host* services;

static xh_error* Open(const xh_option* options, int64_t count, int32_t model_count, xh_merge** out) {
  (void)options, (void)count, (void)model_count;
  *out = (xh_merge*)0;
  return (xh_error*)0;
}
static xh_error* Combine(const xh_merge* merge, const char* name, const float* const* models, const float* base,
                         int64_t first, int64_t n, float* out) {
  int64_t i;
  (void)merge, (void)base, (void)first;
  for (i = 0; i < n; ++i) out[i] = models[0][i];
  services->log(XH_LOG_INFO, "merge.talking", name);
  return (xh_error*)0;
}
static void Close(xh_merge* merge) { (void)merge; }

static const xh_merge_table table = {XH_SIZED(xh_merge_table), XH_MERGE_ELEMENTWISE, 1, 0, "", Open, 0, Combine, Close};
static const xh_plugin plugin = {
    XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_MERGE, 1, "talking", "1", "Apache-2.0", 0, &table, 0};

const xh_plugin* xh_plugin_v1(const xh_host* host, int32_t index) {
  services = host;
  return index == 0 ? &plugin : (const xh_plugin*)0;
}
