// MATMUL in bf16 is refused, which is allowed, but does not conform.
#include "tests/conformance/broken/cpu_wrapper.h"

namespace xh::broken {
void Spoil(Wrapper* wrapper) {
  wrapper->before_open = [](const xh_op_desc& desc) -> xh_error* {
    bool short_numbers = false;
    for (int32_t i = 0; i < desc.arg_count; ++i) short_numbers = short_numbers || desc.args[i].dtype == XH_BF16;
    if (desc.op != XH_OP_MATMUL || !short_numbers) return nullptr;
    return TheWrapper().host->error_new(XH_UNSUPPORTED, "broken", "MATMUL: bf16 is too short for me");
  };
}

}  // namespace xh::broken
