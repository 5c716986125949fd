// The graph: what it computes twice it computes once, gradients of every path add up, memory is reused, errors are
// kept.
#include "core/graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "core/ops.h"
#include "core/runtime.h"

namespace xh {
namespace {

using ::testing::HasSubstr;

class GraphTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto runtime = Runtime::Open({});
    ASSERT_TRUE(runtime.ok()) << runtime.status();
    auto device = (*runtime)->OpenDevice();
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *device;
  }

  std::vector<float> Read(Graph& graph, Value value) {
    std::vector<float> out(graph.size(value));
    EXPECT_TRUE(graph.Read(value, out.data(), static_cast<int64_t>(out.size() * sizeof(float))).ok());
    return out;
  }
  void Write(Graph& graph, Value value, const std::vector<float>& data) {
    EXPECT_TRUE(graph.Write(value, data.data(), static_cast<int64_t>(data.size() * sizeof(float))).ok());
  }

  std::shared_ptr<Device> device_;
};

TEST_F(GraphTest, AnOpOnFrozenValuesIsDeclaredOnce) {
  std::vector<float> w(6, 1.0f);
  Graph graph(device_);
  Value x = graph.Input(XH_F32, {4, 3});
  Value first = MatMul(graph, x, graph.External(w.data(), XH_F32, {2, 3}));
  Value second = MatMul(graph, x, graph.External(w.data(), XH_F32, {2, 3}));
  EXPECT_EQ(first.id, second.id);
}

TEST_F(GraphTest, EqualViewsOfOneTensorAreOneInput) {
  Graph graph(device_);
  Value x = graph.Input(XH_F32, {6, 4});
  Value first = Cast(graph, graph.SplitHeads(x, 2, 3, 1), XH_BF16);
  Value second = Cast(graph, graph.SplitHeads(x, 2, 3, 1), XH_BF16);
  EXPECT_EQ(first.id, second.id);
}

TEST_F(GraphTest, ConstantsThatLieOneBehindTheOtherMakeOneProduct) {
  std::vector<float> w = {1, 2, 3, 4, 5, 6}, apart = {7, 8};
  Graph graph(device_);
  Value x = graph.Input(XH_F32, {2, 2});
  Value first = graph.External(w.data(), XH_F32, {1, 2});
  Value second = graph.External(w.data() + 2, XH_F32, {2, 2});
  Value other = graph.External(apart.data(), XH_F32, {1, 2});
  EXPECT_TRUE(graph.Joined({first, second}).valid());
  EXPECT_FALSE(graph.Joined({second, first}).valid());
  EXPECT_FALSE(graph.Joined({first, other}).valid());
  const std::vector<Value> y = MatMuls(graph, x, {first, second}, {kAbsent, kAbsent});
  EXPECT_TRUE(graph.Joined(y).valid()) << "columns of one value";
  EXPECT_FALSE(graph.Joined({y[1], y[0]}).valid());
  Value doubles[] = {Add(graph, y[0], y[0]), Add(graph, y[1], y[1])};
  for (Value each : doubles) graph.Keep(each);
  ASSERT_TRUE(graph.Compile().ok());
  Write(graph, x, {1, 10, 100, 1000});
  ASSERT_TRUE(graph.Run().ok());
  EXPECT_EQ(Read(graph, doubles[0]), (std::vector<float>{42, 4200}));
  EXPECT_EQ(Read(graph, doubles[1]), (std::vector<float>{86, 130, 8600, 13000}));
}

TEST_F(GraphTest, ConstantsBesideAParameterAreNotJoined) {
  std::vector<float> w = {1, 2, 3, 4}, gradient(2);
  Graph graph(device_);
  Value trained = graph.Parameter(w.data(), XH_F32, {1, 2}, gradient.data());
  EXPECT_FALSE(graph.Joined({trained, graph.External(w.data() + 2, XH_F32, {1, 2})}).valid());
}

TEST_F(GraphTest, OpsOnTrainedValuesAreNeverShared) {
  std::vector<float> w(6, 1.0f), gradient(6);
  Graph graph(device_);
  Value x = graph.Input(XH_F32, {4, 3});
  Value parameter = graph.Parameter(w.data(), XH_F32, {2, 3}, gradient.data());
  EXPECT_NE(MatMul(graph, x, parameter).id, MatMul(graph, x, parameter).id);
}

