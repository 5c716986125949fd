// Runs the suites of one plugin in this process and tells how it goes, line by line. The process is a child of the
// program: a plugin may end it.
#ifndef XHYBRID_TESTS_CONFORMANCE_PROGRAM_SUITES_H_
#define XHYBRID_TESTS_CONFORMANCE_PROGRAM_SUITES_H_

#include <set>
#include <string>

#include "xhybrid_plugin.h"

namespace xh::test {

constexpr char kShutdown[] = "shutdown";  // stands for a test: the plugin's end

// Lines, each a word, a tab and text:
//   fault TEXT            what is wrong with the library as such
//   plugin KIND NAME      one for each plugin that may be tested
//   unavailable TEXT      a plugin that cannot run here
//   start TEST, pass TEST, skip TEST\tWHY, fail TEST\tWHY
//   coverage JSON         after a test of a backend
//   done                  the process came to its end by itself
class Lines {
 public:
  explicit Lines(int file) : file_(file) {}
  void Send(const std::string& word, const std::string& text = "") const;

 private:
  int file_;
};

// Checks the library and names its plugins.
void CheckLibrary(const Lines& lines);
// Runs what the settings select for plugin `index`, but the tests in `done`.
void RunSuites(int index, const std::set<std::string>& done, const Lines& lines);

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_PROGRAM_SUITES_H_
