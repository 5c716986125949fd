// A slot of the table is NULL.
#include "tests/conformance/broken/cpu_wrapper.h"

namespace xh::broken {
void Spoil(Wrapper* wrapper) { wrapper->table.event_close = nullptr; }

}  // namespace xh::broken
