// A plan of REDUCE makes an error that nobody gets.
#include "tests/conformance/broken/cpu_wrapper.h"

namespace xh::broken {
void Spoil(Wrapper* wrapper) {
  wrapper->before_open = [](const xh_op_desc& desc) -> xh_error* {
    const xh_host& host = *TheWrapper().host;
    if (desc.op == XH_OP_REDUCE) static_cast<void>(host.error_new(XH_INTERNAL, "broken", "forgotten"));
    return nullptr;
  };
}

}  // namespace xh::broken
