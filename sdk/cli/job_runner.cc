#include "job_runner.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iostream>

#include "progress.h"

namespace cli {
namespace {

std::atomic<xh_job*> the_job{nullptr};
std::atomic<int> interrupts{0};

constexpr int kInterrupted = 130;

// Only what a signal handler may do: xh_job_cancel sets a flag.
void OnInterrupt(int) {
  if (interrupts.fetch_add(1) > 0) std::_Exit(kInterrupted);
  if (xh_job* job = the_job.load()) xh_job_cancel(job);
  constexpr char kNote[] = "\nxhybrid: ending after this step; interrupt again to end at once\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kNote, sizeof(kNote) - 1);
}

class InterruptGuard {
 public:
  explicit InterruptGuard(xh_job* job) {
    the_job = job;
    interrupt_ = std::signal(SIGINT, OnInterrupt);
    terminate_ = std::signal(SIGTERM, OnInterrupt);
  }
  ~InterruptGuard() {
    std::signal(SIGINT, interrupt_);
    std::signal(SIGTERM, terminate_);
    the_job = nullptr;
  }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  void (*interrupt_)(int);
  void (*terminate_)(int);
};

// Events as JSON lines: into --events, else on standard error with --json, which then takes the place of progress.
class EventLines {
 public:
  explicit EventLines(const Context& context) : to_stderr_(context.as_json && !context.quiet) {
    if (context.events.empty()) return;
    to_stderr_ = false;
    file_.open(context.events);
    if (!file_) throw UsageError("--events: " + context.events + " cannot be opened for writing");
  }
  bool to_stderr() const { return to_stderr_; }
  void Write(const std::string& event) {
    if (to_stderr_) std::cerr << event << std::endl;
    if (file_.is_open()) file_ << event << std::endl;
  }

 private:
  bool to_stderr_;
  std::ofstream file_;
};

}  // namespace

json RunJob(Context& context, const std::string& kind, const json& recipe) {
  const std::string text = recipe.dump(-1, ' ', false, json::error_handler_t::replace);
  xh::Job job = context.runtime().job(kind, text);
  InterruptGuard guard(job.get());
  EventLines lines(context);
  Progress progress(context.quiet || lines.to_stderr());
  const std::string result = job.run([&](const std::string& event) {
    lines.Write(event);
    progress.Show(json::parse(event));
  });
  return json::parse(result);
}

}  // namespace cli
