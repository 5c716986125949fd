// The table is said to be eight bytes shorter than it is.
#include "tests/conformance/broken/cpu_wrapper.h"

namespace xh::broken {
void Spoil(Wrapper* wrapper) { wrapper->table.struct_size -= 8; }

}  // namespace xh::broken
