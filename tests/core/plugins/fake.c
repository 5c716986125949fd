/* A plugin that is right but for what the macros change: the fakes of registry_test.cc. */
#include "xhybrid_plugin.h"

#ifndef FAKE_ABI
#define FAKE_ABI XH_ABI_VERSION
#endif
#ifndef FAKE_HEADER_SIZE
#define FAKE_HEADER_SIZE XH_SIZED(xh_plugin)
#endif
#ifndef FAKE_TABLE_SIZE
#define FAKE_TABLE_SIZE XH_SIZED(xh_merge_table)
#endif
#ifndef FAKE_KIND
#define FAKE_KIND XH_PLUGIN_MERGE
#endif
#ifndef FAKE_NAME
#define FAKE_NAME "fake"
#endif
#ifndef FAKE_VERSION
#define FAKE_VERSION "1"
#endif
#ifndef FAKE_SCORE
#define FAKE_SCORE 1
#endif
#ifndef FAKE_TRAITS
#define FAKE_TRAITS XH_MERGE_ELEMENTWISE
#endif
#ifndef FAKE_COMBINE
#define FAKE_COMBINE Combine
#endif
#ifndef FAKE_TABLE
#define FAKE_TABLE &table
#endif
#ifndef FAKE_SCHEMA
#define FAKE_SCHEMA ""
#endif
#ifndef FAKE_ENTRY
#define FAKE_ENTRY xh_plugin_v1
#endif

static xh_error* Open(const xh_option* options, int64_t count, int32_t model_count, xh_merge** out) {
  (void)options, (void)count, (void)model_count;
  *out = (xh_merge*)0;
  return (xh_error*)0;
}
xh_error* Combine(const xh_merge* merge, const char* name, const float* const* models, const float* base, int64_t first,
                  int64_t n, float* out);
xh_error* Combine(const xh_merge* merge, const char* name, const float* const* models, const float* base, int64_t first,
                  int64_t n, float* out) {
  int64_t i;
  (void)merge, (void)name, (void)base, (void)first;
  for (i = 0; i < n; ++i) out[i] = models[0][i];
  return (xh_error*)0;
}
static void Close(xh_merge* merge) { (void)merge; }

XH_API extern const xh_merge_table table;
const xh_merge_table table = {FAKE_TABLE_SIZE, FAKE_TRAITS, 1, 0, FAKE_SCHEMA, Open, 0, FAKE_COMBINE, Close};

static const xh_plugin plugin = {FAKE_HEADER_SIZE, FAKE_ABI,     FAKE_KIND,          FAKE_SCORE, FAKE_NAME,
                                 FAKE_VERSION,     "Apache-2.0", "the moon is full", FAKE_TABLE, 0};

XH_API const xh_plugin* FAKE_ENTRY(const xh_host* host, int32_t index);
const xh_plugin* FAKE_ENTRY(const xh_host* host, int32_t index) {
  (void)host;
  return index == 0 ? &plugin : (const xh_plugin*)0;
}
