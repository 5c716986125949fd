// Head dimensions from 16 to 256, key features and value columns of different sizes, and what the mLSTM becomes when
// its forget gates are shut or open.
#include <gtest/gtest.h>

#include "tests/conformance/attention_oracle.h"
#include "tests/conformance/mlstm_oracle.h"

namespace xh::test {
namespace {

struct Dims {
  int64_t features, columns;
};

class MlstmDims : public testing::TestWithParam<Dims> {};

TEST_P(MlstmDims, AgreesWithTheRecurrenceAndItsDifferences) {
  const MlstmSize s = {1, 2, 1, 19, GetParam().features, GetParam().columns};
  for (xh_dtype dtype : {XH_F32, XH_BF16}) {
    Case c;
    c.op = XH_OP_MLSTM;
    c.Params(MlstmParams(s));
    c.inputs = MlstmInputs(s, dtype, false, 3.0);
    c.outputs = {Output(dtype, {s.batch, s.heads, s.tokens, s.columns}), Absent(), Absent(), Absent()};
    c.needs_inputs = 0x1ff;
    c.needs_outputs = 1;
    c.differentiable = 0x1f;
    c.forward = [s](const std::vector<Doubles>& in) { return MlstmOracle(s, in); };
    if (dtype == XH_BF16) UseBf16Tolerance(&c);
    CheckOp(c);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, MlstmDims,
                         testing::Values(Dims{16, 16}, Dims{16, 256}, Dims{256, 16}, Dims{64, 128}, Dims{48, 80},
                                         Dims{128, 64}, Dims{256, 256}));

// The sizes that a backend may have kernels of its own for, over so many chunks that it may cut a sequence into pieces
// that begin before the state at their beginning is known.
TEST(MlstmLength, ManyChunksOfCommonSizes) {
  for (const Dims dims : {Dims{64, 64}, Dims{128, 64}, Dims{128, 128}, Dims{256, 128}}) {
    const MlstmSize s = {1, 2, 1, 530, dims.features, dims.columns};
    Case c;
    c.op = XH_OP_MLSTM;
    c.Params(MlstmParams(s));
    c.inputs = MlstmInputs(s, XH_BF16, false, 3.0);
    c.outputs = {Output(XH_BF16, {s.batch, s.heads, s.tokens, s.columns}), Absent(), Absent(), Absent()};
    c.needs_inputs = 0x1ff;
    c.needs_outputs = 1;
    c.differentiable = 0x1f;
    c.forward = [s](const std::vector<Doubles>& in) { return MlstmOracle(s, in); };
    UseBf16Tolerance(&c);
    CheckOp(c);
  }
}

class AttentionDims : public testing::TestWithParam<int64_t> {};

TEST_P(AttentionDims, AgreesWithTheFormulaAndItsDifferences) {
  const AttentionSize s = {1, 2, 1, 19, GetParam(), {7}, 2};
  for (xh_dtype dtype : {XH_F32, XH_BF16}) {
    Case c;
    c.op = XH_OP_ATTENTION;
    c.Params(s.Params());
    c.inputs = AttentionInputs(s, dtype);
    c.outputs = {Output(dtype, {s.batch, s.heads, s.tokens, s.dim})};
    c.needs_inputs = 0x47;
    c.differentiable = 7;
    c.needs_outputs = 1;
    c.forward = [&s](const std::vector<Doubles>& in) { return AttentionOracle(s, in); };
    if (dtype == XH_BF16) UseBf16Tolerance(&c);
    CheckOp(c);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, AttentionDims, testing::Values(16, 48, 64, 80, 128, 256));

std::vector<Arg> WithForgetGate(const MlstmSize& s, double f) {
  std::vector<Arg> inputs = MlstmInputs(s, XH_F32, false);
  std::fill(inputs[4].values.begin(), inputs[4].values.end(), f);
  return inputs;
}

// All that came before is forgotten: h is v of the token itself. What is left of it is e^-40.
TEST(MlstmLimits, ShutForgetGatesGiveTheValues) {
  const MlstmSize s = {2, 4, 2, 131, 20, 12};
  const std::vector<Arg> inputs = WithForgetGate(s, -40.0);
  for (int32_t chunk : {0, 16, 100}) {
    const Doubles h = RunMlstm(s, XH_INFER, inputs, chunk)[0];
    Doubles expected;
    for (int64_t pair = 0; pair < s.batch * s.heads; ++pair) {
      const int64_t kv = pair / s.heads * s.kv_heads + pair % s.heads / (s.heads / s.kv_heads);
      const auto first = inputs[2].values.begin() + kv * s.tokens * s.columns;
      expected.insert(expected.end(), first, first + s.tokens * s.columns);
    }
    EXPECT_LE(RelativeError(h, expected), 1e-5) << "chunk " << chunk;
  }
}

// Nothing is forgotten: linear attention with weights e^i, written out over all pairs of tokens.
TEST(MlstmLimits, OpenForgetGatesGiveLinearAttention) {
  const MlstmSize s = {1, 2, 2, 70, 9, 6};
  const std::vector<Arg> in = WithForgetGate(s, 40.0);
  Doubles expected;
  const auto at = [](int64_t i) { return static_cast<size_t>(i); };
  for (int64_t pair = 0; pair < s.heads; ++pair) {
    for (int64_t t = 0; t < s.tokens; ++t) {
      Doubles numerator(at(s.columns), 0.0);
      double denominator = 0.0;
      for (int64_t p = 0; p <= t; ++p) {
        double weight = 0.0;
        for (int64_t a = 0; a < s.features; ++a) {
          weight += in[0].values[at((pair * s.tokens + t) * s.features + a)] *
                    in[1].values[at((pair * s.tokens + p) * s.features + a)];
        }
        weight *= std::exp(in[3].values[at(pair * s.tokens + p)]);
        denominator += weight;
        for (int64_t c = 0; c < s.columns; ++c) {
          numerator[at(c)] += weight * in[2].values[at((pair * s.tokens + p) * s.columns + c)];
        }
      }
      for (double x : numerator) expected.push_back(x / denominator);
    }
  }
  EXPECT_LE(RelativeError(RunMlstm(s, XH_INFER, in)[0], expected), 1e-5);
}

}  // namespace
}  // namespace xh::test
