#include "job_runner.h"

#include <atomic>
#include <csignal>
#include <cstdlib>

#include "progress.h"

namespace cli {
namespace {

std::atomic<xh_job*> the_job{nullptr};
std::atomic<int> interrupts{0};

// Only what a signal handler may do: xh_job_cancel sets a flag.
void OnInterrupt(int) {
  if (interrupts.fetch_add(1) > 0) std::_Exit(130);
  if (xh_job* job = the_job.load()) xh_job_cancel(job);
}

class InterruptGuard {
 public:
  explicit InterruptGuard(xh_job* job) {
    the_job = job;
    previous_ = std::signal(SIGINT, OnInterrupt);
  }
  ~InterruptGuard() {
    std::signal(SIGINT, previous_);
    the_job = nullptr;
  }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  void (*previous_)(int);
};

}  // namespace

json RunJob(Context& context, const std::string& kind, const json& recipe) {
  const std::string text = recipe.dump(-1, ' ', false, json::error_handler_t::replace);
  xh::Job job = context.runtime().job(kind, text);
  InterruptGuard guard(job.get());
  Progress progress(context.quiet);
  const std::string result = job.run([&](const std::string& event) { progress.Show(json::parse(event)); });
  return json::parse(result);
}

}  // namespace cli
