#include "core/plugin_host.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "core/error.h"

namespace xh {
namespace {

struct Listeners {
  std::mutex mutex;
  std::vector<std::shared_ptr<LogFunction>> all;
};

Listeners& TheListeners() {
  static Listeners& listeners = *new Listeners;  // plugins may log while statics are destroyed
  return listeners;
}

const char* TextOr(const char* text, const char* otherwise) { return text != nullptr ? text : otherwise; }

xh_error* HostErrorNew(xh_code code, const char* origin, const char* text) {
  return NewError(code, TextOr(origin, "plugin"), TextOr(text, ""));
}

void HostLog(xh_log_level level, const char* origin, const char* text) {
  std::vector<std::shared_ptr<LogFunction>> heard;
  {
    std::lock_guard<std::mutex> lock(TheListeners().mutex);
    heard = TheListeners().all;
  }
  for (const std::shared_ptr<LogFunction>& function : heard)
    (*function)(level, TextOr(origin, "plugin"), TextOr(text, ""));
}

constexpr xh_host kHost = {XH_SIZED(xh_host), XH_ABI_VERSION, HostErrorNew, HostLog};

}  // namespace

const xh_host* PluginHost() { return &kHost; }

LogListener::LogListener(LogFunction function) : function_(std::make_shared<LogFunction>(std::move(function))) {
  std::lock_guard<std::mutex> lock(TheListeners().mutex);
  TheListeners().all.push_back(function_);
}

LogListener::~LogListener() {
  std::lock_guard<std::mutex> lock(TheListeners().mutex);
  auto& all = TheListeners().all;
  all.erase(std::remove(all.begin(), all.end(), function_), all.end());
}

}  // namespace xh
