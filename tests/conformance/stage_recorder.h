// A host for a stage that only writes down what the stage declares.
#ifndef XHYBRID_TESTS_CONFORMANCE_STAGE_RECORDER_H_
#define XHYBRID_TESTS_CONFORMANCE_STAGE_RECORDER_H_

#include <deque>
#include <string>
#include <vector>

#include "xhybrid_plugin.h"

// What a value of the step is.
struct xh_value {
  enum Kind { kForward, kLoss } kind;
  xh_forward which = 0;
  std::string tap;
};

struct xh_step {
  std::vector<std::string> calls;  // one line each, with every argument
  std::vector<std::string> wrong;  // what no stage may ask for
  std::deque<xh_value> values;
  int trainable = 0, minimized = 0;
  int fail_at = -1;  // the call that fails
  xh_error* failed = nullptr;
};

namespace xh::test {

const xh_stage_host& RecordingHost();

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_STAGE_RECORDER_H_
