// The merge plugins by their own table: formulas by hand, end points, invariances, and options that make no sense.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "core/options.h"
#include "core/registry.h"
#include "nlohmann/json.hpp"

namespace xh {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Tensor = std::vector<float>;

Tensor Random(int64_t n, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Tensor tensor(static_cast<size_t>(n));
  for (float& value : tensor) value = normal(generator);
  return tensor;
}

const Registry& ThePlugins() {
  static const Registry registry = Registry::Load(XH_TEST_PLUGINS);
  return registry;
}

// Merges one tensor in tiles of `tile` elements through the plugin alone, with its schema's defaults.
StatusOr<Tensor> Merge(const std::string& method, const json& options, const std::vector<Tensor>& models,
                       const Tensor* base = nullptr, int64_t tile = 1 << 20) {
  XH_ASSIGN_OR_RETURN(const xh_merge_table* table, ThePlugins().FindMerge(method));
  XH_ASSIGN_OR_RETURN(const json checked, CheckOptions(table->options_schema, options, "merge." + method));
  const OptionList list(checked);
  xh_merge* merge = nullptr;
  XH_RETURN_IF_ERROR(FromError(table->open(list.data(), list.size(), static_cast<int32_t>(models.size()), &merge)));
  const std::unique_ptr<xh_merge, void (*)(xh_merge*)> closer(merge, table->close);
  const int64_t n = static_cast<int64_t>(models[0].size());
  auto at = [&](int64_t first) {
    std::vector<const float*> pointers;
    for (const Tensor& model : models) pointers.push_back(model.data() + first);
    return pointers;
  };
  if ((table->traits & XH_MERGE_TWO_PASS) != 0) {
    XH_RETURN_IF_ERROR(
        FromError(table->observe(merge, "t", at(0).data(), base != nullptr ? base->data() : nullptr, n)));
  }
  Tensor out(models[0].size());
  for (int64_t first = 0; first < n; first += tile) {
    XH_RETURN_IF_ERROR(
        FromError(table->combine(merge, "t", at(first).data(), base != nullptr ? base->data() + first : nullptr, first,
                                 std::min(tile, n - first), out.data() + first)));
  }
  return out;
}

Tensor Merged(const std::string& method, const json& options, const std::vector<Tensor>& models,
              const Tensor* base = nullptr, int64_t tile = 1 << 20) {
  StatusOr<Tensor> merged = Merge(method, options, models, base, tile);
  EXPECT_TRUE(merged.ok()) << merged.status();
  return merged.ok() ? *merged : Tensor();
}

double Distance(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    most = std::max(most, std::fabs(static_cast<double>(a[i]) - b[i]));
  }
  return most;
}

TEST(LinearTest, IsTheWeightedMean) {
  EXPECT_THAT(Merged("linear", {{"weights", {3, 1}}}, {{4, 0}, {0, 8}}), ElementsAre(3, 2));
  EXPECT_THAT(Merged("linear", {{"weights", {3, 1}}, {"normalize", false}}, {{4, 0}, {0, 8}}), ElementsAre(12, 8));
  EXPECT_THAT(Merged("linear", json::object(), {{4, 0}, {0, 8}}), ElementsAre(2, 4));
  EXPECT_THAT(Merged("linear", {{"normalize", false}}, {{4, 0}, {0, 8}}), ElementsAre(2, 4));
  EXPECT_THAT(Merged("linear", {{"weights", {2, -1}}}, {{4, 0}, {0, 8}}), ElementsAre(8, -8));
}

TEST(LinearTest, WeightsThatCannotBeNormalisedAreRefused) {
  for (const json& weights : {json({1, -1}), json({0.1, 0.2, -0.3}), json({0, 0})}) {
    const std::vector<Tensor> models(weights.size(), Tensor{1});
    const Status status = Merge("linear", {{"weights", weights}}, models).status();
    EXPECT_EQ(CodeOf(status), XH_INVALID_ARGUMENT) << weights;
    EXPECT_THAT(std::string(status.message()), HasSubstr("\"weights\" is of sum 0"));
    EXPECT_EQ(OriginOf(status), "merge.linear");
  }
  EXPECT_THAT(Merged("linear", {{"weights", {1, -1}}, {"normalize", false}}, {{3}, {1}}), ElementsAre(2));
}

