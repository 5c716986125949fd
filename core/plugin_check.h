// The one check of a plugin's header and table, at load.
#ifndef XHYBRID_CORE_PLUGIN_CHECK_H_
#define XHYBRID_CORE_PLUGIN_CHECK_H_

#include "core/error.h"
#include "xhybrid_plugin.h"

namespace xh {

// Sizes, ABI version, kind, names, and every required slot of its table by name.
Status CheckPlugin(const xh_plugin& plugin);

}  // namespace xh

#endif  // XHYBRID_CORE_PLUGIN_CHECK_H_
