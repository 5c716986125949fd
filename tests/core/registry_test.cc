// Plugins: where they are sought, what is refused and why, and what a missing one is told by.
#include "core/registry.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>

#include "core/plugin_host.h"
#include "core/runtime.h"
#include "nlohmann/json.hpp"
#include "tests/checkpoint/scratch.h"

namespace xh {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Fake(const std::string& name) { return std::string(XH_FAKES) + "/" + name + ".so"; }

class RegistryTest : public ::testing::Test {
 protected:
  void SetUp() override { unsetenv("XHYBRID_PLUGIN_PATH"); }

  // A new directory that holds copies of these fakes.
  std::string DirectoryWith(const std::vector<std::string>& fakes) {
    const std::string directory = scratch_ / ("plugins" + std::to_string(directories_++));
    fs::create_directory(directory);
    for (const std::string& fake : fakes) fs::copy_file(Fake(fake), directory + "/" + fake + ".so");
    return directory;
  }
  static std::string OutcomeOf(const Registry& registry, const std::string& path) {
    for (const LoadAttempt& attempt : registry.attempts()) {
      if (attempt.path == path) return attempt.outcome;
    }
    return "not tried";
  }

  test::Scratch scratch_;
  int directories_ = 0;
};

struct Broken {
  const char* fake;
  const char* reason;
};
class BrokenPluginTest : public RegistryTest, public ::testing::WithParamInterface<Broken> {};

TEST_P(BrokenPluginTest, IsRefusedWithItsReasonAndTheOthersLoad) {
  const Registry registry = Registry::Load(DirectoryWith({GetParam().fake, "good"}));
  ASSERT_EQ(registry.plugins().size(), 1u);
  EXPECT_STREQ(registry.plugins()[0].plugin->name, "fake");
  const std::string path = scratch_ / ("plugins0/" + std::string(GetParam().fake) + ".so");
  EXPECT_THAT(OutcomeOf(registry, path), AllOf(HasSubstr("refused"), HasSubstr(GetParam().reason)));
}

INSTANTIATE_TEST_SUITE_P(
    All, BrokenPluginTest,
    ::testing::Values(
        Broken{"version_zero", "xh_plugin.abi is 0"}, Broken{"newer_minor", "built for ABI 1.3, this library has 1.0"},
        Broken{"other_major", "built for ABI 2.0, this library has 1.0"},
        Broken{"small_header", "xh_plugin.struct_size is 8"}, Broken{"small_table", "xh_merge_table.struct_size is 16"},
        Broken{"null_slot", "xh_merge_table.combine is NULL"}, Broken{"no_observe", "xh_merge_table.observe is NULL"},
        Broken{"unknown_kind", "plugin kind 99 is not known"}, Broken{"no_name", "xh_plugin.name is empty"},
        Broken{"no_table", "xh_plugin.table of fake is NULL"}, Broken{"no_entry", "it exports no xh_plugin_v1"},
        Broken{"bad_schema", "no list \"options\""}, Broken{"throws", "threw an exception"}),
    [](const auto& info) { return std::string(info.param.fake); });

TEST_F(RegistryTest, AFileThatIsNoLibraryIsReported) {
  const std::string directory = DirectoryWith({});
  test::WriteBytes(directory + "/text.so", std::string(5000, 'x'));
  test::WriteBytes(directory + "/empty.so", "");
  test::WriteBytes(directory + "/notes.txt", "not tried at all");
  const Registry registry = Registry::Load(directory);
  EXPECT_TRUE(registry.plugins().empty());
  EXPECT_THAT(OutcomeOf(registry, directory + "/text.so"), HasSubstr("invalid ELF header"));
  EXPECT_THAT(OutcomeOf(registry, directory + "/empty.so"), HasSubstr("file too short"));
  EXPECT_EQ(OutcomeOf(registry, directory + "/notes.txt"), "not tried");
}

TEST_F(RegistryTest, AMissingPluginIsNamedWithWhatThereIsAndWhereItWasSought) {
  const std::string directory = DirectoryWith({"good", "newer_minor"});
  const Registry registry = Registry::Load(directory + ":/nowhere/at/all");
  const auto found = registry.FindMerge("ties");
  EXPECT_EQ(CodeOf(found.status()), XH_NOT_FOUND);
  EXPECT_THAT(std::string(found.status().message()),
              AllOf(HasSubstr("there is no merge plugin \"ties\""), HasSubstr("there are: fake"),
                    HasSubstr(directory + "/good.so (loaded merge fake)"), HasSubstr("built for ABI 1.3"),
                    HasSubstr("/nowhere/at/all (no such directory)"), Not(HasSubstr("\n"))));
  EXPECT_EQ(CodeOf(registry.FindBackend("").status()), XH_NOT_FOUND);
  EXPECT_EQ(CodeOf(registry.FindStage("fake").status()), XH_NOT_FOUND);
}

TEST_F(RegistryTest, ThePluginPathComesBeforeTheEnvironment) {
  const std::string first = DirectoryWith({"second"}), other = DirectoryWith({"good"});
  setenv("XHYBRID_PLUGIN_PATH", other.c_str(), 1);
  const Registry registry = Registry::Load(first);
  ASSERT_EQ(registry.plugins().size(), 1u);
  EXPECT_STREQ(registry.plugins()[0].plugin->version, "2");
  EXPECT_EQ(OutcomeOf(registry, other + "/good.so"),
            "merge fake is hidden by " + fs::canonical(first).string() + "/second.so");
  EXPECT_STREQ(Registry::Load("").plugins().at(0).plugin->version, "1");
}

TEST_F(RegistryTest, ALibraryFoundByTwoWaysLoadsOnce) {
  const std::string directory = DirectoryWith({"good"});
  const std::string link = scratch_ / "link";
  fs::create_directory_symlink(directory, link);
  const Registry registry = Registry::Load(directory + ":" + link + ":" + directory + "/good.so");
  EXPECT_EQ(registry.plugins().size(), 1u);
  for (const LoadAttempt& attempt : registry.attempts()) EXPECT_THAT(attempt.outcome, Not(HasSubstr("hidden")));
}

TEST_F(RegistryTest, APathMayNameALibraryItself) {
  EXPECT_EQ(Registry::Load(Fake("good")).plugins().size(), 1u);
  EXPECT_EQ(OutcomeOf(Registry::Load("/nowhere/x.so"), "/nowhere/x.so"), "no such file");
}

TEST_F(RegistryTest, WhatEveryUserMayWriteToIsRefused) {
  const std::string directory = DirectoryWith({"good"});
  ASSERT_EQ(chmod(directory.c_str(), 0777), 0);
  const Registry registry = Registry::Load(directory);
  EXPECT_TRUE(registry.plugins().empty());
  EXPECT_EQ(OutcomeOf(registry, directory), "refused: every user may write to it");
  ASSERT_EQ(chmod(directory.c_str(), 0755), 0);
  ASSERT_EQ(chmod((directory + "/good.so").c_str(), 0666), 0);
  EXPECT_TRUE(Registry::Load(directory).plugins().empty());
}

TEST_F(RegistryTest, TheWorkingDirectoryIsNotSearched) {
  const fs::path before = fs::current_path();
  fs::current_path(DirectoryWith({"good"}));
  const Registry registry = Registry::Load("");
  fs::current_path(before);
  EXPECT_TRUE(registry.plugins().empty());
}

TEST_F(RegistryTest, APluginThatCannotRunHereSaysWhy) {
  const auto found = Registry::Load(Fake("unavailable")).FindMerge("fake");
  EXPECT_EQ(CodeOf(found.status()), XH_UNSUPPORTED);
  EXPECT_THAT(std::string(found.status().message()), HasSubstr("the moon is full"));
}

TEST_F(RegistryTest, AMissingTokenizerPluginIsNamedByTheFileThatNeedsIt) {
  const auto found = Registry::Load("").FindText({"tokenizer.json", "tokenizer_config.json"});
  EXPECT_EQ(CodeOf(found.status()), XH_NOT_FOUND);
  EXPECT_THAT(std::string(found.status().message()),
              AllOf(HasSubstr("tokenizer.json needs the text plugin \"huggingface\", which is not installed"),
                    HasSubstr("sought in")));
  EXPECT_THAT(std::string(Registry::Load("").FindText({}).status().message()), HasSubstr("no tokenizer file"));
}

TEST_F(RegistryTest, ALogLineReachesEveryListenerAndMayAddAnother) {
  std::vector<std::string> heard;
  std::unique_ptr<LogListener> inner;
  auto record = [&](xh_log_level, const std::string& origin, const std::string& text) {
    heard.push_back(origin + ": " + text);
  };
  {
    LogListener outer([&](xh_log_level level, const std::string& origin, const std::string& text) {
      record(level, origin, text);
      if (inner == nullptr) inner = std::make_unique<LogListener>(record);
    });
    PluginHost()->log(XH_LOG_INFO, "cpu", "one");
  }
  PluginHost()->log(XH_LOG_INFO, nullptr, nullptr);
  EXPECT_THAT(heard, ::testing::ElementsAre("cpu: one", "plugin: "));
}

TEST_F(RegistryTest, AReportShowsPluginsAndEveryPlace) {
  RuntimeOptions options;
  options.plugin_path = DirectoryWith({"good", "null_slot"});
  auto runtime = Runtime::Open(options);
  ASSERT_TRUE(runtime.ok()) << runtime.status();
  const nlohmann::json report = (*runtime)->Report();
  ASSERT_EQ(report["plugins"].size(), 1u);
  EXPECT_EQ(report["plugins"][0]["kind"], "merge");
  EXPECT_EQ(report["plugins"][0]["name"], "fake");
  EXPECT_THAT(report["searched"].dump(), HasSubstr("xh_merge_table.combine is NULL"));
  EXPECT_THAT(report["device"]["error"].get<std::string>(), HasSubstr("there is no backend plugin"));
  EXPECT_GT(report["cpu"]["memory_bytes"].get<int64_t>(), 0);
}

TEST_F(RegistryTest, ARuntimeForAMissingDeviceOrAbsurdThreadsDoesNotOpen) {
  RuntimeOptions options;
  options.device = "abacus";
  EXPECT_EQ(CodeOf(Runtime::Open(options).status()), XH_NOT_FOUND);
  options.device = "";
  options.threads = -1;
  EXPECT_EQ(CodeOf(Runtime::Open(options).status()), XH_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace xh
