#include "backends/cpu/gemm.h"

#include <cstdlib>
#include <cstring>

#include "backends/cpu/panel_gemm.h"
#include "backends/cpu/thin_gemm.h"

namespace xh::cpu::XH_ISA {
namespace {

#ifdef XH_HAVE_ONEDNN
bool OneDnnAllowed() {
  const char* wanted = std::getenv("XHYBRID_CPU_GEMM");
  return wanted == nullptr || std::strcmp(wanted, "panel") != 0;
}

// oneDNN's kernel for AVX2 copies a wide transposed A column by column: 80 GFLOP/s where the panels reach 130 (two Zen
// 3 cores, weight gradient of an output head). Its kernels for AVX-512 have another name and no such weakness.
bool PanelsAreFaster(const GemmShape& shape, const Gemm& gemm) {
  constexpr int64_t kWide = 2048;
  return shape.transpose_a && shape.m >= kWide && std::strcmp(gemm.implementation, "onednn:gemm:jit") == 0;
}
#endif

}  // namespace

std::unique_ptr<Gemm> OpenGemm(const GemmShape& shape, int threads) {
  if (auto gemm = OpenThinGemm(shape, threads)) return gemm;
#ifdef XH_HAVE_ONEDNN
  // Mixed dtypes are converted while panels are packed, which oneDNN could only do in a pass of its own.
  const bool one_dtype = shape.a == shape.b && (shape.c == shape.a || shape.c == XH_F32);
  if (one_dtype && OneDnnAllowed()) {
    auto gemm = OpenOneDnnGemm(shape, threads);
    if (gemm != nullptr && !PanelsAreFaster(shape, *gemm)) return gemm;
  }
#endif
  return OpenPanelGemm(shape, threads);
}

}  // namespace xh::cpu::XH_ISA
