#include "core/plugin_host.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <new>
#include <vector>

#include "core/error.h"

namespace xh {
namespace {

struct Listeners {
  std::mutex mutex;
  std::condition_variable fell_silent;  // a call of some listener ended
  std::vector<std::shared_ptr<LogListener::Hearing>> all;
};

Listeners& TheListeners() {
  static Listeners& listeners = *new Listeners;  // plugins may log while statics are destroyed
  return listeners;
}

thread_local int calls_of_this_thread = 0;

// Counts a call of a listener while it lasts.
class Call {
 public:
  explicit Call(LogListener::Hearing* hearing) : hearing_(hearing) { Count(1); }
  ~Call() { Count(-1); }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

 private:
  void Count(int by) {
    const std::lock_guard<std::mutex> lock(TheListeners().mutex);
    hearing_->calls += by;
    calls_of_this_thread += by;
    TheListeners().fell_silent.notify_all();
  }
  LogListener::Hearing* hearing_;
};

const char* TextOr(const char* text, const char* otherwise) { return text != nullptr ? text : otherwise; }

xh_error* HostErrorNew(xh_code code, const char* origin, const char* text) noexcept {
  return NewError(code, TextOr(origin, "plugin"), TextOr(text, ""));
}

// Plugins may be written in C: nothing is thrown into them, and a message that there is no memory for is dropped.
void HostLog(xh_log_level level, const char* origin, const char* text) noexcept {
  try {
    std::vector<std::shared_ptr<LogListener::Hearing>> heard;
    {
      const std::lock_guard<std::mutex> lock(TheListeners().mutex);
      heard = TheListeners().all;
    }
    for (const std::shared_ptr<LogListener::Hearing>& hearing : heard) {
      const Call call(hearing.get());
      if (!hearing->ended) hearing->function(level, TextOr(origin, "plugin"), TextOr(text, ""));
    }
  } catch (const std::bad_alloc&) {
  }
}

constexpr xh_host kHost = {XH_SIZED(xh_host), XH_ABI_VERSION, HostErrorNew, HostLog};

}  // namespace

const xh_host* PluginHost() { return &kHost; }

LogListener::LogListener(LogFunction function) : hearing_(std::make_shared<Hearing>(std::move(function))) {
  const std::lock_guard<std::mutex> lock(TheListeners().mutex);
  TheListeners().all.push_back(hearing_);
}

LogListener::~LogListener() {
  std::unique_lock<std::mutex> lock(TheListeners().mutex);
  auto& all = TheListeners().all;
  all.erase(std::remove(all.begin(), all.end(), hearing_), all.end());
  hearing_->ended = true;
  // A listener that ends itself, within a call, would wait for its own end.
  TheListeners().fell_silent.wait(lock, [&] { return hearing_->calls == 0 || calls_of_this_thread > 0; });
}

}  // namespace xh
