// xhybrid_train_driver RECIPE.json: runs a distill job to its end and prints an event's kind a line.
#include <cstdio>

#include "core/json_fields.h"
#include "core/train/distill_job.h"
#include "tests/train/tiny.h"

namespace {

xh::Status Run(const char* path) {
  XH_ASSIGN_OR_RETURN(const nlohmann::json recipe, xh::ReadJsonFile(path));
  XH_ASSIGN_OR_RETURN(const std::shared_ptr<xh::Runtime> runtime, xh::tiny::OpenRuntime());
  XH_ASSIGN_OR_RETURN(const std::unique_ptr<xh::Job> job, xh::OpenDistillJob(runtime, recipe));
  for (bool finished = false; !finished;) {
    nlohmann::json event;
    XH_ASSIGN_OR_RETURN(finished, job->Next(&event));
    std::printf("%s\n", event["kind"].get<std::string>().c_str());
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  const xh::Status status = argc == 2 ? Run(argv[1]) : xh::InvalidArgument("one recipe");
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
