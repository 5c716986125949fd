#include "tests/conformance/program/suites.h"

#include <fnmatch.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>
#include <vector>

#include "tests/conformance/backend_fixture.h"
#include "tests/conformance/coverage.h"
#include "tests/conformance/program/plugin_library.h"
#include "tests/conformance/program/settings.h"

namespace xh::test {
namespace {

constexpr size_t kShownFailures = 3;  // of one test

// A message without line ends and without the places in the source that SCOPED_TRACE adds.
std::string OneLine(const std::string& text) {
  std::istringstream lines(text);
  std::string all;
  bool trace = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line == "Failed") continue;
    if (line == "Google Test trace:") {
      trace = true;
      continue;
    }
    const size_t place = trace ? line.find(": ") : std::string::npos;
    if (place != std::string::npos) line.erase(0, place + 2);
    std::replace(line.begin(), line.end(), '\t', ' ');
    all += (all.empty() ? "" : "; ") + line;
  }
  return all;
}

std::string Message(const testing::TestPartResult& result) {
  const std::string text = result.message();
  if (text.rfind("C++ exception", 0) == 0 || text.rfind("Unknown C++ exception", 0) == 0) {
    return "the plugin let a C++ exception through: " + OneLine(text);
  }
  return OneLine(text);
}

class Reporter : public testing::EmptyTestEventListener {
 public:
  explicit Reporter(const Lines& lines) : lines_(lines) {}

  void OnTestStart(const testing::TestInfo& test) override {
    name_ = std::string(test.test_suite_name()) + "." + test.name();
    failures_.clear();
    skipped_.clear();
    ForgetLiveErrors();
    lines_.Send("start", name_);
  }

  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) {
      if (result.skipped() && skipped_.empty()) skipped_ = Message(result);
      return;
    }
    const std::string message = Message(result);
    const bool known = std::find(failures_.begin(), failures_.end(), message) != failures_.end();
    if (!known) failures_.push_back(message);
  }

  void OnTestEnd(const testing::TestInfo& test) override {
    if (failures_.empty() && LiveErrors() != 0) {
      failures_.push_back(std::to_string(LiveErrors()) + " errors were made with error_new and never returned: a leak");
    }
    lines_.Send("coverage", TakeCoverage().ToLine());
    if (!failures_.empty()) {
      lines_.Send("fail", name_ + "\t" + Failures());
    } else if (test.result()->Skipped()) {
      lines_.Send("skip", name_ + "\t" + skipped_);
    } else {
      lines_.Send("pass", name_);
    }
  }

 private:
  std::string Failures() const {
    std::string all;
    for (size_t i = 0; i < std::min(failures_.size(), kShownFailures); ++i) {
      all += (i == 0 ? "" : " | ") + failures_[i];
    }
    if (failures_.size() > kShownFailures) {
      all += " | and " + std::to_string(failures_.size() - kShownFailures) + " more";
    }
    return all;
  }

  const Lines& lines_;
  std::string name_, skipped_;
  std::vector<std::string> failures_;
};

// The kind of plugin that a suite tests, by its name: StageX, MergeX and TextX; all others are of backends.
xh_plugin_kind KindOf(const std::string& suite) {
  if (suite.rfind("Stage", 0) == 0) return XH_PLUGIN_STAGE;
  if (suite.rfind("Merge", 0) == 0) return XH_PLUGIN_MERGE;
  if (suite.rfind("Text", 0) == 0) return XH_PLUGIN_TEXT;
  return XH_PLUGIN_BACKEND;
}

bool NeedsVectors(const std::string& suite) { return suite.rfind("Vectors/", 0) == 0 || suite == "Golden"; }

bool Matches(const std::string& name, const std::string& patterns) {
  std::istringstream list(patterns);
  for (std::string pattern; std::getline(list, pattern, ':');) {
    if (fnmatch(pattern.c_str(), name.c_str(), 0) == 0) return true;
  }
  return false;
}

// "Suite.Test" of everything that the settings select for a kind.
std::vector<std::string> Selected(xh_plugin_kind kind) {
  const testing::UnitTest& all = *testing::UnitTest::GetInstance();
  std::vector<std::string> names;
  for (int i = 0; i < all.total_test_suite_count(); ++i) {
    const testing::TestSuite& suite = *all.GetTestSuite(i);
    if (KindOf(suite.name()) != kind) continue;
    if (NeedsVectors(suite.name()) && TheSettings().vectors.empty()) continue;
    for (int j = 0; j < suite.total_test_count(); ++j) {
      const std::string name = std::string(suite.name()) + "." + suite.GetTestInfo(j)->name();
      if (Matches(name, TheSettings().filter)) names.push_back(name);
    }
  }
  return names;
}

void StartGoogleTest(const Lines& lines) {
  int argc = 1;
  char name[] = "xhybrid-conformance";
  char* argv[] = {name, nullptr};
  testing::InitGoogleTest(&argc, argv);
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new Reporter(lines));
}

}  // namespace

Settings& TheSettings() {
  static Settings settings;
  return settings;
}

const xh_plugin*& PluginUnderTest() {
  static const xh_plugin* plugin = nullptr;
  return plugin;
}

void Lines::Send(const std::string& word, const std::string& text) const {
  const std::string line = word + "\t" + text + "\n";
  for (size_t at = 0; at < line.size();) {
    const ssize_t written = write(file_, line.data() + at, line.size() - at);
    if (written <= 0) _exit(2);
    at += static_cast<size_t>(written);
  }
}

void CheckLibrary(const Lines& lines) {
  const PluginLibrary library = LoadPlugins(TheSettings().plugin_path);
  if (!library.cannot_load.empty()) lines.Send("unavailable", OneLine(library.cannot_load));
  for (const std::string& fault : library.faults) lines.Send("fault", OneLine(fault));
  for (size_t i = 0; library.faults.empty() && i < library.plugins.size(); ++i) {
    const xh_plugin& plugin = *library.plugins[i];
    if (plugin.score == 0) lines.Send("unavailable", std::string(plugin.name) + ": " + OneLine(plugin.unavailable));
    lines.Send("plugin", std::string(KindName(plugin.kind)) + " " + plugin.name + " " + plugin.version + " (" +
                             plugin.license + ")");
  }
  lines.Send("done");
}

void RunSuites(int index, const std::set<std::string>& done, const Lines& lines) {
  const PluginLibrary library = LoadPlugins(TheSettings().plugin_path);
  const xh_plugin* plugin = library.plugins[static_cast<size_t>(index)];
  PluginUnderTest() = plugin;
  if (plugin->kind == XH_PLUGIN_BACKEND) UseBackend(plugin);
  PromisesOfBackend().exact = TheSettings().exact;
  SetVectorsDirectory(TheSettings().vectors);
  StartGoogleTest(lines);
  std::string names;
  for (const std::string& name : Selected(plugin->kind)) {
    if (TheSettings().list) lines.Send("test", name);
    if (done.count(name) == 0) names += (names.empty() ? "" : ":") + name;
  }
  if (!TheSettings().list && !names.empty()) {
    testing::GTEST_FLAG(filter) = names;
    const int failed = RUN_ALL_TESTS();
    static_cast<void>(failed);  // the reporter has told
  }
  lines.Send("start", kShutdown);
  if (plugin->shutdown != nullptr) plugin->shutdown();
  lines.Send("done");
}

}  // namespace xh::test
