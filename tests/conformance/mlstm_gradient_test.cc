// The mLSTM at shapes that are multiples of nothing, against a plain recurrence in double and its central differences.
#include <gtest/gtest.h>

#include "tests/conformance/mlstm_oracle.h"

namespace xh::test {
namespace {

constexpr uint32_t kInputs = 0x1f, kState = 0x1e0;  // and `start`

Case MlstmCase(const MlstmSize& s, xh_dtype dtype, bool state, int32_t chunk, double forget = 2.0) {
  Case c;
  c.op = XH_OP_MLSTM;
  c.Params(MlstmParams(s, chunk));
  c.inputs = MlstmInputs(s, dtype, state, forget);
  c.outputs = {Output(dtype, {s.batch, s.heads, s.tokens, s.columns}), Absent(), Absent(), Absent()};
  c.needs_inputs = kInputs | kState;
  c.needs_outputs = 1;
  c.differentiable = kInputs;
  c.forward = [s](const std::vector<Doubles>& in) { return MlstmOracle(s, in); };
  return c;
}

TEST(MlstmGradient, SmallSizesOfEveryRemainder) {
  CheckOp(MlstmCase({1, 1, 1, 2, 4, 4}, XH_F32, true, 0));
  CheckOp(MlstmCase({1, 2, 1, 7, 5, 3}, XH_F32, false, 4));
  CheckOp(MlstmCase({2, 2, 2, 19, 9, 6}, XH_F32, true, 8));
  CheckOp(MlstmCase({1, 3, 1, 33, 4, 17}, XH_F32, false, 16));
}

// INFER takes a path of its own here, so that it need not agree with FORWARD to the last bit.
TEST(MlstmGradient, OneToken) {
  const MlstmSize s = {2, 2, 1, 1, 5, 3};
  const std::vector<Arg> inputs = MlstmInputs(s, XH_F32, true);
  const Arg dh = Random(XH_F32, {2, 2, 1, 3}, 9);
  const std::vector<Doubles> gradients = MlstmGradients(s, inputs, dh);
  for (size_t i = 0; i < 5; ++i) {
    Doubles expected(inputs[i].values.size(), 0.0);
    for (size_t e = 0; e < expected.size(); ++e) {
      for (double step : {1e-5, -1e-5}) {
        std::vector<Doubles> moved;
        for (const Arg& arg : inputs) moved.push_back(arg.values);
        moved[i][e] += step;
        const Doubles h = MlstmOracle(s, moved)[0];
        for (size_t j = 0; j < h.size(); ++j) expected[e] += h[j] * dh.values[j] / (2.0 * step);
      }
    }
    EXPECT_LE(RelativeError(gradients[i], expected), 1e-4) << "gradient of input " << i;
  }
}

TEST(MlstmGradient, ValuesSharedByAGroupOfHeads) {
  CheckOp(MlstmCase({2, 6, 2, 21, 6, 5}, XH_F32, false, 8));
  CheckOp(MlstmCase({1, 4, 1, 13, 7, 9}, XH_F32, true, 5));
}

TEST(MlstmGradient, FlooredNormalizerWithRawQueriesAndKeys) {
  CheckOp(MlstmCase({1, 2, 1, 23, 8, 5, true, 1.0 / std::sqrt(8.0)}, XH_F32, false, 8));
  CheckOp(MlstmCase({1, 2, 2, 18, 6, 11, true, 0.4}, XH_F32, true, 7));
}

TEST(MlstmGradient, ManyChunksOfTheDefaultSize) { CheckOp(MlstmCase({1, 2, 1, 150, 24, 20}, XH_F32, true, 0, 4.0)); }

TEST(MlstmGradient, ForgetGatesAlmostShut) { CheckOp(MlstmCase({1, 2, 1, 30, 5, 6}, XH_F32, true, 8, -3.0)); }

TEST(MlstmGradient, TokenMajorLayoutWithGaps) {
  Case c = MlstmCase({2, 4, 2, 19, 6, 10}, XH_F32, false, 8);
  for (size_t i = 0; i < 3; ++i) c.inputs[i] = TokenMajor(c.inputs[i], 3);
  for (size_t i = 3; i < 5; ++i) c.inputs[i].order = {0, 2, 1};
  c.outputs[0] = TokenMajor(c.outputs[0], 5);
  CheckOp(c);
}

TEST(MlstmGradient, BfloatActivations) {
  Case c = MlstmCase({1, 4, 2, 40, 12, 10}, XH_BF16, true, 16);
  UseBf16Tolerance(&c);
  CheckOp(c);
}

// Plain normaliser and no state: h does not change with the length of q, nor with a shift of every input gate.
TEST(MlstmGradient, InvarianceOfThePlainNormalizer) {
  const MlstmSize s = {2, 3, 1, 200, 32, 24};
  const std::vector<Arg> inputs = MlstmInputs(s, XH_F32, false, 3.0);
  const std::vector<Doubles> g = MlstmGradients(s, inputs, Random(XH_F32, {2, 3, 200, 24}, 9));
  for (size_t row = 0; row < 2 * 3 * 200; ++row) {
    double along = 0.0, size = 0.0;
    for (size_t a = 0; a < 32; ++a) {
      along += inputs[0].values[row * 32 + a] * g[0][row * 32 + a];
      size += std::fabs(inputs[0].values[row * 32 + a] * g[0][row * 32 + a]);
    }
    EXPECT_LE(std::fabs(along), 1e-5 * size) << "q.dq of row " << row;
  }
  for (size_t pair = 0; pair < 6; ++pair) {
    double sum = 0.0, size = 0.0;
    for (size_t t = 0; t < 200; ++t) {
      sum += g[3][pair * 200 + t];
      size += std::fabs(g[3][pair * 200 + t]);
    }
    EXPECT_LE(std::fabs(sum), 1e-5 * size) << "sum of di of pair " << pair;
  }
}

TEST(MlstmGradient, DoesNotDependOnThreads) {
  const MlstmSize s = {1, 3, 1, 300, 16, 16};
  const std::vector<Arg> inputs = MlstmInputs(s, XH_F32, true);
  const Arg dh = Random(XH_F32, {1, 3, 300, 16}, 9);
  EXPECT_EQ(MlstmGradients(s, inputs, dh, 0, 1), MlstmGradients(s, inputs, dh, 0, 2));
  EXPECT_EQ(RunMlstm(s, XH_INFER, inputs, 0, 1), RunMlstm(s, XH_INFER, inputs, 0, 3));
}

}  // namespace
}  // namespace xh::test
