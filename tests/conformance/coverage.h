// What was asked of a backend and how it answered: calls supported out of calls made, and the worst error, by op, dtype
// and pass. Kept for the whole process; the program's report is made of it.
#ifndef XHYBRID_TESTS_CONFORMANCE_COVERAGE_H_
#define XHYBRID_TESTS_CONFORMANCE_COVERAGE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "xhybrid_plugin.h"

namespace xh::test {

const char* OpName(xh_op op);
const std::vector<xh_op>& AllOps();
// Whether xhybrid_plugin.h lets a backend leave calls of the op out: no gap then.
bool MayBeLeftOut(const std::string& op);

// The dtype that a call is counted under: bf16 where any argument is, else f32, else that of the first argument.
std::string DtypeName(const std::vector<xh_dtype>& dtypes);

struct Coverage {
  struct Call {
    int64_t made = 0, supported = 0;
    std::string reason;  // of the first refusal
  };
  struct Worst {
    double error = 0.0, tolerance = 0.0;  // the largest error relative to its tolerance
  };
  using Key = std::pair<std::string, std::string>;  // op, dtype
  std::map<Key, Call> calls[3];                     // by pass
  std::map<Key, Worst> values, gradients;

  void Add(const Coverage& other);
  std::string ToLine() const;
  static Coverage FromLine(const std::string& line);
};

// Adds to what this process has covered.
void CountCall(xh_op op, const std::string& dtype, xh_pass pass, bool supported, const std::string& reason);
void CountError(xh_op op, const std::string& dtype, bool gradient, double error, double tolerance);
// What was added since the last time.
Coverage TakeCoverage();

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_COVERAGE_H_
