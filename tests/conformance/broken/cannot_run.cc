// A backend for a device that this machine does not have: it loads, and says why it cannot run.
#include "tests/conformance/broken/cpu_wrapper.h"

namespace xh::broken {
void Spoil(Wrapper* wrapper) {
  wrapper->plugin.name = "absent";
  wrapper->plugin.score = 0;
  wrapper->plugin.unavailable = "the driver finds no device";
}

}  // namespace xh::broken
