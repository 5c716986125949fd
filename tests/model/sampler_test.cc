// Choosing tokens, and ending a text at a stop text.
#include "core/generate/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "core/generate/stop_filter.h"

namespace xh {
namespace {

SamplerOptions Sampling(double temperature, uint64_t seed) {
  SamplerOptions options;
  options.temperature = temperature;
  options.seed = seed;
  return options;
}

TEST(Sampler, IsGreedyByDefaultAndTakesTheLowerIdOfATie) {
  Sampler sampler;
  EXPECT_EQ(sampler.Choose({1, 3, 3, 2}), 1);
  EXPECT_EQ(sampler.Choose({-5, -7}), 0);
  EXPECT_EQ(sampler.chosen(), 2);
}

TEST(Sampler, DrawsByTheProbabilitiesAtItsTemperature) {
  const std::vector<float> logits = {0, 1, 2};
  for (double temperature : {0.5, 1.0, 2.0}) {
    Sampler sampler(Sampling(temperature, 7));
    std::map<int32_t, double> share;
    const int draws = 20000;
    for (int i = 0; i < draws; ++i) share[sampler.Choose(logits)] += 1.0 / draws;
    double total = 0;
    for (float logit : logits) total += std::exp(logit / temperature);
    for (int32_t id = 0; id < 3; ++id) {
      EXPECT_NEAR(share[id], std::exp(logits[id] / temperature) / total, 0.015) << temperature;  // 4 standard errors
    }
  }
}

TEST(Sampler, GivesTheSameTokensForTheSameSeed) {
  const std::vector<float> logits(50, 0.5f);
  std::vector<int32_t> drawn[3];
  Sampler samplers[] = {Sampler(Sampling(1, 3)), Sampler(Sampling(1, 3)), Sampler(Sampling(1, 4))};
  for (int i = 0; i < 20; ++i) {
    for (int s = 0; s < 3; ++s) drawn[s].push_back(samplers[s].Choose(logits));
  }
  EXPECT_EQ(drawn[0], drawn[1]);
  EXPECT_NE(drawn[0], drawn[2]);
}

std::set<int32_t> Drawn(const SamplerOptions& options, const std::vector<float>& logits) {
  Sampler sampler(options);
  std::set<int32_t> ids;
  for (int i = 0; i < 3000; ++i) ids.insert(sampler.Choose(logits));
  return ids;
}

TEST(Sampler, KeepsToTheTopK) {
  SamplerOptions options = Sampling(1, 1);
  options.top_k = 2;
  EXPECT_EQ(Drawn(options, {0.1f, 0.3f, 0.2f, 0.3f}), (std::set<int32_t>{1, 3}));
  options.top_k = 1;
  EXPECT_EQ(Drawn(options, {0.1f, 0.3f, 0.2f, 0.3f}), (std::set<int32_t>{1}));
  options.top_k = 100;
  EXPECT_EQ(Drawn(options, {0.1f, 0.3f}), (std::set<int32_t>{0, 1}));
}

TEST(Sampler, KeepsToTheNucleus) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  SamplerOptions options = Sampling(1, 1);
  options.top_p = 0.4;
  EXPECT_EQ(Drawn(options, logits), (std::set<int32_t>{0}));
  options.top_p = 0.7;
  EXPECT_EQ(Drawn(options, logits), (std::set<int32_t>{0, 1}));
  options.top_p = 0.94;
  EXPECT_EQ(Drawn(options, logits), (std::set<int32_t>{0, 1, 2}));
  options.top_p = 1;
  EXPECT_EQ(Drawn(options, logits), (std::set<int32_t>{0, 1, 2, 3}));
}

TEST(Sampler, WithALowTemperatureIsGreedyWithoutOverflow) {
  EXPECT_EQ(Drawn(Sampling(1e-300, 1), {-1000, 1000, 999}), (std::set<int32_t>{1}));
}

// ---- stop texts ----

std::string Shown(StopFilter& filter, const std::vector<std::string>& pieces, bool* stopped) {
  std::string shown;
  for (const std::string& piece : pieces) {
    shown += filter.Push(piece, stopped);
    if (*stopped) break;
  }
  return shown;
}

TEST(StopFilter, EndsBeforeAStopTextThatComesInPieces) {
  StopFilter filter({"\n\nQ:", "END"});
  bool stopped = false;
  EXPECT_EQ(Shown(filter, {"an answer", "\n", "\nQ", ": next"}, &stopped), "an answer");
  EXPECT_TRUE(stopped);
  EXPECT_EQ(filter.Flush(), "");
}

TEST(StopFilter, TakesTheFirstOfSeveralStopTexts) {
  StopFilter filter({"c", "b"});
  bool stopped = false;
  EXPECT_EQ(Shown(filter, {"abc"}, &stopped), "a");
}

TEST(StopFilter, HoldsBackOnlyWhatCouldBeginAStopText) {
  StopFilter filter({"END"});
  bool stopped = false;
  EXPECT_EQ(filter.Push("text E", &stopped), "text ");
  EXPECT_EQ(filter.Push("N", &stopped), "");
  EXPECT_EQ(filter.Push("EN", &stopped), "EN");  // "ENEN": only the second could still become END
  EXPECT_EQ(filter.Push("ough", &stopped), "ENough");
  EXPECT_FALSE(stopped);
  EXPECT_EQ(filter.Push("E", &stopped), "");
  EXPECT_EQ(filter.Flush(), "E");
  EXPECT_EQ(filter.Flush(), "");
}

TEST(StopFilter, WithoutStopTextsShowsEverythingAtOnce) {
  StopFilter filter;
  bool stopped = true;
  EXPECT_EQ(filter.Push("everything", &stopped), "everything");
  EXPECT_FALSE(stopped);
}

}  // namespace
}  // namespace xh
