// The state of the mLSTM: however a sequence is cut, the outputs and the state after it are the same.
#include <gtest/gtest.h>

#include "tests/conformance/mlstm_oracle.h"

namespace xh::test {
namespace {

// Tokens [from, to) of dimension 2.
Arg Slice(const Arg& arg, int64_t from, int64_t to) {
  const int64_t rows = arg.shape[0] * arg.shape[1], tokens = arg.shape[2];
  const int64_t columns = arg.shape.size() == 4 ? arg.shape[3] : 1;
  Arg out = arg;
  out.shape[2] = to - from;
  out.values.clear();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t e = (row * tokens + from) * columns; e < (row * tokens + to) * columns; ++e) {
      out.values.push_back(arg.values[static_cast<size_t>(e)]);
    }
  }
  return out;
}

// Runs a sequence in pieces of `step` tokens, the state updated in place, and gives h of the whole and the last state.
std::vector<Doubles> RunInPieces(const MlstmSize& s, const std::vector<Arg>& inputs, int64_t step, int32_t chunk = 0) {
  Doubles h(static_cast<size_t>(s.batch * s.heads * s.tokens * s.columns));
  std::vector<Arg> state = {inputs[5], inputs[6], inputs[7]};
  for (int64_t from = 0; from < s.tokens; from += step) {
    const int64_t to = std::min(from + step, s.tokens);
    Op op(XH_OP_MLSTM, MlstmParams(s, chunk));
    std::vector<Arg> args;
    for (size_t i = 0; i < 5; ++i) args.push_back(Slice(inputs[i], from, to));
    args.insert(args.end(), state.begin(), state.end());
    args.push_back(Absent());
    args.push_back(Output(inputs[0].dtype, {s.batch, s.heads, to - from, s.columns}));
    for (const Arg& arg : StateOutputs(s)) args.push_back(arg);
    for (size_t i = 0; i < 3; ++i) {
      if (state[i].dtype != 0) args[10 + i].alias = static_cast<int>(5 + i);
    }
    MustRun(op, XH_INFER, &args);
    for (int64_t row = 0; row < s.batch * s.heads; ++row) {
      for (int64_t e = 0; e < (to - from) * s.columns; ++e) {
        h[static_cast<size_t>((row * s.tokens + from) * s.columns + e)] =
            args[9].values[static_cast<size_t>(row * (to - from) * s.columns + e)];
      }
    }
    for (size_t i = 0; i < 3; ++i) state[i] = Of(XH_F32, args[10 + i].shape, args[10 + i].values);
  }
  return {h, state[0].values, state[1].values, state[2].values};
}

void ExpectSame(const std::vector<Doubles>& out, const std::vector<Doubles>& expected) {
  EXPECT_LE(RelativeError(out[0], expected[0]), 1e-5) << "h";
  EXPECT_LE(RelativeError(TrueState(out[1], out[3]), TrueState(expected[1], expected[3])), 1e-5) << "S";
  EXPECT_LE(RelativeError(TrueState(out[2], out[3]), TrueState(expected[2], expected[3])), 1e-5) << "z";
}

std::vector<Doubles> Values(const std::vector<Arg>& args) {
  std::vector<Doubles> values;
  for (const Arg& arg : args) values.push_back(arg.values);
  return values;
}

class MlstmCuts : public testing::TestWithParam<MlstmSize> {};

