// Sharing work over threads, and pieces of a workspace. In the instruction set's namespace: op files inline it.
#ifndef XHYBRID_BACKENDS_CPU_PARALLEL_H_
#define XHYBRID_BACKENDS_CPU_PARALLEL_H_

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "backends/cpu/plan.h"

namespace xh::cpu::XH_ISA {

// A parallel region costs about a microsecond, and more with every thread: below this many element operations one
// thread is faster, and each further one needs half as many to be worth waking.
constexpr int64_t kWorthThreads = 20000;

// Parts that `items` are split into. The split never depends on how many threads come at run time, so results do not.
inline int Parts(int threads, int64_t items, int64_t work) {
  if (work < kWorthThreads) return 1;
  const int64_t worth = work / (kWorthThreads / 2);
  return static_cast<int>(std::max<int64_t>(1, std::min({static_cast<int64_t>(threads), items, worth})));
}

// Runs body(first, last, part) for `parts` contiguous shares of [0, items).
template <class Body>
void RunParts(int parts, int64_t items, Body body) {
  if (parts <= 1) {
    body(int64_t{0}, items, 0);
    return;
  }
#pragma omp parallel num_threads(parts)
  {
    const int threads = omp_get_num_threads();
    for (int part = omp_get_thread_num(); part < parts; part += threads) {
      body(items * part / parts, items * (part + 1) / parts, part);
    }
  }
}

// Reserves `bytes` at a cache line and returns where.
inline int64_t Reserve(int64_t* total, int64_t bytes) {
  const int64_t offset = *total;
  *total += (bytes + 63) / 64 * 64;
  return offset;
}

template <class T>
T* At(void* base, int64_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(base) + offset);
}

}  // namespace xh::cpu::XH_ISA

#endif  // XHYBRID_BACKENDS_CPU_PARALLEL_H_