// loss = sum (w x)^2 with scale 1 and a zero teacher: dw = 2 (w x) x^T.
TEST_F(GraphTest, TheGradientOfAParameterIsAddedToWhatIsThere) {
  std::vector<float> w = {1, 2}, gradient = {10, 20};
  Graph graph(device_);
  Value x = graph.Input(XH_F32, {1, 2});
  Value zero = graph.Input(XH_F32, {1, 1, 1, 1});
  Value scale = graph.Input(XH_F32, {1});
  Value y = MatMul(graph, x, graph.Parameter(w.data(), XH_F32, {1, 2}, gradient.data()));
  AlignLoss(graph, graph.SplitHeads(y, 1, 1, 1), zero, scale);
  graph.BackwardSince(0);
  ASSERT_TRUE(graph.Compile().ok());
  Write(graph, x, {3, 4});
  Write(graph, zero, {0});
  Write(graph, scale, {1});
  ASSERT_TRUE(graph.Run().ok());
  EXPECT_FLOAT_EQ(gradient[0], 10 + 2 * 11 * 3);
  EXPECT_FLOAT_EQ(gradient[1], 20 + 2 * 11 * 4);
}

// y = a + swiglu(a, a'), where a reaches the loss by two paths: both gradients must arrive.
TEST_F(GraphTest, GradientsOfSeveralUsesOfAValueAddUp) {
  auto loss_of = [&](float weight, float* gradient_out) {
    std::vector<float> w = {weight}, gradient = {0};
    Graph graph(device_);
    Value x = graph.Input(XH_F32, {1, 1});
    Value zero = graph.Input(XH_F32, {1, 1, 1, 1});
    Value scale = graph.Input(XH_F32, {1});
    Value a = MatMul(graph, x, graph.Parameter(w.data(), XH_F32, {1, 1}, gradient.data()));
    Value y = Add(graph, a, SwiGlu(graph, a, x));
    Value loss = AlignLoss(graph, graph.SplitHeads(y, 1, 1, 1), zero, scale);
    graph.Keep(loss);
    graph.BackwardSince(0);
    EXPECT_TRUE(graph.Compile().ok());
    Write(graph, x, {1.5f});
    Write(graph, zero, {0});
    Write(graph, scale, {1});
    EXPECT_TRUE(graph.Run().ok());
    *gradient_out = gradient[0];
    return Read(graph, loss)[0];
  };
  float gradient = 0, ignored = 0;
  loss_of(0.7f, &gradient);
  const float step = 1e-2f;
  float numeric = (loss_of(0.7f + step, &ignored) - loss_of(0.7f - step, &ignored)) / (2 * step);
  EXPECT_NEAR(gradient, numeric, 2e-3 * std::abs(numeric));
}

TEST_F(GraphTest, RowBlocksOfATrainedValueGatherTheWholeGradient) {
  std::vector<float> w = {2}, gradient = {0};
  Graph graph(device_);
  Value x = graph.Input(XH_F32, {4, 1});
  Value zero = graph.Input(XH_F32, {1, 1, 2, 1});
  Value scale = graph.Input(XH_F32, {1});
  Value y = MatMul(graph, x, graph.Parameter(w.data(), XH_F32, {1, 1}, gradient.data()));
  for (int64_t first = 0; first < 4; first += 2) {
    size_t mark = graph.TapeMark();
    Value block = Add(graph, graph.Rows(y, first, 2), graph.Rows(x, first, 2));
    AlignLoss(graph, graph.SplitHeads(block, 1, 2, 1), zero, scale);
    graph.BackwardSince(mark);
  }
  graph.BackwardSince(0);
  ASSERT_TRUE(graph.Compile().ok());
  Write(graph, x, {1, 2, 3, 4});
  Write(graph, zero, {0, 0});
  Write(graph, scale, {1});
  ASSERT_TRUE(graph.Run().ok());
  // y + x = 3 x: dw = sum 2 * 3 x * x = 6 * 30.
  EXPECT_FLOAT_EQ(gradient[0], 180);
}

TEST_F(GraphTest, UsingAValueAfterItsGradientWasTakenIsAnError) {
  std::vector<float> w = {2}, gradient = {0};
  Graph graph(device_);
  Value x = graph.Input(XH_F32, {1, 1});
  Value zero = graph.Input(XH_F32, {1, 1, 1, 1});
  Value scale = graph.Input(XH_F32, {1});
  Value y = MatMul(graph, x, graph.Parameter(w.data(), XH_F32, {1, 1}, gradient.data()));
  AlignLoss(graph, graph.SplitHeads(y, 1, 1, 1), zero, scale);
  graph.BackwardSince(0);
  Add(graph, y, x);
  Status status = graph.Compile();
  EXPECT_EQ(CodeOf(status), XH_INTERNAL);
  EXPECT_THAT(std::string(status.message()), HasSubstr("would lose it"));
}

