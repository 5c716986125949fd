// Options: from C structs, against a schema, and back. Every refusal names the field, the value and what is allowed.
#include "core/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nlohmann/json.hpp"

namespace xh {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

xh_option Option(const char* key, xh_option_kind kind) {
  xh_option option{};
  option.key = key;
  option.kind = kind;
  return option;
}

std::string MessageOf(const Status& status, xh_code code) {
  EXPECT_EQ(CodeOf(status), code) << status;
  return std::string(status.message());
}

TEST(OptionsToJsonTest, EveryKindArrivesAsItsJsonType) {
  xh_option text = Option("a", XH_OPTION_TEXT), integer = Option("b", XH_OPTION_INT);
  xh_option real = Option("c", XH_OPTION_REAL), truth = Option("d", XH_OPTION_BOOL);
  text.text = "x";
  integer.integer = -7;
  real.real = 0.5;
  truth.integer = 1;
  const xh_option all[] = {text, integer, real, truth};
  EXPECT_EQ(*OptionsToJson(all, 4), json({{"a", "x"}, {"b", -7}, {"c", 0.5}, {"d", true}}));
  EXPECT_EQ(*OptionsToJson(nullptr, 0), json::object());
}

TEST(OptionsToJsonTest, ARepeatableKeyBecomesAList) {
  xh_option stop = Option("stop", XH_OPTION_TEXT);
  stop.text = "x";
  const xh_option twice[] = {stop, stop};
  EXPECT_EQ(*OptionsToJson(twice, 2, {"stop"}), json({{"stop", {"x", "x"}}}));
  EXPECT_THAT(MessageOf(OptionsToJson(twice, 2).status(), XH_INVALID_ARGUMENT), HasSubstr("\"stop\" is given twice"));
}

TEST(OptionsToJsonTest, MalformedOptionsAreRefused) {
  const xh_option no_key = Option(nullptr, XH_OPTION_INT), bad_kind = Option("k", 9);
  const xh_option no_text = Option("k", XH_OPTION_TEXT);
  xh_option reserved = Option("k", XH_OPTION_INT);
  reserved.reserved = 1;
  EXPECT_THAT(MessageOf(OptionsToJson(&no_key, 1).status(), XH_INVALID_ARGUMENT), HasSubstr("options[0].key is NULL"));
  EXPECT_THAT(MessageOf(OptionsToJson(&bad_kind, 1).status(), XH_INVALID_ARGUMENT), HasSubstr("kind is 9"));
  EXPECT_THAT(MessageOf(OptionsToJson(&no_text, 1).status(), XH_INVALID_ARGUMENT), HasSubstr("text is NULL"));
  EXPECT_THAT(MessageOf(OptionsToJson(&reserved, 1).status(), XH_INVALID_ARGUMENT), HasSubstr("reserved"));
  EXPECT_THAT(MessageOf(OptionsToJson(nullptr, 2).status(), XH_INVALID_ARGUMENT), HasSubstr("NULL"));
  EXPECT_THAT(MessageOf(OptionsToJson(nullptr, -1).status(), XH_INVALID_ARGUMENT), HasSubstr("-1"));
}

constexpr char kSchema[] = R"({"options": [
  {"name": "density", "type": "real", "default": 1, "min": 0, "max": 1, "help": "kept share"},
  {"name": "steps", "type": "int", "min": 1, "help": "how many"},
  {"name": "mode", "type": "text", "default": "sum", "choices": ["sum", "count"]},
  {"name": "weights", "type": "reals", "default": []},
  {"name": "paths", "type": "texts", "default": []},
  {"name": "exact", "type": "bool", "default": false},
  {"name": "extra", "type": "object", "default": {}},
  {"name": "stages", "type": "list", "default": []}]})";

TEST(CheckOptionsTest, DefaultsAreFilledInWithTheTypeOfTheirOption) {
  const json checked = *CheckOptions(kSchema, {{"steps", 3}}, "test");
  EXPECT_EQ(checked, json({{"density", 1.0},
                           {"steps", 3},
                           {"mode", "sum"},
                           {"weights", json::array()},
                           {"paths", json::array()},
                           {"exact", false},
                           {"extra", json::object()},
                           {"stages", json::array()}}));
  EXPECT_TRUE(checked["density"].is_number_float());
}