TEST_P(MlstmCuts, TokenByTokenPieceByPieceAndWholeAgree) {
  const MlstmSize s = GetParam();
  for (bool with_state : {false, true}) {
    const std::vector<Arg> inputs = MlstmInputs(s, XH_F32, with_state);
    const std::vector<Doubles> expected = MlstmOracle(s, Values(inputs));
    for (int32_t chunk : {0, 16, 32, 64, 100}) ExpectSame(RunMlstm(s, XH_INFER, inputs, chunk), expected);
    for (int64_t step : {1, 7, 64}) ExpectSame(RunInPieces(s, inputs, step), expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, MlstmCuts,
                         testing::Values(MlstmSize{1, 1, 1, 1, 4, 4}, MlstmSize{2, 2, 1, 70, 7, 5},
                                         MlstmSize{1, 3, 3, 131, 64, 48}, MlstmSize{1, 2, 1, 90, 33, 70},
                                         MlstmSize{1, 2, 1, 66, 20, 12, true, 0.22}));

// Longer than the stretch of chunks whose states are kept at a time.
TEST(MlstmState, LongSequences) {
  const MlstmSize s = {1, 2, 1, 1500, 8, 8};
  const std::vector<Arg> inputs = MlstmInputs(s, XH_F32, true, 6.0);
  ExpectSame(RunMlstm(s, XH_INFER, inputs), MlstmOracle(s, Values(inputs)));
  ExpectSameBits(RunMlstm(s, XH_INFER, inputs), RunMlstm(s, XH_FORWARD, inputs));
}

// Forget gates from shut to open and input gates over e^80, all mixed.
TEST(MlstmState, ExtremeGates) {
  const MlstmSize s = {1, 4, 2, 200, 8, 6};
  std::vector<Arg> inputs = MlstmInputs(s, XH_F32, true);
  for (size_t e = 0; e < inputs[3].values.size(); ++e) {
    const double levels[] = {-40.0, 0.0, 40.0, 8.0, -8.0};
    inputs[3].values[e] = levels[e * 7 % 5];
    inputs[4].values[e] = levels[e * 11 / 3 % 5];
  }
  const std::vector<Doubles> expected = MlstmOracle(s, Values(inputs));
  EXPECT_LE(RelativeError(RunMlstm(s, XH_INFER, inputs)[0], expected[0]), 1e-5);
  EXPECT_LE(RelativeError(RunInPieces(s, inputs, 1)[0], expected[0]), 1e-5);
}

// An input gate of -inf lets nothing in; before anything is in, the floored normaliser gives zero.
TEST(MlstmState, ClosedInputGates) {
  const MlstmSize s = {1, 1, 1, 6, 4, 4, true};
  std::vector<Arg> inputs = MlstmInputs(s, XH_F32, false);
  for (size_t t : {0u, 1u, 3u}) inputs[3].values[t] = -std::numeric_limits<double>::infinity();
  const std::vector<Doubles> whole = RunMlstm(s, XH_INFER, inputs);
  for (size_t e = 0; e < 8; ++e) EXPECT_EQ(whole[0][e], 0.0);
  for (double x : whole[0]) EXPECT_TRUE(std::isfinite(x));
  EXPECT_LE(RelativeError(RunInPieces(s, inputs, 1)[0], whole[0]), 1e-5);
}

TEST(MlstmState, PassesThroughWithoutTokens) {
  const MlstmSize s = {2, 2, 1, 0, 4, 3};
  const std::vector<Arg> inputs = MlstmInputs(s, XH_F32, true);
  const std::vector<Doubles> out = RunMlstm(s, XH_INFER, inputs);
  for (size_t i = 1; i < 4; ++i) EXPECT_EQ(out[i], inputs[4 + i].values);
  EXPECT_TRUE(MlstmGradients(s, inputs, Output(XH_F32, {2, 2, 0, 3}))[0].empty());
}

TEST(MlstmState, BfloatDecoding) {
  const MlstmSize s = {2, 4, 2, 24, 16, 16};
  const std::vector<Arg> inputs = MlstmInputs(s, XH_BF16, false);
  const std::vector<Doubles> expected = MlstmOracle(s, Values(inputs));
  EXPECT_LE(RelativeError(RunInPieces(s, inputs, 1)[0], expected[0]), 1e-2);
}

TEST(MlstmState, IncompleteArgumentsAreRefused) {
  const MlstmSize s = {1, 2, 2, 4, 4, 4};
  std::vector<Arg> args = MlstmInputs(s, XH_F32, true);
  args.push_back(Output(XH_F32, {1, 2, 4, 4}));
  args.resize(13);
  xh_mlstm_params params = MlstmParams(s);
  Op op(XH_OP_MLSTM, params);
  EXPECT_EQ(OpenOrGap(op, XH_INFER, args).code, 0);
  std::vector<Arg> bad = args;
  bad[6] = Absent();
  EXPECT_EQ(op.Open(XH_INFER, bad).code, XH_INVALID_ARGUMENT) << "S and m without z";
  bad = args;
  bad[2] = Random(XH_F32, {1, 3, 4, 4}, 1);
  EXPECT_EQ(op.Open(XH_INFER, bad).code, XH_INVALID_ARGUMENT) << "three value heads for two query heads";
  params.normalizer = 7;
  EXPECT_EQ(Op(XH_OP_MLSTM, params).Open(XH_INFER, args).code, XH_INVALID_ARGUMENT);
  params = MlstmParams(s);
  params.chunk = -1;
  EXPECT_EQ(Op(XH_OP_MLSTM, params).Open(XH_INFER, args).code, XH_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace xh::test
