// Long work that the caller pulls along, one piece at a time (xh_job_*). A kind is one entry of the table in job.cc.
#ifndef XHYBRID_CORE_JOB_H_
#define XHYBRID_CORE_JOB_H_

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "core/runtime.h"
#include "nlohmann/json.hpp"

namespace xh {

class Job {
 public:
  virtual ~Job() = default;
  // Does the next piece of work and describes it in *event (an object; "kind" names it). Returns true after the last
  // one. When cancelled() turns true: finish the piece in hand, save, return Cancelled saying how to resume.
  virtual StatusOr<bool> Next(nlohmann::json* event) = 0;
  // The outcome; called only after Next returned true.
  virtual nlohmann::json Result() const = 0;

  void Cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }

 private:
  std::atomic<bool> cancelled_{false};
};

struct JobKind {
  const char* name;
  const char* help;
  const char* options_schema;  // the format of options.h; a recipe is an object of these options
  StatusOr<std::unique_ptr<Job>> (*open)(const std::shared_ptr<Runtime>& runtime, const nlohmann::json& recipe);
};

const std::vector<JobKind>& JobKinds();
StatusOr<const JobKind*> FindJobKind(const std::string& name);

}  // namespace xh

#endif  // XHYBRID_CORE_JOB_H_
