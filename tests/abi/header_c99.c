/* Compiled as C99 and C11: the headers stand alone, the second after the first and the other way round. */
#include "xhybrid.h"
#include "xhybrid_plugin.h"

xh_error* fill_config(xh_runtime_config* config);
xh_error* fill_config(xh_runtime_config* config) {
  config->struct_size = XH_SIZED(xh_runtime_config);
  return XH_COVERS(xh_runtime_config, config, log_user) ? NULL : (xh_error*)config;
}