TEST(SlerpTest, TurnsAlongTheArcAndKeepsTheLengths) {
  const float half = static_cast<float>(std::sqrt(0.5));
  const Tensor turned = Merged("slerp", {{"t", 0.5}}, {{1, 0}, {0, 1}});
  EXPECT_LT(Distance(turned, {half, half}), 1e-7);
  // 60 degrees from (2, 0) to (1.5, 1.5 sqrt 3), length 3: the weights of both are sin 30 / sin 60.
  const double weight = 1 / std::sqrt(3.0);
  const float y = static_cast<float>(1.5 * std::sqrt(3.0));
  EXPECT_LT(Distance(Merged("slerp", {{"t", 0.5}}, {{2, 0}, {1.5f, y}}),
                     {static_cast<float>(3.5 * weight), static_cast<float>(y * weight)}),
            1e-6);
}

TEST(SlerpTest, EndsAtTheTwoModels) {
  const Tensor a = Random(1000, 1), b = Random(1000, 2);
  EXPECT_EQ(Merged("slerp", {{"t", 0}}, {a, b}), a);
  EXPECT_EQ(Merged("slerp", {{"t", 1}}, {a, b}), b);
  EXPECT_EQ(Merged("slerp", {{"t", 0}}, {b}, &a), a);
  EXPECT_EQ(Merged("slerp", {{"t", 0.25}}, {b}, &a), Merged("slerp", {{"t", 0.25}}, {a, b}));
}

TEST(SlerpTest, ParallelAndEmptyVectorsAreInterpolatedStraight) {
  EXPECT_THAT(Merged("slerp", {{"t", 0.5}}, {{1, 2}, {3, 6}}), ElementsAre(2, 4));
  EXPECT_THAT(Merged("slerp", {{"t", 0.5}}, {{1, 2}, {-1, -2}}), ElementsAre(0, 0));
  EXPECT_THAT(Merged("slerp", {{"t", 0.5}}, {{0, 0}, {0, 0}}), ElementsAre(0, 0));
  EXPECT_THAT(Merged("slerp", {{"t", 0.5}}, {{5}, {7}}), ElementsAre(6));
}

TEST(SlerpTest, TakesTwoInAll) {
  const Tensor x = {1};
  EXPECT_EQ(CodeOf(Merge("slerp", {{"t", 0.5}}, {x}).status()), XH_INVALID_ARGUMENT);
  EXPECT_EQ(CodeOf(Merge("slerp", {{"t", 0.5}}, {x, x}, &x).status()), XH_INVALID_ARGUMENT);
  EXPECT_EQ(CodeOf(Merge("slerp", {{"t", 1.5}}, {x, x}).status()), XH_INVALID_ARGUMENT);
  EXPECT_EQ(CodeOf(Merge("slerp", json::object(), {x, x}).status()), XH_INVALID_ARGUMENT);
}

TEST(TaskArithmeticTest, AddsTaskVectors) {
  const Tensor base = {1, 1, 1};
  const std::vector<Tensor> models = {{3, 1, 1}, {1, 5, 0}};
  EXPECT_THAT(Merged("task_arithmetic", json::object(), models, &base), ElementsAre(3, 5, 0));
  EXPECT_THAT(Merged("task_arithmetic", {{"lambda", 0.5}}, models, &base), ElementsAre(2, 3, 0.5));
  EXPECT_THAT(Merged("task_arithmetic", {{"weights", {2, 1}}}, models, &base), ElementsAre(5, 5, 0));
  EXPECT_THAT(Merged("task_arithmetic", {{"normalize", true}}, models, &base), ElementsAre(2, 3, 0.5));
  EXPECT_THAT(Merged("task_arithmetic", {{"weights", {1, -1}}}, models, &base), ElementsAre(3, -3, 2));
  EXPECT_EQ(CodeOf(Merge("task_arithmetic", {{"weights", {1, -1}}, {"normalize", true}}, models, &base).status()),
            XH_INVALID_ARGUMENT);
}

