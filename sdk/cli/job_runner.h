// Runs a job of the library to its end, with progress, and stops it politely on Ctrl-C.
#ifndef XHYBRID_SDK_CLI_JOB_RUNNER_H_
#define XHYBRID_SDK_CLI_JOB_RUNNER_H_

#include "context.h"

namespace cli {

// The result of the job. The first interrupt finishes the piece in hand, saves, and ends in xh::Error of XH_CANCELLED;
// the second ends the process.
json RunJob(Context& context, const std::string& kind, const json& recipe);

}  // namespace cli

#endif  // XHYBRID_SDK_CLI_JOB_RUNNER_H_
