// What the program was asked for, and the plugin that the suites of this process test.
#ifndef XHYBRID_TESTS_CONFORMANCE_PROGRAM_SETTINGS_H_
#define XHYBRID_TESTS_CONFORMANCE_PROGRAM_SETTINGS_H_

#include <set>
#include <string>
#include <vector>

#include "xhybrid_plugin.h"

namespace xh::test {

struct Settings {
  std::string plugin_path;
  std::string vectors;  // directory of golden vectors; empty: those tests are left out
  std::vector<std::string> tokenizer_files;
  std::string filter = "*";  // patterns for "Suite.Test" separated by ':'
  bool list = false;
  bool exact = false;
  bool quick = false;  // no code is run a second time only to compare, and no leak is judged
  bool times = false;
  bool all_gaps_allowed = false;
  std::set<std::string> allowed_gaps;  // names of ops

  bool Allows(const std::string& op) const { return all_gaps_allowed || allowed_gaps.count(op) != 0; }
};

Settings& TheSettings();

// The plugin that the suites of this process test, and its table.
const xh_plugin*& PluginUnderTest();
inline const xh_stage_table& StageTable() { return *static_cast<const xh_stage_table*>(PluginUnderTest()->table); }
inline const xh_merge_table& MergeTable() { return *static_cast<const xh_merge_table*>(PluginUnderTest()->table); }
inline const xh_text_table& TextTable() { return *static_cast<const xh_text_table*>(PluginUnderTest()->table); }

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_PROGRAM_SETTINGS_H_
