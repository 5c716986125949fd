// Unequal pieces of work, each taken by the next free thread. What an item computes must not depend on its thread.
#ifndef XHYBRID_BACKENDS_CPU_ITEM_QUEUE_H_
#define XHYBRID_BACKENDS_CPU_ITEM_QUEUE_H_

#include <atomic>
#include <cstdint>

#include "backends/cpu/parallel.h"

namespace xh::cpu::XH_ISA {

// body(item, part) for every item in [0, items), in order of item; `part` in [0, parts) names the scratch to use.
template <class Body>
void RunItems(int parts, int64_t items, Body body) {
  if (items <= 0) return;
  std::atomic<int64_t> next{0};
  RunParts(parts, parts, [&](int64_t, int64_t, int part) {
    for (int64_t item = next.fetch_add(1, std::memory_order_relaxed); item < items;
         item = next.fetch_add(1, std::memory_order_relaxed)) {
      body(item, part);
    }
  });
}

}  // namespace xh::cpu::XH_ISA

#endif  // XHYBRID_BACKENDS_CPU_ITEM_QUEUE_H_
