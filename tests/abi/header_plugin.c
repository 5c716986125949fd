/* Compiled as C99 and C11: the plugin header alone is enough to write a plugin. */
#include "xhybrid_plugin.h"

const xh_plugin* xh_plugin_v1(const xh_host* host, int32_t index) {
  (void)host;
  (void)index;
  return NULL;
}
