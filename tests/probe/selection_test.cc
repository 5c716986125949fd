// Choosing heads, with values made up by a rule instead of a model.
#include "core/probe/selection.h"

#include <gtest/gtest.h>

namespace xh {
namespace {

ModelConfig Sizes(int64_t layers, int64_t kv_heads) {
  ModelConfig config;
  config.layer_count = layers;
  config.kv_heads = kv_heads;
  return config;
}

// Everything cut is worth -5; each head of `worth` closes its share of the gap to 0.
struct Rule {
  std::map<std::pair<int64_t, int64_t>, double> worth;
  double operator()(const Mask& mask) const {
    double value = -5;
    for (const auto& [head, share] : worth) value += mask[head.first][head.second] ? 5 * share : 0;
    return value;
  }
};

Selection Chosen(const ModelConfig& config, const Selection::Options& options, const Rule& rule) {
  Selection selection(config, options);
  for (std::vector<Mask> wanted = selection.Wanted(); !wanted.empty(); wanted = selection.Wanted()) {
    std::vector<double> values;
    for (const Mask& mask : wanted) values.push_back(rule(mask));
    selection.Learn(values);
  }
  return selection;
}

TEST(Selection, KeepsTheOneHeadThatCarriesEverything) {
  const Selection selection = Chosen(Sizes(6, 2), {}, {{{{4, 1}, 0.98}, {{1, 0}, 0.02}}});
  EXPECT_EQ(MaskKey(selection.kept()), "00.00.00.00.01.00");
  EXPECT_NEAR(selection.recovered(), 0.98, 1e-12);
  EXPECT_NEAR(selection.layers()[4].gain, 0.98, 1e-12);
  EXPECT_NEAR(selection.layers()[4].drop, 0.98, 1e-12);
  EXPECT_NEAR(selection.layers()[0].gain, 0, 1e-12);
}

TEST(Selection, AddsHeadsUntilTheTargetIsReached) {
  const Rule rule{{{{0, 0}, 0.3}, {{2, 0}, 0.5}, {{3, 0}, 0.2}}};
  EXPECT_EQ(MaskKey(Chosen(Sizes(4, 1), {-1, 0.75}, rule).kept()), "1.0.1.0");
  EXPECT_EQ(MaskKey(Chosen(Sizes(4, 1), {-1, 0.4}, rule).kept()), "0.0.1.0");
  EXPECT_EQ(MaskKey(Chosen(Sizes(4, 1), {-1, 1.0}, rule).kept()), "1.0.1.1");
}

TEST(Selection, UsesABudgetUpAndNoMore) {
  const Rule rule{{{{0, 0}, 0.3}, {{2, 0}, 0.5}, {{3, 0}, 0.2}}};
  EXPECT_EQ(MaskKey(Chosen(Sizes(4, 1), {0, 0.95}, rule).kept()), "0.0.0.0");
  EXPECT_EQ(MaskKey(Chosen(Sizes(4, 1), {1, 0.95}, rule).kept()), "0.0.1.0");
  EXPECT_EQ(MaskKey(Chosen(Sizes(4, 1), {2, 0.1}, rule).kept()), "1.0.1.0");
  EXPECT_EQ(MaskKey(Chosen(Sizes(4, 1), {4, 0.95}, rule).kept()), "1.1.1.1");
  EXPECT_EQ(MaskKey(Chosen(Sizes(4, 1), {1000, 0.95}, rule).kept()), "1.1.1.1");
}

TEST(Selection, KeepsNothingWhereCuttingCostsNothing) {
  const Selection selection = Chosen(Sizes(3, 2), {}, {});
  EXPECT_FALSE(selection.has_gap());
  EXPECT_EQ(MaskKey(selection.kept()), "00.00.00");
}

TEST(Selection, FindsHeadsThatOnlyTheDropShows) {
  // Two layers carry the same: each alone recovers nothing while a third is cut, and cutting the third shows it.
  Selection selection(Sizes(3, 1), {});
  std::vector<Mask> wanted = selection.Wanted();
  std::vector<double> values;
  for (const Mask& mask : wanted) values.push_back(mask[0][0] && mask[2][0] ? 0.0 : -5.0);
  selection.Learn(values);
  EXPECT_NEAR(selection.layers()[0].gain, 0, 1e-12);
  EXPECT_NEAR(selection.layers()[0].drop, 1, 1e-12);
  EXPECT_NEAR(selection.layers()[1].drop, 0, 1e-12);
}

}  // namespace
}  // namespace xh
