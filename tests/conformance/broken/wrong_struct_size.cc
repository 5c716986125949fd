// The table is said to be one slot shorter than version 1.0 is.
#include "tests/conformance/broken/cpu_wrapper.h"

namespace xh::broken {
void Spoil(Wrapper* wrapper) { wrapper->table.struct_size = 8 + 15 * sizeof(void*); }

}  // namespace xh::broken
