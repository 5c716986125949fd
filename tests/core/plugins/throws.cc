// A plugin whose entry throws, which it must not.
#include <stdexcept>

#include "xhybrid_plugin.h"

const xh_plugin* xh_plugin_v1(const xh_host*, int32_t) { throw std::runtime_error("thrown by a plugin"); }
