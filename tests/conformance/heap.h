// Whether calls give back the memory that they take.
#ifndef XHYBRID_TESTS_CONFORMANCE_HEAP_H_
#define XHYBRID_TESTS_CONFORMANCE_HEAP_H_

#include <gtest/gtest.h>
#include <malloc.h>

#include <functional>

#include "tests/conformance/program/settings.h"

namespace xh::test {

// Bytes of the C library's heap in use, in all arenas. 0 under a sanitizer, which looks for leaks by itself.
inline int64_t HeapInUse() {
  const struct mallinfo2 info = mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}

// Fails where `cycle` keeps memory. A quarter of the smallest block a cycle is allowed: what is allocated once for all,
// or waits in a cache of a thread, is less.
inline void ExpectNoLeak(const char* what, const std::function<void()>& cycle) {
  const int cycles = TheSettings().quick ? 20 : 1000;
  constexpr double kAllowed = 8.0;
  for (int i = 0; i < cycles / 20; ++i) cycle();
  const int64_t before = HeapInUse();
  for (int i = 0; i < cycles; ++i) cycle();
  const double each = static_cast<double>(HeapInUse() - before) / cycles;
  if (each > kAllowed && !TheSettings().quick) ADD_FAILURE() << what << " leak: " << each << " bytes stay each time";
}

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_HEAP_H_
