// The options of a stage or merge, read from its options_schema, and lists of options as the core would pass them.
#ifndef XHYBRID_TESTS_CONFORMANCE_PROGRAM_OPTIONS_SCHEMA_H_
#define XHYBRID_TESTS_CONFORMANCE_PROGRAM_OPTIONS_SCHEMA_H_

#include <deque>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "xhybrid_plugin.h"

namespace xh::test {

// False, with what is wrong, when the text breaks the rules of xhybrid_plugin.h. `entries` may be NULL. An empty text
// is a schema without options.
bool ParseOptionsSchema(const std::string& text, std::vector<nlohmann::json>* entries, std::string* wrong);

// Owns what its options point to.
class OptionValues {
 public:
  // Every option of the schema with its default; a required one gets a value that its limits allow.
  explicit OptionValues(const std::vector<nlohmann::json>& entries);

  // Replaces or adds an option.
  void Set(const std::string& name, const nlohmann::json& value);
  // The same with bytes as they are, which need not be UTF-8.
  void SetText(const std::string& name, const std::string& value);

  const xh_option* data() const { return options_.data(); }
  int64_t size() const { return static_cast<int64_t>(options_.size()); }

 private:
  xh_option& Find(const std::string& name);

  std::deque<std::string> strings_;
  std::vector<xh_option> options_;
};

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_PROGRAM_OPTIONS_SCHEMA_H_
