#include "backends/common/host.h"

namespace xh::backend {
namespace {
const xh_host* g_host = nullptr;
const char* g_origin = "";
}  // namespace

void SetHost(const xh_host* host, const char* origin) {
  g_host = host;
  g_origin = origin;
}

xh_error* Fail(xh_code code, const char* text) { return g_host->error_new(code, g_origin, text); }

}  // namespace xh::backend
