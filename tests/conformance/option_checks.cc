#include "tests/conformance/option_checks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace xh::test {
namespace {

using nlohmann::json;

void ExpectTakenOrNamed(const Outcome& outcome, const std::string& name, const std::string& given) {
  if (outcome.code == 0) return;
  EXPECT_EQ(outcome.code, XH_INVALID_ARGUMENT) << "option \"" << name << "\" " << given << ": " << outcome.message;
  EXPECT_TRUE(Names(outcome.message, {name.c_str()}))
      << "the refusal of \"" << name << "\" " << given << " does not name it: " << outcome.message;
}

void CheckText(const std::vector<json>& entries, const OpenWith& open, const std::string& name) {
  const std::string texts[] = {"",
                               ",",
                               "1,",
                               "1 2",
                               "nan,1",
                               "1e999",
                               "\xff\xfe\x80",
                               "a\nb\tc",
                               "%s%n",
                               "../../../x",
                               std::string(1 << 20, '9')};
  for (const std::string& text : texts) {
    OptionValues values(entries);
    values.SetText(name, text);
    ExpectTakenOrNamed(open(values.data(), values.size()), name, "with a hostile text");
  }
}

void CheckNumbers(const std::vector<json>& entries, const OpenWith& open, const std::string& name) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (double real : {0.0, -1.0, 1e300, -1e300, infinity, -infinity, std::nan("")}) {
    OptionValues values(entries);
    values.Set(name, real);
    ExpectTakenOrNamed(open(values.data(), values.size()), name, "is " + std::to_string(real));
  }
  for (int64_t integer : {std::numeric_limits<int64_t>::min(), int64_t{-1}, std::numeric_limits<int64_t>::max()}) {
    OptionValues values(entries);
    values.Set(name, integer);
    ExpectTakenOrNamed(open(values.data(), values.size()), name, "is " + std::to_string(integer));
  }
}

// A kind without its field, and a kind that does not exist.
void CheckKinds(const std::vector<json>& entries, const OpenWith& open, const std::string& name) {
  for (int kind : {int{XH_OPTION_TEXT}, int{XH_OPTION_BOOL}, 0, 99}) {
    OptionValues values(entries);
    values.Set(name, 1);
    std::vector<xh_option> options(values.data(), values.data() + values.size());
    for (xh_option& option : options) {
      if (name == option.key) option.kind = kind;
    }
    ExpectTakenOrNamed(open(options.data(), values.size()), name, "of kind " + std::to_string(kind));
  }
}

}  // namespace

std::vector<json> OptionsOf(const char* schema) {
  std::vector<json> entries;
  std::string wrong;
  EXPECT_TRUE(ParseOptionsSchema(schema, &entries, &wrong)) << wrong;
  return entries;
}

void CheckAllowedOptions(const std::vector<json>& entries, const OpenWith& open) {
  const OptionValues defaults(entries);
  const Outcome first = open(defaults.data(), defaults.size());
  EXPECT_EQ(first.code, 0) << "the schema's defaults are refused: " << first.message;
  for (const json& entry : entries) {
    const std::string name = entry["name"];
    for (const json& choice : entry.value("choices", json::array())) {
      OptionValues values(entries);
      values.Set(name, choice);
      const Outcome outcome = open(values.data(), values.size());
      EXPECT_EQ(outcome.code, 0) << "choice " << choice << " of \"" << name << "\" is refused: " << outcome.message;
    }
    for (const char* limit : {"min", "max"}) {
      if (!entry.contains(limit)) continue;
      OptionValues values(entries);
      values.Set(name, entry["type"] == "real" ? json(entry[limit].get<double>()) : entry[limit]);
      ExpectTakenOrNamed(open(values.data(), values.size()), name, std::string("at its ") + limit);
    }
  }
}

void CheckHostileOptions(const std::vector<json>& entries, const OpenWith& open) {
  for (const json& entry : entries) {
    const std::string name = entry["name"];
    CheckText(entries, open, name);
    CheckNumbers(entries, open, name);
    CheckKinds(entries, open, name);
  }
  const Outcome none = open(nullptr, 0);
  EXPECT_TRUE(none.code == 0 || none.code == XH_INVALID_ARGUMENT) << "without options: " << none.message;
  OptionValues values(entries);
  values.SetText("no such option", "x");
  ExpectTakenOrNamed(open(values.data(), values.size()), "no such option", "is unknown");
  std::vector<xh_option> twice(values.data(), values.data() + values.size());
  twice.insert(twice.end(), values.data(), values.data() + values.size());
  const Outcome repeated = open(twice.data(), static_cast<int64_t>(twice.size()));
  EXPECT_TRUE(repeated.code == 0 || repeated.code == XH_INVALID_ARGUMENT) << "options twice: " << repeated.message;
}

}  // namespace xh::test
