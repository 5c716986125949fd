// The plugin does not say what it was built for.
#include "tests/conformance/broken/cpu_wrapper.h"

namespace xh::broken {
void Spoil(Wrapper* wrapper) { wrapper->plugin.abi = 0; }

}  // namespace xh::broken
