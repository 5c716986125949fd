#include "core/train/schedule.h"

#include <algorithm>
#include <cmath>

namespace xh {

double LearningRate(const Schedule& schedule, int64_t step) {
  const int64_t warmup = std::min(schedule.warmup, schedule.steps);
  if (step < warmup) return schedule.peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (schedule.decay == Decay::kConstant) return schedule.peak;
  const int64_t span = schedule.steps - 1 - warmup;
  const double progress =
      span < 1 ? 1.0 : std::min(1.0, static_cast<double>(step - warmup) / static_cast<double>(span));
  const double kept = schedule.decay == Decay::kLinear ? 1.0 - progress : 0.5 * (1.0 + std::cos(M_PI * progress));
  return schedule.last + (schedule.peak - schedule.last) * kept;
}

}  // namespace xh
