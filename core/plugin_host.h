// The services that plugins get, and who hears their log lines.
#ifndef XHYBRID_CORE_PLUGIN_HOST_H_
#define XHYBRID_CORE_PLUGIN_HOST_H_

#include <functional>
#include <memory>
#include <string>

#include "xhybrid_plugin.h"

namespace xh {

using LogFunction = std::function<void(xh_log_level, const std::string& origin, const std::string& text)>;

const xh_host* PluginHost();  // lives as long as the process

// Hears plugins while it lives. Called without any lock held, from any thread.
class LogListener {
 public:
  explicit LogListener(LogFunction function);
  ~LogListener();
  LogListener(const LogListener&) = delete;
  LogListener& operator=(const LogListener&) = delete;

 private:
  std::shared_ptr<LogFunction> function_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_PLUGIN_HOST_H_