TEST_F(GraphTest, AChainOfOpsNeedsMemoryForItsNeighboursOnly) {
  Graph graph(device_);
  constexpr int64_t kRows = 1000, kWidth = 64;
  Value x = graph.Input(XH_F32, {kRows, kWidth});
  Value y = x;
  for (int i = 0; i < 20; ++i) y = Add(graph, y, x);
  graph.Keep(y);
  ASSERT_TRUE(graph.Compile().ok());
  // The input, the result, and the two ends of the op in hand.
  EXPECT_LE(graph.arena_bytes(), 4 * kRows * kWidth * 4 + 4096);
  std::vector<float> data(kRows * kWidth);
  std::iota(data.begin(), data.end(), 0.0f);
  Write(graph, x, data);
  ASSERT_TRUE(graph.Run().ok());
  EXPECT_FLOAT_EQ(Read(graph, y)[777], 21 * 777.0f);
}

// Blocks of two products and a skip. One result inside of the first block is also read by a loss of its own.
TEST_F(GraphTest, ARecomputedSegmentGivesTheSameGradientsInLessMemory) {
  constexpr int64_t kRows = 64, kWidth = 16, kBlocks = 6;
  std::vector<float> w(2 * kBlocks * kWidth * kWidth);
  for (size_t i = 0; i < w.size(); ++i) w[i] = 0.1f * static_cast<float>(static_cast<int>(i * 37 % 19) - 9);
  std::vector<float> input(kRows * kWidth);
  for (size_t i = 0; i < input.size(); ++i) input[i] = 0.05f * static_cast<float>(static_cast<int>(i % 13) - 6);
  std::vector<float> gradients[2], losses[2];
  int64_t bytes[2];
  for (const bool recompute : {false, true}) {
    std::vector<float> gradient(w.size(), 0.0f);
    Graph graph(device_);
    Value x = graph.Input(XH_F32, {kRows, kWidth}), target = graph.Input(XH_F32, {1, 1, kRows, kWidth});
    Value scale = graph.Input(XH_F32, {1});
    auto weight = [&](int64_t i) {
      return graph.Parameter(w.data() + i * kWidth * kWidth, XH_F32, {kWidth, kWidth},
                             gradient.data() + i * kWidth * kWidth);
    };
    Value y = x, inner;
    for (int64_t block = 0; block < kBlocks; ++block) {
      const size_t mark = graph.TapeMark();
      Value hidden = MatMul(graph, y, weight(2 * block));
      y = Add(graph, y, MatMul(graph, SwiGlu(graph, hidden, y), weight(2 * block + 1)));
      if (block == 0) inner = hidden;
      if (recompute) graph.Recompute(mark);
    }
    Value sums[] = {AlignLoss(graph, graph.SplitHeads(y, 1, kRows, 1), target, scale),
                    AlignLoss(graph, graph.SplitHeads(inner, 1, kRows, 1), target, scale)};
    for (Value sum : sums) graph.Keep(sum);
    graph.BackwardSince(0);
    ASSERT_TRUE(graph.Compile().ok());
    Write(graph, x, input);
    Write(graph, target, std::vector<float>(input.size(), 0.5f));
    Write(graph, scale, {1e-3f});
    ASSERT_TRUE(graph.Run().ok());
    gradients[recompute] = gradient;
    losses[recompute] = {Read(graph, sums[0])[0], Read(graph, sums[1])[0]};
    bytes[recompute] = graph.arena_bytes();
  }
  EXPECT_EQ(losses[0], losses[1]);
  EXPECT_EQ(gradients[0], gradients[1]);
  EXPECT_NE(gradients[0][0], 0.0f);
  EXPECT_LT(bytes[1], bytes[0]);
}

TEST_F(GraphTest, ASegmentThatNothingReachesIsLeftOut) {
  std::vector<float> w = {2}, gradient = {0};
  Graph graph(device_);
  Value x = graph.Input(XH_F32, {1, 1});
  Value y = MatMul(graph, x, graph.Parameter(w.data(), XH_F32, {1, 1}, gradient.data()));
  graph.Recompute(0);
  graph.Recompute(graph.TapeMark());  // of nothing
  graph.Keep(y);
  graph.BackwardSince(0);
  ASSERT_TRUE(graph.Compile().ok());
  Write(graph, x, {3});
  ASSERT_TRUE(graph.Run().ok());
  EXPECT_FLOAT_EQ(Read(graph, y)[0], 6);
  EXPECT_FLOAT_EQ(gradient[0], 0);
}

TEST_F(GraphTest, ARefusedPlanIsReportedByCompileWithTheOpsName) {
  Graph graph(device_);
  Value x = graph.Input(XH_F32, {2, 3});
  Value w = graph.Input(XH_F32, {4, 5});
  MatMul(graph, x, w);
  Status status = graph.Compile();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("matmul.infer"));
}

TEST_F(GraphTest, RunningBeforeCompilingIsAnError) {
  Graph graph(device_);
  EXPECT_EQ(CodeOf(graph.Run()), XH_INVALID_STATE);
}

}  // namespace
}  // namespace xh
