// The recurrence over chunks: turns what every chunk adds to the state into the state between chunks.
#ifndef XHYBRID_BACKENDS_CPU_MLSTM_SCAN_H_
#define XHYBRID_BACKENDS_CPU_MLSTM_SCAN_H_

#include "backends/cpu/tile_gemm.h"

namespace xh::cpu::XH_ISA::mlstm {

// run = decay run + slot, and slot = run as it was before; `count` floats, a multiple of kLanes.
inline void ScanStep(float decay, float* run, float* slot, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vec before = Load(run + i), added = Load(slot + i);
    Store(slot + i, before);
    Store(run + i, Fma(before, Set(decay), added));
  }
}

}  // namespace xh::cpu::XH_ISA::mlstm

#endif  // XHYBRID_BACKENDS_CPU_MLSTM_SCAN_H_
