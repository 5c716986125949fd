// The job "bench": training and decoding against ceilings measured in the same run.
#ifndef XHYBRID_CORE_BENCH_BENCH_JOB_H_
#define XHYBRID_CORE_BENCH_BENCH_JOB_H_

#include "core/job.h"

namespace xh {

extern const char kBenchSchema[];
StatusOr<std::unique_ptr<Job>> OpenBenchJob(const std::shared_ptr<Runtime>& runtime, const nlohmann::json& recipe);

}  // namespace xh

#endif  // XHYBRID_CORE_BENCH_BENCH_JOB_H_
