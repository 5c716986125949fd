// The plugin library under test: loaded once, and checked before any slot of a table is called.
#ifndef XHYBRID_TESTS_CONFORMANCE_PROGRAM_PLUGIN_LIBRARY_H_
#define XHYBRID_TESTS_CONFORMANCE_PROGRAM_PLUGIN_LIBRARY_H_

#include <string>
#include <vector>

#include "xhybrid_plugin.h"

namespace xh::test {

struct PluginLibrary {
  std::string cannot_load;  // why, when it cannot be loaded at all
  std::vector<const xh_plugin*> plugins;
  std::vector<std::string> faults;  // one line each
};

PluginLibrary LoadPlugins(const std::string& path);

const char* KindName(xh_plugin_kind kind);

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_PROGRAM_PLUGIN_LIBRARY_H_
