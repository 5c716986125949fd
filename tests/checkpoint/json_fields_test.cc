#include "core/json_fields.h"

#include <unistd.h>

#include "tests/checkpoint/sample.h"
#include "tests/checkpoint/scratch.h"

namespace xh {
namespace {

using nlohmann::json;
using namespace test;  // NOLINT: the helpers of this directory

TEST(ParseJsonTest, ReadsEveryKindOfValue) {
  auto value = ParseJson(R"({"a": [1, -2, 2.5, true, null, "\u00e9"], "b": {"c": {}}})", "t");
  ASSERT_OK(value.status());
  EXPECT_EQ(*value, json::parse(R"({"a": [1, -2, 2.5, true, null, "\u00e9"], "b": {"c": {}}})"));
  ASSERT_OK(ParseJson("3", "t").status());
}

TEST(ParseJsonTest, NamesThePlaceOfWhatIsWrong) {
  const struct {
    std::string text;
    std::string part;
  } cases[] = {
      {"", "recipe.json is not valid JSON at line 1, column 1: "},
      {"{\"a\": 1,\n  \"b\": }", "at line 2, column 8: "},
      {"{\"a\": 1} x", "at line 1, column 10: "},
      {"{\"a\": 1, \"b\": {\"a\": 2}, \"a\": 3}", "duplicate key \"a\""},
      {"[1, 2", "at line 1, column 5: "},
      {"{\"a\": \"\xff\"}", "ill-formed UTF-8"},
      {"{\"a\": 1e999}", "column 12: number overflow parsing"},
      {"{\"a\": NaN}", "invalid literal"},
      {"{\"a\": \"line\nbreak\"}", "control character"},
      {std::string("[\0]", 3), "column 2: NUL character"},
      {std::string("[1]\0[2]", 7), "column 4: NUL character"},
      {"[1] // note", "at line 1, column 5"},
  };
  for (const auto& c : cases) {
    EXPECT_TRUE(Fails(ParseJson(c.text, "recipe.json").status(), XH_INVALID_ARGUMENT, c.part)) << c.text;
  }
}

TEST(ParseJsonTest, BoundsDepthAndSize) {
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_OK(ParseJson(nested(64), "t").status());
  EXPECT_TRUE(Fails(ParseJson(nested(65), "t").status(), XH_INVALID_ARGUMENT, "column 65: nested more than 64"));
  EXPECT_TRUE(Fails(ParseJson(std::string(1000000, '['), "t").status(), XH_INVALID_ARGUMENT, "nested more than 64"));
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  EXPECT_TRUE(Fails(ParseJson(objects, "t").status(), XH_INVALID_ARGUMENT, "nested more than 64"));
  EXPECT_TRUE(Fails(ParseJson("[1, 2]", "t", 5).status(), XH_INVALID_ARGUMENT, "t has 6 bytes; allowed: at most 5"));
  // A message stays short whatever the text holds.
  const Status status = ParseJson("\"" + std::string(1000000, 'x'), "t").status();
  EXPECT_LT(status.message().size(), 300u);
}

TEST(ReadJsonFileTest, NamesThePath) {
  Scratch scratch;
  WriteBytes(scratch / "config.json", "{\"a\": 1}");
  auto value = ReadJsonFile(scratch / "config.json", 100);
  ASSERT_OK(value.status());
  EXPECT_EQ((*value)["a"], 1);
  EXPECT_TRUE(Fails(ReadJsonFile(scratch / "config.json", 7).status(), XH_CORRUPT, "has 8 bytes; allowed: at most 7"));
  EXPECT_TRUE(Fails(ReadJsonFile(scratch / "absent.json").status(), XH_NOT_FOUND, "absent.json"));
  EXPECT_TRUE(Fails(ReadJsonFile(scratch.path()).status(), XH_CORRUPT, "is not a regular file"));
  WriteBytes(scratch / "broken.json", "{");
  EXPECT_TRUE(
      Fails(ReadJsonFile(scratch / "broken.json").status(), XH_CORRUPT, "broken.json is not valid JSON at line"));
  ASSERT_EQ(::symlink("config.json", (scratch / "link.json").c_str()), 0);
  EXPECT_OK(ReadJsonFile(scratch / "link.json").status());
}

class JsonFieldsTest : public ::testing::Test {
 protected:
  const json object_ = json::parse(R"({
    "steps": -3, "layers": 12, "half": 2.5, "round": 3.0, "big": 9007199254740993, "huge": 18446744073709551615,
    "rate": 0.001, "text": "x", "nul": "a\u0000b", "on": true, "none": null, "list": [1], "object": {}})");
  JsonFields fields_{&object_, "recipe.json"};
};

TEST_F(JsonFieldsTest, GetsWhatIsThere) {
  EXPECT_EQ(*fields_.Int("layers", 1, 100), 12);
  EXPECT_EQ(*fields_.Int("steps", -10, 100, 5), -3);
  EXPECT_EQ(*fields_.Real("rate", 0, 1), 0.001);
  EXPECT_EQ(*fields_.Real("layers", 0, 100), 12.0);
  EXPECT_EQ(*fields_.Bool("on"), true);
  EXPECT_EQ(*fields_.Text("text"), "x");
  EXPECT_EQ(*fields_.Choice("text", {"w", "x"}), "x");
  EXPECT_TRUE(fields_.Has("list"));
  EXPECT_EQ(fields_.Get("list")->size(), 1u);
}

TEST_F(JsonFieldsTest, TakesTheDefaultForWhatIsMissingOrNull) {
  for (const char* key : {"absent", "none"}) {
    EXPECT_EQ(*fields_.Int(key, 1, 2, 7), 7);
    EXPECT_EQ(*fields_.Real(key, 0, 1, 0.25), 0.25);
    EXPECT_EQ(*fields_.Bool(key, true), true);
    EXPECT_EQ(*fields_.Text(key, "default"), "default");
    EXPECT_EQ(*fields_.Choice(key, {"a"}, "b"), "b");
    EXPECT_FALSE(fields_.Has(key));
    EXPECT_EQ(fields_.Get(key), nullptr);
    EXPECT_TRUE(Fails(fields_.Int(key, 1, 2).status(), XH_INVALID_ARGUMENT,
                      std::string("recipe.json: \"") + key + "\" is missing; allowed: integer from 1 to 2"));
  }
}

TEST_F(JsonFieldsTest, NamesTheKeyTheValueAndWhatIsAllowed) {
  const auto fails = [](const Status& status, const std::string& message) {
    EXPECT_TRUE(Fails(status, XH_INVALID_ARGUMENT, message));
  };
  fails(fields_.Int("steps", 1, 1000000000).status(),
        "recipe.json: \"steps\" is -3; allowed: integer from 1 to 1000000000");
  fails(fields_.Int("half", 1, 10).status(), "\"half\" is 2.5; allowed: integer");
  fails(fields_.Int("round", 1, 10).status(), "\"round\" is 3.0; allowed: integer");
  fails(fields_.Int("text", 1, 10, 2).status(), "\"text\" is \"x\"; allowed: integer from 1 to 10");
  fails(fields_.Int("on", 0, 1).status(), "\"on\" is true; allowed: integer");
  fails(fields_.Int("big", 0, INT64_MAX).status(), "9007199254740993; allowed: integer from 0 to 9007199254740992");
  fails(fields_.Int("huge", INT64_MIN, INT64_MAX).status(), "18446744073709551615; allowed");
  fails(fields_.Real("huge", 0, 1e300).status(), "\"huge\" is 18446744073709551615");
  fails(fields_.Real("rate", 0.5, 1).status(), "\"rate\" is 0.001; allowed: number from 0.5 to 1");
  fails(fields_.Real("list", 0, 1).status(), "\"list\" is an array; allowed: number from 0 to 1");
  fails(fields_.Bool("layers").status(), "\"layers\" is 12; allowed: true or false");
  fails(fields_.Text("object").status(), "\"object\" is an object; allowed: text");
  fails(fields_.Text("nul").status(), "\"a?b\"; allowed: text without NUL");
  fails(fields_.Choice("text", {"bf16", "f32"}).status(), "\"text\" is \"x\"; allowed: \"bf16\", \"f32\"");
}

TEST_F(JsonFieldsTest, RefusesNumbersThatAreNotFinite) {
  const json object = {{"nan", std::numeric_limits<double>::quiet_NaN()},
                       {"inf", std::numeric_limits<double>::infinity()}};
  JsonFields fields(&object, "options");
  for (const char* key : {"nan", "inf"}) {
    EXPECT_TRUE(Fails(fields.Real(key, -HUGE_VAL, HUGE_VAL).status(), XH_INVALID_ARGUMENT, key));
  }
}

TEST(JsonFieldsUnknownTest, UnknownKeysAreNamedWithTheNearestKnownOne) {
  const json object = {{"stpes", 3}, {"rate", 1}, {"zzz", 1}};
  JsonFields fields(&object, "recipe.json");
  EXPECT_OK(fields.Int("steps", 1, 10, 1).status());
  EXPECT_TRUE(fields.Has("rate"));
  const std::string expected =
      "recipe.json: unknown \"stpes\", \"zzz\" (did you mean \"steps\"?); allowed: \"rate\", \"steps\"";
  EXPECT_TRUE(Fails(fields.NoOthers(), XH_INVALID_ARGUMENT, expected));
  EXPECT_TRUE(fields.Has("stpes"));
  EXPECT_EQ(*fields.Int("zzz", 1, 1), 1);
  EXPECT_OK(fields.NoOthers());
}

TEST(JsonFieldsUnknownTest, WhatIsNoObjectIsSaid) {
  const json array = json::array({1});
  JsonFields fields(&array, "recipe.json");
  EXPECT_TRUE(
      Fails(fields.Int("a", 0, 1, 0).status(), XH_INVALID_ARGUMENT, "recipe.json is an array; allowed: an object"));
  EXPECT_TRUE(Fails(fields.NoOthers(), XH_INVALID_ARGUMENT, "recipe.json is an array"));
  EXPECT_EQ(fields.Get("a"), nullptr);
  JsonFields missing(nullptr, "stages[0]");
  EXPECT_TRUE(Fails(missing.Text("kind").status(), XH_INVALID_ARGUMENT, "stages[0] is missing; allowed: an object"));
}

}  // namespace
}  // namespace xh
