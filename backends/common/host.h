// The host's services, and the border that no exception crosses.
#ifndef XHYBRID_BACKENDS_COMMON_HOST_H_
#define XHYBRID_BACKENDS_COMMON_HOST_H_

#include <exception>
#include <new>
#include <string>

#include "xhybrid_plugin.h"

namespace xh::backend {

// Bad data that only a run can see (an id out of the vocabulary). A plan's Run throws it before it writes anything; the
// plugin turns it into an error. It never leaves the plugin.
struct RunError {
  xh_code code;
  std::string text;
};

// Set once by xh_plugin_v1, before any other function can be called. `origin` names the plugin in errors and lives as
// long as the process.
void SetHost(const xh_host* host, const char* origin);

// An error of the plugin's origin, owned by the caller. The first form never allocates on this side.
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

}  // namespace xh::backend

#endif  // XHYBRID_BACKENDS_COMMON_HOST_H_
