// Typed options: schemas (JSON text of a plugin or a job kind), checking, defaults, and the way to and from xh_option.
#ifndef XHYBRID_CORE_OPTIONS_H_
#define XHYBRID_CORE_OPTIONS_H_

#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "nlohmann/json_fwd.hpp"
#include "xhybrid.h"

namespace xh {

// Turns C options into a JSON object; refuses NULL keys, unknown kinds, repeated keys and non-zero `reserved`. A key
// that occurs in `repeatable` may come several times and becomes an array.
StatusOr<nlohmann::json> OptionsToJson(const xh_option* options, int64_t count,
                                       const std::vector<std::string>& repeatable = {});

// Checks a schema text itself: Internal, naming the entry, when it does not have the form below. "" has no options.
// Types: "text", "int", "real", "bool", "reals", "texts" (lists), "object" and "list" (any JSON inside).
Status CheckSchema(const std::string& schema, const std::string& where);

// Checks `given` (an object) against a schema text {"options": [{"name", "type", "default"?, "min"?, "max"?,
// "choices"?, "help"}]} and returns it with every default filled in. `where` opens the messages: `merge.ties: "density"
// is 2; allowed: real from 0 to 1`.
StatusOr<nlohmann::json> CheckOptions(const std::string& schema, const nlohmann::json& given, const std::string& where);

// A JSON object of options as C options for a plugin. Lists of numbers become text "0.5,0.5". Owns the strings.
class OptionList {
 public:
  explicit OptionList(const nlohmann::json& object);
  const xh_option* data() const { return options_.data(); }
  int64_t size() const { return static_cast<int64_t>(options_.size()); }

 private:
  std::vector<std::unique_ptr<std::string>> strings_;
  std::vector<xh_option> options_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_OPTIONS_H_