// Three task vectors of four elements, density 0.5: each keeps its two largest.
//   d1 = ( 4, -1,  2,  0.5) -> ( 4, 0, 2, 0)
//   d2 = (-3,  5,  1,  0.2) -> (-3, 5, 0, 0)
//   d3 = ( 1, -6, -4,  0.1) -> ( 0,-6,-4, 0)
// sums (1, -1, -2, 0): the elected signs are +, -, -, +; what agrees: {4}, {-6}, {-4}, {}.
TEST(TiesTest, TrimsElectsAndMergesAsByHand) {
  const Tensor base = {10, 10, 10, 10};
  const std::vector<Tensor> models = {{14, 9, 12, 10.5}, {7, 15, 11, 10.25}, {11, 4, 6, 10.125}};
  EXPECT_THAT(Merged("ties", {{"density", 0.5}}, models, &base), ElementsAre(14, 4, 6, 10));
  EXPECT_THAT(Merged("ties", {{"density", 0.5}, {"lambda", 0.5}}, models, &base), ElementsAre(12, 7, 8, 10));
  // Weight 4 for the second: sums (4 - 12, 20 - 6, 2 - 4, 0) elect -, +, -, +.
  EXPECT_THAT(Merged("ties", {{"density", 0.5}, {"weights", {1, 4, 1}}, {"normalize", false}}, models, &base),
              ElementsAre(-2, 30, 6, 10));
  EXPECT_THAT(Merged("ties", {{"density", 0.5}, {"weights", {1, 4, 1}}}, models, &base), ElementsAre(7, 15, 6, 10));
}

TEST(TiesTest, DensityOneTrimsNothing) {
  const Tensor base = Random(500, 9);
  const std::vector<Tensor> models = {Random(500, 1), Random(500, 2), Random(500, 3)};
  const Tensor merged = Merged("ties", {{"density", 1}}, models, &base);
  for (size_t i = 0; i < base.size(); ++i) {
    double sum = 0, agreed = 0;
    for (const Tensor& model : models) sum += model[i] - base[i];
    int count = 0;
    for (const Tensor& model : models) {
      const float delta = model[i] - base[i];
      if (sum >= 0 ? delta > 0 : delta < 0) agreed += delta, ++count;
    }
    EXPECT_EQ(merged[i], static_cast<float>(base[i] + agreed / count));
  }
}

TEST(TiesTest, ExactlyTheAskedNumberOfElementsStaysWhateverIsEqual) {
  const Tensor base(1000, 0.0f);
  for (const double density : {0.001, 0.29, 0.5, 0.7, 0.999}) {
    Tensor same(1000, 0.5f), coarse = Random(1000, 4);
    for (float& value : coarse) value = std::round(value * 2) / 2 + (value < 0 ? -0.25f : 0.25f);
    for (const Tensor& model : {same, coarse}) {
      const Tensor merged = Merged("ties", {{"density", density}}, {model}, &base);
      const int64_t kept = std::count_if(merged.begin(), merged.end(), [](float value) { return value != 0; });
      EXPECT_EQ(kept, std::lround(density * 1000)) << density;
      float least = 100, dropped = 0;
      for (size_t i = 0; i < merged.size(); ++i) {
        if (merged[i] != 0) least = std::min(least, std::fabs(merged[i]));
        if (merged[i] == 0) dropped = std::max(dropped, std::fabs(model[i]));
      }
      EXPECT_GE(least, dropped);
    }
  }
}

TEST(TiesTest, ATinyTensorKeepsAtLeastOneElement) {
  const Tensor base = {0, 0, 0};
  EXPECT_THAT(Merged("ties", {{"density", 0.01}}, {{1, -3, 2}}, &base), ElementsAre(0, -3, 0));
}

TEST(TiesTest, SenselessOptionsAreRefused) {
  const Tensor x = {1};
  for (const json& options : {json{{"density", 0}}, json{{"density", 1.5}}, json{{"weights", {-1, 2}}},
                              json{{"weights", {0, 0}}}, json{{"weights", {1}}}, json{{"lambda", 1e300}}}) {
    EXPECT_EQ(CodeOf(Merge("ties", options, {x, x}, &x).status()), XH_INVALID_ARGUMENT) << options;
  }
}

