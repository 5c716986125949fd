// What the program prints: faults as they are found, then what is supported and how exact it is.
#ifndef XHYBRID_TESTS_CONFORMANCE_PROGRAM_REPORT_H_
#define XHYBRID_TESTS_CONFORMANCE_PROGRAM_REPORT_H_

#include <chrono>
#include <set>
#include <string>

#include "tests/conformance/coverage.h"

namespace xh::test {

// The result of one plugin's tests.
class Report {
 public:
  // One line of a child (suites.h).
  void Read(const std::string& line);
  // How the child ended (child.h). False when the plugin ended it: tests may be left.
  bool Ended(const std::string& how);

  // Tests that have ended, or ended their process.
  const std::set<std::string>& done() const { return done_; }
  int tests() const { return passed_ + failed_ + skipped_; }
  // Prints the table of ops and the sums; true when the plugin conforms.
  bool Conclude(bool backend) const;

 private:
  void PrintTime(const std::string& test) const;
  void Fail(const std::string& test, const std::string& why);
  void PrintOps() const;
  int64_t Gaps() const;

  Coverage coverage_;
  std::set<std::string> done_;
  std::string running_;
  std::chrono::steady_clock::time_point started_;  // running_
  bool finished_ = false;
  int passed_ = 0, failed_ = 0, skipped_ = 0;
};

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_PROGRAM_REPORT_H_
