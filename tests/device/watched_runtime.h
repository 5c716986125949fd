// A runtime on the backend "watched" (watched.h), and what its notebook says. The backend under it is cpu, or the one
// that XH_WATCHED names; XH_WATCHED_PLUGINS and XH_WATCHED_SOURCE name other places than those of this build.
#ifndef XHYBRID_TESTS_DEVICE_WATCHED_RUNTIME_H_
#define XHYBRID_TESTS_DEVICE_WATCHED_RUNTIME_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/device/watched.h"
#include "tests/faults/place.h"
#include "xhybrid.h"

namespace watched {

class WatchedRuntime {
 public:
  WatchedRuntime();
  ~WatchedRuntime();
  WatchedRuntime(const WatchedRuntime&) = delete;
  WatchedRuntime& operator=(const WatchedRuntime&) = delete;

  xh_runtime* get() { return runtime_; }
  xh_watched_calls_fn calls = nullptr;
  xh_watched_seconds_fn seconds = nullptr;
  xh_watched_refuse_fn refuse = nullptr;
  xh_watched_refused_fn refused = nullptr;
  xh_watched_fill_fn fill = nullptr;
  xh_watched_host_memory_fn host_memory = nullptr;

 private:
  xh_runtime* runtime_ = nullptr;
};

// A path in the source tree.
std::string Source(const std::string& path);
// place.h's recipe and rows for this runtime's places; one stage, no checkpoint in between.
nlohmann::json OneStage(const faults::Place& place, const std::string& output, const char* stage, int steps);

}  // namespace watched

#endif  // XHYBRID_TESTS_DEVICE_WATCHED_RUNTIME_H_
