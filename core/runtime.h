// What a process opens once: the plugins it found and the device it runs on.
#ifndef XHYBRID_CORE_RUNTIME_H_
#define XHYBRID_CORE_RUNTIME_H_

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "core/device.h"
#include "core/plugin_host.h"
#include "core/registry.h"
#include "nlohmann/json_fwd.hpp"

namespace xh {

struct RuntimeOptions {
  std::string plugin_path;
  std::string device;   // backend name, "" for the best found
  int32_t threads = 0;  // 0: one a core
  LogFunction log;
};

// Immutable after opening but for the device, which is opened on first use; safe from any thread.
class Runtime {
 public:
  static StatusOr<std::shared_ptr<Runtime>> Open(RuntimeOptions options);

  const Registry& registry() const { return registry_; }
  int32_t threads() const;                         // how many work at once: as asked, or one a core
  StatusOr<std::shared_ptr<Device>> OpenDevice();  // the same device each time
  void Log(xh_log_level level, const std::string& origin, const std::string& text) const;
  nlohmann::json Report();  // for `doctor`: cpu, device, plugins, places searched

 private:
  explicit Runtime(RuntimeOptions options) : options_(std::move(options)) {}
  RuntimeOptions options_;
  std::unique_ptr<LogListener> listener_;
  Registry registry_;
  std::mutex mutex_;
  std::shared_ptr<Device> device_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_RUNTIME_H_
