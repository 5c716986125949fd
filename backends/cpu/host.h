// The host's services, and the border that no exception crosses.
#ifndef XHYBRID_BACKENDS_CPU_HOST_H_
#define XHYBRID_BACKENDS_CPU_HOST_H_

#include <exception>
#include <new>
#include <string>

#include "backends/cpu/plan.h"

namespace xh::cpu {

// Set once by xh_plugin_v1, before any other function can be called.
void SetHost(const xh_host* host);

// An error of origin "cpu", owned by the caller. The first form never allocates on this side.
xh_error* Fail(xh_code code, const char* text);
inline xh_error* Fail(xh_code code, const std::string& text) { return Fail(code, text.c_str()); }

// Runs `body`, which returns xh_error*, and turns what it throws into an error.
template <class Body>
xh_error* Guard(Body body) {
  try {
    return body();
  } catch (const RunError& error) {
    return Fail(error.code, error.text);
  } catch (const std::bad_alloc&) {
    return Fail(XH_OUT_OF_MEMORY, "no memory for the backend's own bookkeeping");
  } catch (const std::exception& error) {
    return Fail(XH_INTERNAL, error.what());
  }
}

}  // namespace xh::cpu

#endif  // XHYBRID_BACKENDS_CPU_HOST_H_
