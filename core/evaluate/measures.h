// How a student stands against its teacher (SPEC.md 6): pure functions of accuracies and per-sample outcomes.
#ifndef XHYBRID_CORE_EVALUATE_MEASURES_H_
#define XHYBRID_CORE_EVALUATE_MEASURES_H_

#include <cstdint>
#include <vector>

namespace xh {

// A benchmark's accuracies, teacher's and student's, from 0 to 1.
struct AccuracyPair {
  double teacher;
  double student;
};

// A_S / A_T; 1 where the teacher's accuracy is 0 (a tie).
double Recovery(const AccuracyPair& pair);
// r_b = max(0, 1 - A_S / A_T): the smallest alpha at which the benchmark is won or tied.
double RelativeLoss(const AccuracyPair& pair);
// C_alpha = mean over benchmarks of [A_S >= (1 - alpha) A_T]. 0 without benchmarks.
double WinAndTieRate(const std::vector<AccuracyPair>& pairs, double alpha);
// alpha* = inf { alpha : C_alpha >= 0.5 }, the ceil(|B| / 2)-th smallest r_b. 0 without benchmarks.
double CriticalAlpha(const std::vector<AccuracyPair>& pairs);

// Samples the student got right and the teacher wrong, both alike, and the other way round.
struct Outcomes {
  int64_t wins = 0;
  int64_t ties = 0;
  int64_t losses = 0;
};
Outcomes CompareSamples(const std::vector<bool>& teacher, const std::vector<bool>& student);

// The standard error of a mean of `count` outcomes that are 0 or 1.
double StandardError(double accuracy, int64_t count);

}  // namespace xh

#endif  // XHYBRID_CORE_EVALUATE_MEASURES_H_
