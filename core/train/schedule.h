// The learning rate over the steps of a stage.
#ifndef XHYBRID_CORE_TRAIN_SCHEDULE_H_
#define XHYBRID_CORE_TRAIN_SCHEDULE_H_

#include <cstdint>

namespace xh {

enum class Decay { kConstant, kLinear, kCosine };

struct Schedule {
  Decay decay = Decay::kConstant;
  double peak = 0;     // learning rate after the warm-up
  double last = 0;     // of the last step; linear and cosine only
  int64_t warmup = 0;  // steps, cut to the number of steps
  int64_t steps = 1;
};

// Learning rate of step `step` in [0, steps): rises as (step + 1) / warmup to the peak, then goes on to `last`, which
// the last step has.
double LearningRate(const Schedule& schedule, int64_t step);

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_SCHEDULE_H_
