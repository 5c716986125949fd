#include "core/evaluate/measures.h"

#include <gtest/gtest.h>

namespace xh {
namespace {

TEST(Measures, RecoveryIsStudentOverTeacher) {
  EXPECT_DOUBLE_EQ(Recovery({0.8, 0.6}), 0.75);
  EXPECT_DOUBLE_EQ(Recovery({0.5, 0.75}), 1.5);
}

TEST(Measures, RelativeLossIsZeroForTiesAndWins) {
  EXPECT_DOUBLE_EQ(RelativeLoss({0.8, 0.6}), 0.25);
  EXPECT_DOUBLE_EQ(RelativeLoss({0.8, 0.8}), 0);
  EXPECT_DOUBLE_EQ(RelativeLoss({0.5, 0.75}), 0);
}

TEST(Measures, ATeacherWithoutAnyRightAnswerIsATie) {
  EXPECT_DOUBLE_EQ(Recovery({0, 0}), 1);
  EXPECT_DOUBLE_EQ(Recovery({0, 0.4}), 1);
  EXPECT_DOUBLE_EQ(WinAndTieRate({{0, 0}}, 0), 1);
  EXPECT_DOUBLE_EQ(CriticalAlpha({{0, 0}}), 0);
}

// r = 0, 0.05, 0.25, 0.5.
const std::vector<AccuracyPair> kFour = {{0.5, 0.6}, {1.0, 0.95}, {0.8, 0.6}, {0.4, 0.2}};

TEST(Measures, WinAndTieRateCountsBenchmarksWithinAlpha) {
  EXPECT_DOUBLE_EQ(WinAndTieRate(kFour, 0), 0.25);
  EXPECT_DOUBLE_EQ(WinAndTieRate(kFour, 0.06), 0.5);
  EXPECT_DOUBLE_EQ(WinAndTieRate(kFour, 0.3), 0.75);
  EXPECT_DOUBLE_EQ(WinAndTieRate(kFour, 0.5), 1);
}

TEST(Measures, CriticalAlphaIsTheLowerMedianLoss) {
  EXPECT_NEAR(CriticalAlpha(kFour), 0.05, 1e-15);                          // 2nd smallest of 4
  EXPECT_DOUBLE_EQ(CriticalAlpha({{0.8, 0.6}}), 0.25);                     // the only one
  EXPECT_NEAR(CriticalAlpha({{1, 0.9}, {1, 0.7}, {1, 0.8}}), 0.2, 1e-15);  // 2nd of 3
  EXPECT_DOUBLE_EQ(CriticalAlpha({{1, 1}, {1, 0}}), 0);                    // 1st of 2
}

TEST(Measures, HalfOfTheBenchmarksHoldAtCriticalAlphaAndNotBelow) {
  const std::vector<std::vector<AccuracyPair>> sets = {
      kFour, {{0.789, 0.773}, {0.562, 0.578}, {0.688, 0.711}, {0.875, 0.836}, {0.984, 0.43}}, {{0.9, 0.3}, {0.7, 0.6}}};
  for (const std::vector<AccuracyPair>& pairs : sets) {
    const double alpha = CriticalAlpha(pairs);
    EXPECT_GE(WinAndTieRate(pairs, alpha), 0.5);
    if (alpha == 0) continue;
    EXPECT_LT(WinAndTieRate(pairs, alpha - 1e-9), 0.5);
  }
}

TEST(Measures, WithoutBenchmarksNothingIsClaimed) {
  EXPECT_EQ(WinAndTieRate({}, 0.5), 0);
  EXPECT_EQ(CriticalAlpha({}), 0);
}

TEST(Measures, SamplesAreComparedOneByOne) {
  const Outcomes outcomes = CompareSamples({true, true, false, false, true}, {true, false, true, false, false});
  EXPECT_EQ(outcomes.wins, 1);
  EXPECT_EQ(outcomes.ties, 2);
  EXPECT_EQ(outcomes.losses, 2);
}

TEST(Measures, StandardErrorIsThatOfASampleMean) {
  EXPECT_DOUBLE_EQ(StandardError(0.5, 26), 0.1);  // sqrt(0.25 / 25)
  EXPECT_EQ(StandardError(1, 100), 0);
  EXPECT_EQ(StandardError(0.5, 1), 0);
}

}  // namespace
}  // namespace xh
