// CAST throws.
#include <stdexcept>

#include "tests/conformance/broken/cpu_wrapper.h"

namespace xh::broken {
void Spoil(Wrapper* wrapper) {
  wrapper->before_run = [](const Run& run) {
    if (run.op == XH_OP_CAST) throw std::runtime_error("thrown by a plugin");
  };
}

}  // namespace xh::broken
