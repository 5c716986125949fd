// TOP_K ends the process by a signal.
#include <csignal>

#include "tests/conformance/broken/cpu_wrapper.h"

namespace xh::broken {
void Spoil(Wrapper* wrapper) {
  wrapper->before_run = [](const Run& run) {
    if (run.op == XH_OP_TOP_K) std::raise(SIGSEGV);
  };
}

}  // namespace xh::broken
