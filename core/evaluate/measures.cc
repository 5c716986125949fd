#include "core/evaluate/measures.h"

#include <algorithm>
#include <cmath>

namespace xh {

double Recovery(const AccuracyPair& pair) { return pair.teacher > 0 ? pair.student / pair.teacher : 1.0; }

double RelativeLoss(const AccuracyPair& pair) { return std::max(0.0, 1.0 - Recovery(pair)); }

double WinAndTieRate(const std::vector<AccuracyPair>& pairs, double alpha) {
  if (pairs.empty()) return 0;
  // Compared through r_b, as alpha* is: C at alpha* is then exactly what alpha* promises.
  auto held =
      std::count_if(pairs.begin(), pairs.end(), [&](const AccuracyPair& pair) { return RelativeLoss(pair) <= alpha; });
  return static_cast<double>(held) / static_cast<double>(pairs.size());
}

double CriticalAlpha(const std::vector<AccuracyPair>& pairs) {
  if (pairs.empty()) return 0;
  std::vector<double> losses;
  for (const AccuracyPair& pair : pairs) losses.push_back(RelativeLoss(pair));
  std::sort(losses.begin(), losses.end());
  return losses[(losses.size() + 1) / 2 - 1];
}

Outcomes CompareSamples(const std::vector<bool>& teacher, const std::vector<bool>& student) {
  Outcomes outcomes;
  for (size_t i = 0; i < std::min(teacher.size(), student.size()); ++i) {
    if (student[i] == teacher[i]) {
      ++outcomes.ties;
    } else {
      ++(student[i] ? outcomes.wins : outcomes.losses);
    }
  }
  return outcomes;
}

double StandardError(double accuracy, int64_t count) {
  if (count < 2) return 0;
  return std::sqrt(accuracy * (1 - accuracy) / static_cast<double>(count - 1));
}

}  // namespace xh
