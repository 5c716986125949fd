// The services that plugins get, and who hears their log lines.
#ifndef XHYBRID_CORE_PLUGIN_HOST_H_
#define XHYBRID_CORE_PLUGIN_HOST_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "xhybrid_plugin.h"

namespace xh {

using LogFunction = std::function<void(xh_log_level, const std::string& origin, const std::string& text)>;

const xh_host* PluginHost();  // lives as long as the process

// Hears plugins while it lives: its end waits for calls that other threads are in, as the function may use what goes
// next. Called without any lock held, from any thread.
class LogListener {
 public:
  struct Hearing {
    explicit Hearing(LogFunction heard_by) : function(std::move(heard_by)) {}
    const LogFunction function;
    int calls = 0;                   // that last
    std::atomic<bool> ended{false};  // no more
  };

  explicit LogListener(LogFunction function);
  ~LogListener();
  LogListener(const LogListener&) = delete;
  LogListener& operator=(const LogListener&) = delete;

 private:
  std::shared_ptr<Hearing> hearing_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_PLUGIN_HOST_H_
