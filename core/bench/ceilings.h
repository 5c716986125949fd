// What this machine can do at best: a large matrix product and a large copy, through the backend that is measured.
#ifndef XHYBRID_CORE_BENCH_CEILINGS_H_
#define XHYBRID_CORE_BENCH_CEILINGS_H_

#include <functional>

#include "core/device.h"

namespace xh {

// Median seconds of `repeats` runs after one that warms up.
StatusOr<double> MedianSeconds(int64_t repeats, const std::function<Status()>& run);

struct ProductRate {
  double flops;  // operations a second
  int64_t size;  // of the square matrices: 2,048, or 8,192 where that is done in less than two milliseconds
};
StatusOr<ProductRate> ProductCeiling(const std::shared_ptr<Device>& device, xh_dtype dtype, int64_t repeats);
// Bytes a second, read plus written, of copying 256 MiB.
StatusOr<double> CopyCeiling(const std::shared_ptr<Device>& device, int64_t repeats);

}  // namespace xh

#endif  // XHYBRID_CORE_BENCH_CEILINGS_H_
