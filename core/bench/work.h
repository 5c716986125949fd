// The useful arithmetic and traffic of a step, counted from the config: what speeds are divided by.
#ifndef XHYBRID_CORE_BENCH_WORK_H_
#define XHYBRID_CORE_BENCH_WORK_H_

#include <cstdint>

#include "core/model/config.h"

namespace xh {

// Floating-point operations of one token's forward in rows of `tokens` tokens, a multiply-add counted as two. Norms,
// gates' sigmoids, softmaxes and other elementwise work are left out.
struct ForwardWork {
  double projections = 0;  // 2 per weight of q, k, v, o, gates and MLP
  double head = 0;         // 2 V D
  double maps = 0;         // feature maps: 2 H d n for q and for k
  double recurrence = 0;   // mLSTM as a recurrence: 4 H n d (state update and read-out), whatever the kernel does
  double attention = 0;    // 4 H d times the keys a token sees on average
};
ForwardWork CountForward(const ModelConfig& config, int64_t tokens);

// Stage I: teacher forward up to the last mixer, student mixers forward, and backward of maps (weights only),
// recurrence and gates. Stage II: teacher forward, student forward and backward (twice the forward).
double AlignFlops(const ModelConfig& teacher, const ModelConfig& student, int64_t tokens);
double DistillFlops(const ModelConfig& teacher, const ModelConfig& student, int64_t tokens);

}  // namespace xh

#endif  // XHYBRID_CORE_BENCH_WORK_H_
