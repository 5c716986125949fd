// xhybrid-conformance PLUGIN.so: whether a plugin keeps its side of xhybrid_plugin.h.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "tests/conformance/program/child.h"
#include "tests/conformance/program/report.h"
#include "tests/conformance/program/settings.h"
#include "tests/conformance/program/suites.h"

namespace xh::test {
namespace {

enum Status { kConforms = 0, kFaulty = 1, kCannotTest = 2 };

constexpr int kMostCrashes = 10;  // after which the rest of the tests would only say the same

constexpr char kHelp[] =
    "usage: xhybrid-conformance [options] PLUGIN.so\n"
    "\n"
    "Checks a plugin for libxhybrid against the contract in xhybrid_plugin.h: a backend op by op against double\n"
    "precision, a stage, merge or tokenizer against the rules of its table. Every fault is one line that begins with\n"
    "FAIL. A plugin that crashes or throws ends its test, not the program.\n"
    "\n"
    "  --filter PATTERN[:PATTERN]  only tests whose \"Suite.Test\" matches, for example 'Mlstm*:*Cache*'\n"
    "  --list                      names the tests and runs none\n"
    "  --vectors DIR               also compares with golden vectors (tests/vectors of the source tree)\n"
    "  --tokenizer FILE            a tokenizer file to test a text plugin with; once for each file of the model\n"
    "  --allow-unsupported[=OP,..] calls of these ops (of all) may be unsupported; they are counted all the same\n"
    "  --exact                     also asks for equal bits where the interface allows rounding: INFER and FORWARD,\n"
    "                              and any number of threads\n"
    "  --quick                     runs no code a second time only to compare, and judges no leak: under tools that "
    "slow\n"
    "                              it down\n"
    "  --times                     names each test when it has ended, with its seconds\n"
    "  --help\n"
    "\n"
    "exit status: 0 the plugin conforms, 1 it does not, 2 it cannot be tested here (or wrong usage)\n"
    "\n"
    "  xhybrid-conformance /usr/lib/xhybrid/xhybrid_cpu.so\n"
    "  xhybrid-conformance --allow-unsupported=DISTILL_LOSS,ADAMW build/my_backend.so\n"
    "  xhybrid-conformance --tokenizer model/tokenizer.model my_text.so\n";

// The value of "--name value" or "--name=value", advancing `i`; NULL when the argument is another one.
const char* ValueOf(const char* name, char** argv, int* i) {
  const char* argument = argv[*i];
  const size_t length = std::strlen(name);
  if (std::strncmp(argument, name, length) != 0) return nullptr;
  if (argument[length] == '=') return argument + length + 1;
  if (argument[length] != '\0' || argv[*i + 1] == nullptr) return nullptr;
  return argv[++*i];
}

void AllowGaps(const std::string& names) {
  for (size_t at = 0; at <= names.size();) {
    const size_t end = std::min(names.find(',', at), names.size());
    TheSettings().allowed_gaps.insert(names.substr(at, end - at));
    at = end + 1;
  }
}

// False when an argument is not understood.
bool ParseArguments(int argc, char** argv) {
  Settings& settings = TheSettings();
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (const char* vectors = ValueOf("--vectors", argv, &i)) {
      settings.vectors = vectors;
    } else if (const char* filter = ValueOf("--filter", argv, &i)) {
      settings.filter = filter;
    } else if (const char* file = ValueOf("--tokenizer", argv, &i)) {
      settings.tokenizer_files.push_back(file);
    } else if (argument.rfind("--allow-unsupported=", 0) == 0) {
      AllowGaps(argument.substr(std::strlen("--allow-unsupported=")));
    } else if (argument == "--allow-unsupported") {
      settings.all_gaps_allowed = true;
    } else if (argument == "--exact") {
      settings.exact = true;
    } else if (argument == "--quick") {
      settings.quick = true;
    } else if (argument == "--times") {
      settings.times = true;
    } else if (argument == "--list") {
      settings.list = true;
    } else if (argument.rfind("--", 0) == 0 || !settings.plugin_path.empty()) {
      std::fprintf(stderr, "xhybrid-conformance: what is \"%s\"? See --help.\n", argv[i]);
      return false;
    } else {
      settings.plugin_path = argument;
    }
  }
  if (settings.plugin_path.empty()) std::fprintf(stderr, "xhybrid-conformance: no plugin is named. See --help.\n");
  return !settings.plugin_path.empty();
}

// Loads and checks the library. Gives the descriptions of its plugins.
Status Examine(std::vector<std::string>* plugins) {
  Status status = kConforms;
  bool finished = false;
  const std::string ended = InChild([](int file) { CheckLibrary(Lines(file)); },
                                    [&](const std::string& line) {
                                      const size_t tab = line.find('\t');
                                      const std::string word = line.substr(0, tab), text = line.substr(tab + 1);
                                      if (word == "plugin") plugins->push_back(text);
                                      if (word == "fault") std::printf("FAIL Entry: %s\n", text.c_str());
                                      if (word == "unavailable") std::printf("cannot be tested: %s\n", text.c_str());
                                      if (word == "done") finished = true;
                                      if (word == "fault") status = kFaulty;
                                      if (word == "unavailable" && status == kConforms) status = kCannotTest;
                                    });
  if (ended.empty() && finished) return status;
  std::printf("FAIL Entry: the plugin %s while it was loaded\n", ended.empty() ? "ended the process" : ended.c_str());
  return kFaulty;
}

bool LacksTokenizer(const std::vector<std::string>& plugins) {
  const bool any = std::any_of(plugins.begin(), plugins.end(),
                               [](const std::string& plugin) { return plugin.rfind("text", 0) == 0; });
  return any && TheSettings().tokenizer_files.empty() && !TheSettings().list;
}

bool TestPlugin(int index, const std::string& description) {
  if (!TheSettings().list) std::printf("%s\n", description.c_str());
  Report report;
  bool finished = false;
  for (int crashes = 0; !finished && crashes < kMostCrashes && report.done().count(kShutdown) == 0; ++crashes) {
    finished = report.Ended(InChild([&](int file) { RunSuites(index, report.done(), Lines(file)); },
                                    [&](const std::string& line) { report.Read(line); }));
  }
  if (TheSettings().list) return true;
  if (report.tests() == 0) {
    std::printf("FAIL no test matches \"%s\"\n", TheSettings().filter.c_str());
    return false;
  }
  return report.Conclude(description.rfind("backend", 0) == 0);
}

Status Main() {
  std::vector<std::string> plugins;
  const Status examined = Examine(&plugins);
  if (examined != kConforms) return examined;
  if (LacksTokenizer(plugins)) {
    std::printf(
        "cannot be tested: a text plugin needs files of a tokenizer that it reads; give them with --tokenizer\n");
    return kCannotTest;
  }
  bool conforms = true;
  for (size_t i = 0; i < plugins.size(); ++i) conforms = TestPlugin(static_cast<int>(i), plugins[i]) && conforms;
  if (!TheSettings().list) std::printf("%s\n", conforms ? "conforms" : "does not conform");
  return conforms ? kConforms : kFaulty;
}

}  // namespace
}  // namespace xh::test

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--help") == 0) {
      std::fputs(xh::test::kHelp, stdout);
      return 0;
    }
  }
  return xh::test::ParseArguments(argc, argv) ? xh::test::Main() : xh::test::kCannotTest;
}
