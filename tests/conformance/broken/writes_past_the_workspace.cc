// A plan writes one byte past its workspace.
#include "tests/conformance/broken/cpu_wrapper.h"

namespace xh::broken {
void Spoil(Wrapper* wrapper) {
  wrapper->after_run = [](const Run& run) {
    if (run.workspace_bytes > 0) run.workspace[run.workspace_bytes] = 1;
  };
}

}  // namespace xh::broken
