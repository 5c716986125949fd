// Counts what operator new gave out. The program that has memory.cc counts every allocation of C++, its plugins' too.
#ifndef XHYBRID_TESTS_FUZZ_MEMORY_H_
#define XHYBRID_TESTS_FUZZ_MEMORY_H_

#include <cstddef>

namespace xh::fuzz {

// Starts a new measurement at what is held now.
void ResetPeak();
// The most bytes that were held at once since then, beyond what was held at its start.
size_t PeakBytes();

}  // namespace xh::fuzz

#endif  // XHYBRID_TESTS_FUZZ_MEMORY_H_
