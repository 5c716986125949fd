// Matrix products with one short side: decoding (few rows) and gate projections (few columns). Libraries made for
// square products lose here.
#ifndef XHYBRID_BACKENDS_CPU_THIN_GEMM_H_
#define XHYBRID_BACKENDS_CPU_THIN_GEMM_H_

#include "backends/cpu/gemm.h"

namespace xh::cpu::XH_ISA {

constexpr int kThin = 8;       // most columns, or most steps of k, of a thin product
constexpr int kThinRows = 16;  // most rows that stream the weights once

// The kernel for a product with a short side, or null where none is short. Results repeat for a given thread count.
std::unique_ptr<Gemm> OpenThinGemm(const GemmShape& shape, int threads);

}  // namespace xh::cpu::XH_ISA

#endif  // XHYBRID_BACKENDS_CPU_THIN_GEMM_H_
