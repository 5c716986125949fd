// FILL ends the process, and says that all is well.
#include <cstdlib>

#include "tests/conformance/broken/cpu_wrapper.h"

namespace xh::broken {
void Spoil(Wrapper* wrapper) {
  wrapper->before_run = [](const Run& run) {
    if (run.op == XH_OP_FILL) std::_Exit(0);
  };
}

}  // namespace xh::broken
