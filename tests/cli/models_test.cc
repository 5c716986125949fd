// What a user does with models: import, look, merge, run; and what the program says of the host.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "program.h"

namespace {

using cli_test::Lines;
using cli_test::Outcome;
using cli_test::RunProgram;
using cli_test::Scratch;
using cli_test::TinyTeacher;
using nlohmann::json;
using testing::HasSubstr;

json ParsedOutput(const Outcome& outcome) {
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  json parsed = json::parse(outcome.out, nullptr, false);
  EXPECT_FALSE(parsed.is_discarded()) << outcome.out;
  return parsed;
}

TEST(Models, AnImportedModelCanBeInspectedAndVerified) {
  Scratch scratch;
  const std::string path = scratch / "teacher.xhy";
  const json imported = ParsedOutput(RunProgram({"import", TinyTeacher(), path, "--json", "--quiet"}));
  EXPECT_EQ(imported["parameters"], 122304);
  EXPECT_EQ(imported["output"], path);
  const json described = ParsedOutput(RunProgram({"inspect", path, "--verify", "--json"}));
  EXPECT_EQ(described["parameters"], 122304);
  EXPECT_EQ(described["layers"].size(), 3u);
  EXPECT_EQ(described["tensors"].size(), imported["tensors"]);
  EXPECT_EQ(described["verified"], true);
  EXPECT_EQ(described["history"][0]["kind"], "import");
}

TEST(Models, InspectIsReadableAndListsTensorsOnRequest) {
  Scratch scratch;
  const std::string path = scratch / "teacher.xhy";
  ASSERT_EQ(RunProgram({"import", TinyTeacher(), path}).status, 0);
  const Outcome brief = RunProgram({"inspect", path});
  EXPECT_THAT(brief.out, HasSubstr("122304 parameters"));
  EXPECT_THAT(brief.out, HasSubstr("hidden_size: 64"));
  EXPECT_THAT(brief.out, testing::Not(HasSubstr("model.norm.weight")));
  EXPECT_THAT(RunProgram({"inspect", path, "--tensors"}).out, HasSubstr("model.norm.weight"));
  EXPECT_THAT(RunProgram({"inspect", TinyTeacher()}).out, HasSubstr("parameters: 122304"));
}

TEST(Models, ADamagedCheckpointFailsVerification) {
  Scratch scratch;
  const std::string path = scratch / "teacher.xhy";
  ASSERT_EQ(RunProgram({"import", TinyTeacher(), path}).status, 0);
  std::filesystem::path largest;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    if (largest.empty() || entry.file_size() > std::filesystem::file_size(largest)) largest = entry.path();
  }
  std::filesystem::permissions(largest, std::filesystem::perms::owner_write, std::filesystem::perm_options::add);
  const auto middle = static_cast<std::streamoff>(std::filesystem::file_size(largest) / 2);
  std::fstream file(largest, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(middle);
  const int byte = file.get();
  file.seekp(middle);
  file.put(static_cast<char>(byte ^ 0x40));
  file.close();
  const Outcome outcome = RunProgram({"inspect", path, "--verify"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(Lines(outcome.err), 1u) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr(path));
}

TEST(Models, AnExportedModelIsTheDirectoryThatWasImported) {
  Scratch scratch;
  const std::string path = scratch / "teacher.xhy", output = scratch / "out";
  ASSERT_EQ(RunProgram({"import", TinyTeacher(), path}).status, 0);
  const json exported =
      ParsedOutput(RunProgram({"export", path, output, "--shard-size", "200kB", "--json", "--quiet"}));
  EXPECT_EQ(exported["output"], output);
  EXPECT_EQ(exported["needs_code"], false);
  EXPECT_GT(exported["shards"], 1);
  EXPECT_EQ(cli_test::ReadFile(output + "/config.json"), cli_test::ReadFile(TinyTeacher() + "/config.json"));
  EXPECT_EQ(RunProgram({"export", path, output}).status, 1);
  const Outcome again = RunProgram({"export", path, output, "--replace", "--dtype", "bf16"});
  EXPECT_EQ(again.status, 0);
  EXPECT_THAT(again.out, HasSubstr("in 1 file: " + output));
  EXPECT_THAT(cli_test::ReadFile(output + "/config.json"), HasSubstr("bfloat16"));
  EXPECT_EQ(RunProgram({"export", path, output, "--shard-size", "0"}).status, 2);
}

TEST(Models, ImportDoesNotReplaceUnasked) {
  Scratch scratch;
  const std::string path = scratch / "teacher.xhy";
  ASSERT_EQ(RunProgram({"import", TinyTeacher(), path}).status, 0);
  const Outcome again = RunProgram({"import", TinyTeacher(), path, "--quiet"});
  EXPECT_EQ(again.status, 1);
  EXPECT_THAT(again.err, HasSubstr(path));
  EXPECT_EQ(RunProgram({"import", TinyTeacher(), path, "--replace"}).status, 0);
}

TEST(Models, ADryRunWritesNothing) {
  Scratch scratch;
  const std::string path = scratch / "teacher.xhy";
  const Outcome outcome = RunProgram({"import", TinyTeacher(), path, "--dry-run"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("can be imported"));
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Models, GenerateSaysThatTheTokenizerIsMissing) {
  const Outcome outcome = RunProgram({"generate", TinyTeacher(), "Hello"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(Lines(outcome.err), 1u) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("no tokenizer"));
}

TEST(Models, TheMeanOfTwoCopiesIsTheModelItself) {
  Scratch scratch;
  const std::string first = scratch / "a.xhy", second = scratch / "b.xhy", merged = scratch / "merged.xhy";
  ASSERT_EQ(RunProgram({"import", TinyTeacher(), first}).status, 0);
  ASSERT_EQ(RunProgram({"import", TinyTeacher(), second}).status, 0);
  const json result = ParsedOutput(
      RunProgram({"merge", "--weights", "0.5,0.5", first, second, "--output", merged, "--json", "--quiet"}));
  EXPECT_EQ(result["method"], "linear");
  const json before = ParsedOutput(RunProgram({"inspect", first, "--json"}));
  const json after = ParsedOutput(RunProgram({"inspect", merged, "--verify", "--json"}));
  EXPECT_EQ(after["tensors"], before["tensors"]);  // names, shapes, types and digests
  EXPECT_EQ(after["history"].back()["kind"], "merge");
}

TEST(Models, MergeTakesOptionsOfItsMethodAndRefusesOthers) {
  Scratch scratch;
  const std::string path = scratch / "a.xhy";
  ASSERT_EQ(RunProgram({"import", TinyTeacher(), path}).status, 0);
  const Outcome good = RunProgram(
      {"merge", path, path, "--option", "weights=[0.25,0.75]", "--output", scratch / "m.xhy", "--json", "-q"});
  EXPECT_EQ(ParsedOutput(good)["options"]["weights"], json({0.25, 0.75}));
  const Outcome bad = RunProgram({"merge", path, path, "--option", "density=0.5", "--dry-run", "--quiet"});
  EXPECT_EQ(bad.status, 1);
  EXPECT_THAT(bad.err, HasSubstr("density"));
  EXPECT_THAT(bad.err, HasSubstr("weights"));
}

TEST(Models, AMissingPluginIsNamedWithThePlacesWhereItWasSought) {
  Scratch scratch;
  const std::string path = scratch / "a.xhy", empty = scratch / "empty";
  ASSERT_EQ(RunProgram({"import", TinyTeacher(), path}).status, 0);
  std::filesystem::create_directory(empty);
  const Outcome outcome = RunProgram({"merge", path, path, "--method", "median", "--output", scratch / "m.xhy"},
                                     {"XHYBRID_PLUGIN_PATH=" + empty});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(Lines(outcome.err), 1u) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("\"median\""));
  EXPECT_THAT(outcome.err, HasSubstr(empty));
  EXPECT_FALSE(std::filesystem::exists(scratch / "m.xhy"));
}

TEST(Models, DoctorFindsABackendAndListsWhereItSought) {
  Scratch scratch;
  const std::string nowhere = scratch / "nowhere";
  const Outcome outcome = RunProgram({"doctor", "--plugins", nowhere});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("device: cpu"));
  EXPECT_THAT(outcome.out, HasSubstr(nowhere));
  EXPECT_THAT(outcome.out, HasSubstr("xhybrid_cpu.so"));
  const json report = ParsedOutput(RunProgram({"doctor", "--json"}));
  EXPECT_EQ(report["device"]["backend"], "cpu");
}

TEST(Models, PluginsListsWhatWasFoundWithOptionsOnRequest) {
  const Outcome outcome = RunProgram({"plugins"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  for (const char* name : {"cpu", "align", "linear", "sentencepiece", "Apache-2.0", ".so"}) {
    EXPECT_THAT(outcome.out, HasSubstr(name));
  }
  EXPECT_THAT(RunProgram({"plugins", "--options"}).out, HasSubstr("learning_rate"));
  for (const json& plugin : ParsedOutput(RunProgram({"plugins", "--json"}))) EXPECT_TRUE(plugin["options"].is_array());
}

}  // namespace
