// How a stage or merge takes its options, whatever they mean.
#ifndef XHYBRID_TESTS_CONFORMANCE_OPTION_CHECKS_H_
#define XHYBRID_TESTS_CONFORMANCE_OPTION_CHECKS_H_

#include <functional>
#include <vector>

#include "tests/conformance/host.h"
#include "tests/conformance/program/options_schema.h"

namespace xh::test {

// The options of a schema, which has been checked.
std::vector<nlohmann::json> OptionsOf(const char* schema);

// Opens a plugin's object with these options and closes it again.
using OpenWith = std::function<Outcome(const xh_option* options, int64_t count)>;

// Defaults open; so does every choice, and every limit unless a refusal names the option.
void CheckAllowedOptions(const std::vector<nlohmann::json>& entries, const OpenWith& open);

// The core passes what the schema allows, but texts may hold anything, and other hosts may be careless: values out of
// range, of another kind, huge, empty, not UTF-8, options that are missing, unknown or given twice. A plugin may take
// them or refuse them with XH_INVALID_ARGUMENT naming the option; it may not crash.
void CheckHostileOptions(const std::vector<nlohmann::json>& entries, const OpenWith& open);

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_OPTION_CHECKS_H_