// The plugin does not rely on the core's checks: text of lists may come from anywhere.
TEST(OptionsTest, MalformedListsAreRefusedByThePluginItself) {
  const xh_merge_table* table = *ThePlugins().FindMerge("linear");
  for (const char* text : {",", "1,", "1,x", "1 2", "nan,1", "inf,1", "1e999,1", "1,2,3", "1"}) {
    xh_option options[2] = {};
    options[0].key = "weights";
    options[0].kind = XH_OPTION_TEXT;
    options[0].text = text;
    options[1].key = "normalize";
    options[1].kind = XH_OPTION_BOOL;
    xh_merge* merge = nullptr;
    const Status status = FromError(table->open(options, 2, 2, &merge));
    EXPECT_EQ(CodeOf(status), XH_INVALID_ARGUMENT) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("\"weights\" is")) << text;
    EXPECT_EQ(merge, nullptr);
  }
  xh_merge* merge = nullptr;
  EXPECT_EQ(CodeOf(FromError(table->open(nullptr, 0, 2, &merge))), XH_INVALID_ARGUMENT);
}

struct Method {
  const char* name;
  json options;
  size_t models;
  bool base;
};
class EveryMethodTest : public ::testing::TestWithParam<Method> {};

TEST_P(EveryMethodTest, DoesNotDependOnTiles) {
  std::vector<Tensor> models;
  for (uint32_t i = 0; i < GetParam().models; ++i) models.push_back(Random(997, i));
  const Tensor base = Random(997, 77);
  const Tensor* given = GetParam().base ? &base : nullptr;
  const Tensor whole = Merged(GetParam().name, GetParam().options, models, given);
  for (const int64_t tile : {1, 7, 64, 500}) {
    EXPECT_EQ(Merged(GetParam().name, GetParam().options, models, given, tile), whole) << tile;
  }
}

TEST_P(EveryMethodTest, IdenticalExpertsGiveTheExpert) {
  const Tensor expert = Random(300, 5);
  json options = GetParam().options;
  options.erase("lambda");
  options.erase("density");
  if (std::string(GetParam().name) == "task_arithmetic") options["normalize"] = true;
  const std::vector<Tensor> models(GetParam().models, expert);
  EXPECT_LT(Distance(Merged(GetParam().name, options, models, GetParam().base ? &expert : nullptr), expert), 1e-7);
  if (GetParam().base) {
    const Tensor base = Random(300, 6);
    EXPECT_LT(Distance(Merged(GetParam().name, options, models, &base), expert), 1e-6);
  }
}

TEST_P(EveryMethodTest, DoesNotDependOnTheOrderOfModels) {
  std::vector<Tensor> models;
  for (uint32_t i = 0; i < GetParam().models; ++i) models.push_back(Random(300, i));
  const Tensor base = Random(300, 77);
  const Tensor* given = GetParam().base ? &base : nullptr;
  json turned = GetParam().options;
  std::vector<Tensor> backwards(models.rbegin(), models.rend());
  if (turned.contains("weights")) std::reverse(turned["weights"].begin(), turned["weights"].end());
  if (turned.contains("t")) turned["t"] = 1 - turned["t"].get<double>();
  EXPECT_LT(Distance(Merged(GetParam().name, GetParam().options, models, given),
                     Merged(GetParam().name, turned, backwards, given)),
            1e-6);
}

TEST(LambdaTest, ZeroGivesTheBase) {
  const std::vector<Tensor> models = {Random(300, 1), Random(300, 2)};
  const Tensor base = Random(300, 77);
  EXPECT_EQ(Merged("task_arithmetic", {{"lambda", 0}}, models, &base), base);
  EXPECT_EQ(Merged("ties", {{"lambda", 0}, {"density", 0.4}}, models, &base), base);
}

INSTANTIATE_TEST_SUITE_P(
    All, EveryMethodTest,
    ::testing::Values(Method{"linear", {{"weights", {0.5, 0.3, 0.2}}}, 3, false},
                      Method{"slerp", {{"t", 0.3}}, 2, false},
                      Method{"task_arithmetic", {{"weights", {0.5, 0.3, 0.2}}, {"lambda", 0.7}}, 3, true},
                      Method{"ties", {{"weights", {0.5, 0.3, 0.2}}, {"density", 0.4}, {"lambda", 0.9}}, 3, true}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace xh
