// A pinned size or offset of the ABI and the check that it still holds.
#ifndef XHYBRID_TESTS_ABI_PIN_H_
#define XHYBRID_TESTS_ABI_PIN_H_

#include <cstddef>

#include "gtest/gtest.h"

namespace xh_abi {

struct Pin {
  const char* what;
  size_t now;
  size_t released;
};

#define XH_SIZE(type, bytes) \
  { "sizeof(" #type ")", sizeof(type), bytes }
#define XH_FIELD(type, field, offset) \
  { #type "." #field, offsetof(type, field), offset }
#define XH_SLOT(type, field, slot) \
  { #type "." #field, offsetof(type, field), (slot) * sizeof(void*) }

template <size_t count>
void ExpectPinned(const Pin (&pins)[count]) {
  for (const Pin& pin : pins) EXPECT_EQ(pin.now, pin.released) << pin.what << " moved: the ABI is broken";
}

}  // namespace xh_abi

#endif  // XHYBRID_TESTS_ABI_PIN_H_
