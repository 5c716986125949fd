// The plugin's own matrix product, for mixed dtypes and for builds without oneDNN.
#ifndef XHYBRID_BACKENDS_CPU_PANEL_GEMM_H_
#define XHYBRID_BACKENDS_CPU_PANEL_GEMM_H_

#include "backends/cpu/gemm.h"

namespace xh::cpu::XH_ISA {

// Any mix of f32 and bf16. Each element of C is summed in one order, whatever the number of threads.
std::unique_ptr<Gemm> OpenPanelGemm(const GemmShape& shape, int threads);

}  // namespace xh::cpu::XH_ISA

#endif  // XHYBRID_BACKENDS_CPU_PANEL_GEMM_H_
