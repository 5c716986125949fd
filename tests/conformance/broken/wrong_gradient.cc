// The gradient of SWIGLU's gate is one per cent too large.
#include "tests/conformance/broken/cpu_wrapper.h"

namespace xh::broken {
void Spoil(Wrapper* wrapper) {
  wrapper->after_run = [](const Run& run) {
    if (run.op != XH_OP_SWIGLU || run.pass != XH_BACKWARD || run.args[4].dtype != XH_F32) return;
    const xh_tensor& gradient = run.args[4];
    for (int64_t row = 0; row < gradient.shape[0]; ++row) {
      for (int64_t i = 0; i < gradient.shape[1]; ++i) Floats(run, 4)[row * gradient.stride[0] + i] *= 1.01f;
    }
  };
}

}  // namespace xh::broken
