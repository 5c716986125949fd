#include "backends/cpu/gemm.h"

#include <cstdlib>
#include <cstring>

#include "backends/cpu/panel_gemm.h"
#include "backends/cpu/thin_gemm.h"

namespace xh::cpu::XH_ISA {
namespace {

bool OneDnnAllowed() {
#ifdef XH_HAVE_ONEDNN
  const char* wanted = std::getenv("XHYBRID_CPU_GEMM");
  return wanted == nullptr || std::strcmp(wanted, "panel") != 0;
#else
  return false;
#endif
}

}  // namespace

std::unique_ptr<Gemm> OpenGemm(const GemmShape& shape, int threads) {
  if (auto gemm = OpenThinGemm(shape, threads)) return gemm;
#ifdef XH_HAVE_ONEDNN
  // Mixed dtypes are converted while panels are packed, which oneDNN could only do in a pass of its own.
  const bool one_dtype = shape.a == shape.b && (shape.c == shape.a || shape.c == XH_F32);
  if (one_dtype && OneDnnAllowed()) {
    if (auto gemm = OpenOneDnnGemm(shape, threads)) return gemm;
  }
#endif
  return OpenPanelGemm(shape, threads);
}

}  // namespace xh::cpu::XH_ISA
