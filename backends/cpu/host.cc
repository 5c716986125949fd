#include "backends/cpu/host.h"

namespace xh::cpu {
namespace {
const xh_host* g_host = nullptr;
}

void SetHost(const xh_host* host) { g_host = host; }

xh_error* Fail(xh_code code, const char* text) { return g_host->error_new(code, "cpu", text); }

}  // namespace xh::cpu