TEST(CheckOptionsTest, WhatIsNotAllowedIsNamedWithItsValue) {
  const struct {
    json given;
    const char* message;
  } cases[] = {
      {{{"steps", 1}, {"density", 2}}, "merge.test: \"density\" is 2; allowed: "},
      {{{"steps", 1}, {"density", "much"}}, "\"density\" is \"much\""},
      {{{"steps", 0}}, "\"steps\" is 0"},
      {{{"steps", 1.5}}, "\"steps\" is 1.5"},
      {{{"steps", true}}, "\"steps\" is true"},
      {json::object(), "\"steps\" is missing"},
      {{{"steps", 1}, {"mode", "most"}}, "\"mode\" is \"most\"; allowed: "},
      {{{"steps", 1}, {"weights", {1, "x"}}}, "\"weights\" is [1,\"x\"]; allowed: a list of numbers"},
      {{{"steps", 1}, {"weights", 1}}, "allowed: a list of numbers"},
      {{{"steps", 1}, {"paths", {1}}}, "allowed: a list of texts"},
      {{{"steps", 1}, {"exact", 1}}, "\"exact\" is 1"},
      {{{"steps", 1}, {"extra", "x"}}, "allowed: an object"},
      {{{"steps", 1}, {"stages", "x"}}, "allowed: a list"},
      {{{"steps", 1}, {"densty", 1}}, "density"},
      {json::array(), "merge.test"},
  };
  for (const auto& example : cases) {
    EXPECT_THAT(MessageOf(CheckOptions(kSchema, example.given, "merge.test").status(), XH_INVALID_ARGUMENT),
                HasSubstr(example.message))
        << example.given;
  }
}

TEST(CheckOptionsTest, AnEmptySchemaAllowsNothing) {
  EXPECT_EQ(*CheckOptions("", json::object(), "test"), json::object());
  EXPECT_EQ(CodeOf(CheckOptions("", {{"a", 1}}, "test").status()), XH_INVALID_ARGUMENT);
}

TEST(CheckSchemaTest, ABrokenSchemaIsADefectOfItsAuthor) {
  for (const char* schema :
       {"{", "[]", "{}", R"({"options": {}})", R"({"options": [1]})", R"({"options": [{"name": "a"}]})",
        R"({"options": [{"name": 1, "type": "int"}]})", R"({"options": [{"name": "a", "type": "integer"}]})",
        R"({"options": [{"name": "a", "type": "int", "default": "x"}]})",
        R"({"options": [{"name": "a", "type": "int", "min": "x"}]})",
        R"({"options": [{"name": "a", "type": "text", "choices": [1]}]})",
        R"({"options": [{"name": "a", "type": "text", "help": 1}]})"}) {
    EXPECT_EQ(CodeOf(CheckSchema(schema, "test")), XH_INTERNAL) << schema;
    EXPECT_EQ(CodeOf(CheckOptions(schema, json::object(), "test").status()), XH_INTERNAL) << schema;
  }
}

TEST(OptionListTest, AnObjectBecomesOptionsOfTheRightKind) {
  const OptionList list(json({{"a", 2}, {"b", 0.25}, {"c", true}, {"d", "x"}, {"e", {0.5, 1}}, {"f", json::array()}}));
  ASSERT_EQ(list.size(), 6);
  const xh_option* o = list.data();
  EXPECT_EQ(o[0].kind, XH_OPTION_INT);
  EXPECT_EQ(o[0].integer, 2);
  EXPECT_EQ(o[1].kind, XH_OPTION_REAL);
  EXPECT_EQ(o[1].real, 0.25);
  EXPECT_EQ(o[2].kind, XH_OPTION_BOOL);
  EXPECT_EQ(o[2].integer, 1);
  EXPECT_STREQ(o[3].text, "x");
  EXPECT_STREQ(o[4].text, "0.5,1");
  EXPECT_STREQ(o[5].text, "");
}

TEST(CheckOptionsTest, LimitsBeyondWhatATypeHoldsAreThoseOfTheType) {
  const std::string schema = R"({"options": [{"name": "n", "type": "int", "min": -1e300, "max": 1e300}]})";
  EXPECT_EQ(*CheckOptions(schema, {{"n", 5}}, "here"), json({{"n", 5}}));
  EXPECT_THAT(MessageOf(CheckOptions(schema, {{"n", 1ll << 60}}, "here").status(), XH_INVALID_ARGUMENT),
              HasSubstr("allowed: integer from -9007199254740992 to 9007199254740992"));
}

}  // namespace
}  // namespace xh
