// The mLSTM over rows packed from documents: each is a sequence of its own, forward and backward.
#include <gtest/gtest.h>

#include "tests/conformance/mlstm_oracle.h"
#include "tests/conformance/packed_rows.h"

namespace xh::test {
namespace {

constexpr size_t kStart = 8;

std::vector<Arg> PackedInputs(const MlstmSize& s, xh_dtype dtype, const std::vector<std::vector<int64_t>>& rows,
                              double forget = 2.0) {
  std::vector<Arg> inputs = MlstmInputs(s, dtype, false, forget);
  inputs[kStart] = StartsOf(rows);
  return inputs;
}

Case PackedCase(const MlstmSize& s, xh_dtype dtype, const std::vector<std::vector<int64_t>>& rows, int32_t chunk,
                double forget = 2.0) {
  Case c;
  c.op = XH_OP_MLSTM;
  c.Params(MlstmParams(s, chunk));
  c.inputs = PackedInputs(s, dtype, rows, forget);
  c.outputs = {Output(dtype, {s.batch, s.heads, s.tokens, s.columns}), Absent(), Absent(), Absent()};
  c.needs_inputs = 0x1ff;
  c.needs_outputs = 1;
  c.differentiable = 0x1f;
  c.forward = [s](const std::vector<Doubles>& in) { return MlstmOracle(s, in); };
  return c;
}

TEST(DocumentMlstm, AgreesWithTheRecurrenceAndItsDifferences) {
  CheckOp(PackedCase({1, 1, 1, 3, 4, 4}, XH_F32, {{1, 2}}, 0));
  CheckOp(PackedCase({1, 2, 1, 7, 5, 3}, XH_F32, {{1, 4, 2}}, 4));       // a border inside a chunk and none at its edge
  CheckOp(PackedCase({2, 2, 2, 19, 9, 6}, XH_F32, {{8, 11}, {19}}, 8));  // a border at a chunk's edge; one document
  CheckOp(PackedCase({1, 3, 1, 33, 4, 17}, XH_F32, {{3, 1, 28, 1}}, 16));  // a document over a chunk's edge
  CheckOp(PackedCase({2, 4, 2, 21, 6, 5}, XH_F32, {{20, 1}, {1, 20}}, 5));
}

TEST(DocumentMlstm, EveryKindOfGateAndNormalizer) {
  CheckOp(PackedCase({1, 2, 1, 30, 5, 6}, XH_F32, {{11, 19}}, 8, -3.0));
  CheckOp(PackedCase({1, 2, 1, 23, 8, 5, true, 1.0 / std::sqrt(8.0)}, XH_F32, {{9, 14}}, 8));
  CheckOp(PackedCase({1, 2, 1, 150, 24, 20}, XH_F32, {{70, 5, 75}}, 0, 4.0));
}

TEST(DocumentMlstm, BfloatActivationsInTokenMajorLayout) {
  Case c = PackedCase({1, 4, 2, 40, 12, 10}, XH_BF16, {{13, 27}}, 16);
  for (size_t i = 0; i < 3; ++i) c.inputs[i] = TokenMajor(c.inputs[i], 3);
  for (size_t i = 3; i < 5; ++i) c.inputs[i].order = {0, 2, 1};
  UseBf16Tolerance(&c);
  CheckOp(c);
}

// Forward and backward of a packed row against those of its documents run alone.
void ExpectAsAlone(const MlstmSize& s, const std::vector<int64_t>& lengths, std::vector<Arg> inputs,
                   double tolerance = 1e-5, double gradient_tolerance = 1e-4) {
  inputs[kStart] = StartsOf({lengths});
  const xh_dtype dtype = inputs[0].dtype;
  const Arg dh = Random(dtype, {1, s.heads, s.tokens, s.columns}, 9);
  const std::vector<Doubles> gradients = MlstmGradients(s, inputs, dh);
  Arg h = Output(dtype, dh.shape);
  {
    Op op(XH_OP_MLSTM, MlstmParams(s));
    std::vector<Arg> args = inputs;
    args.push_back(h);
    args.resize(13);
    MustRun(op, XH_INFER, &args);
    h = args[9];
  }
  int64_t from = 0;
  for (int64_t length : lengths) {
    MlstmSize one = s;
    one.tokens = length;
    std::vector<Arg> alone;
    for (size_t i = 0; i < 5; ++i) alone.push_back(Tokens(inputs[i], from, from + length));
    alone.resize(9);
    const std::string where = "document at " + std::to_string(from);
    const std::vector<Doubles> expected = MlstmGradients(one, alone, Tokens(dh, from, from + length));
    EXPECT_LE(RelativeError(Tokens(h, from, from + length).values, RunMlstm(one, XH_FORWARD, alone)[0]), tolerance)
        << where;
    for (size_t i = 0; i < 5; ++i) {
      Arg gradient = inputs[i];
      gradient.values = gradients[i];
      // A document of one token forgets nothing; and without a state its h is v, whatever q, k and i are.
      if (length == 1 && i != 2) continue;
      EXPECT_LE(RelativeError(Tokens(gradient, from, from + length).values, expected[i]), gradient_tolerance)
          << where << ", gradient of input " << i;
    }
    from += length;
  }
}

TEST(DocumentMlstm, PackedEqualsAlone) {
  const MlstmSize s = {1, 3, 1, 300, 16, 16};
  for (const std::vector<int64_t>& lengths : std::vector<std::vector<int64_t>>{
           {300}, {64, 64, 128, 44}, {1, 63, 1, 1, 150, 84}, {100, 100, 100}, {299, 1}, {30, 5, 7, 200, 58}}) {
    ExpectAsAlone(s, lengths, MlstmInputs(s, XH_F32, false, 4.0));
    ExpectAsAlone(s, lengths, MlstmInputs(s, XH_BF16, false, 4.0), 1e-2, 1e-2);
  }
}

// INFER keeps the states of a stretch of chunks at a time: a border in each of several.
TEST(DocumentMlstm, LongRows) {
  const MlstmSize s = {1, 2, 1, 2500, 8, 8};
  ExpectAsAlone(s, {1023, 1, 1000, 476}, MlstmInputs(s, XH_F32, false, 6.0));
}

// What one document holds, up to e^80 more than the next, must not touch it.
TEST(DocumentMlstm, ExtremeGatesStayInTheirDocument) {
  const MlstmSize s = {1, 4, 2, 200, 8, 6};
  std::vector<Arg> inputs = MlstmInputs(s, XH_F32, false);
  for (size_t e = 0; e < inputs[3].values.size(); ++e) {
    const double levels[] = {-40.0, 0.0, 40.0, 8.0, -8.0};
    inputs[3].values[e] = levels[e * 7 % 5] * (e % 200 < 90 ? 1.0 : -1.0);
    inputs[4].values[e] = levels[e * 11 / 3 % 5];
  }
  inputs[kStart] = StartsOf({{50, 40, 1, 109}});
  std::vector<Doubles> values;
  for (const Arg& arg : inputs) values.push_back(arg.values);
  Op op(XH_OP_MLSTM, MlstmParams(s));
  std::vector<Arg> args = inputs;
  args.push_back(Output(XH_F32, {1, 4, 200, 6}));
  args.resize(13);
  MustRun(op, XH_INFER, &args);
  EXPECT_LE(RelativeError(args[9].values, MlstmOracle(s, values)[0]), 1e-5);
}

TEST(DocumentMlstm, NothingFlowsAcrossABorder) {
  const MlstmSize s = {1, 2, 1, 150, 8, 8};
  const std::vector<Arg> inputs = PackedInputs(s, XH_F32, {{40, 30, 80}}, 4.0);
  Arg dh = Random(XH_F32, {1, 2, 150, 8}, 9);
  for (size_t e = 0; e < dh.values.size(); ++e) {
    const size_t t = e / 8 % 150;
    if (t < 40 || t >= 70) dh.values[e] = 0.0;
  }
  const std::vector<Doubles> gradients = MlstmGradients(s, inputs, dh);
  for (size_t i = 0; i < 5; ++i) {
    const size_t columns = i < 3 ? 8 : 1;
    double inside = 0.0;
    for (size_t e = 0; e < gradients[i].size(); ++e) {
      const size_t t = e / columns % 150;
      if (t >= 40 && t < 70) {
        inside += std::fabs(gradients[i][e]);
      } else {
        ASSERT_EQ(gradients[i][e], 0.0) << "input " << i << ", token " << t;
      }
    }
    EXPECT_GT(inside, 0.0) << "input " << i;
  }
  for (size_t head : {0u, 1u}) EXPECT_EQ(gradients[4][head * 150 + 40], 0.0) << "the first forget gate forgets nothing";
}

TEST(DocumentMlstm, OneDocumentIsARowThatRunsOn) {
  const MlstmSize s = {2, 3, 1, 150, 8, 8};
  std::vector<Arg> inputs = MlstmInputs(s, XH_F32, false);
  const Arg dh = Random(XH_F32, {2, 3, 150, 8}, 9);
  const std::vector<Doubles> expected = MlstmGradients(s, inputs, dh);
  inputs[kStart] = StartsOf({{150}, {150}});
  const std::vector<Doubles> packed = MlstmGradients(s, inputs, dh);
  for (size_t i = 0; i < 4; ++i) ExpectSameBits(packed[i], expected[i]);
  EXPECT_LE(RelativeError(packed[4], expected[4]), 1e-5);  // the first forget gate: 0, not what rounding leaves
}

TEST(DocumentMlstm, DoesNotDependOnThreads) {
  const MlstmSize s = {1, 3, 1, 300, 16, 16};
  const std::vector<Arg> inputs = PackedInputs(s, XH_F32, {{100, 130, 70}});
  const Arg dh = Random(XH_F32, {1, 3, 300, 16}, 9);
  EXPECT_EQ(MlstmGradients(s, inputs, dh, 0, 1), MlstmGradients(s, inputs, dh, 0, 2));
}

TEST(DocumentMlstm, StartsThatAreNoDocumentsAreRefusedWhenRun) {
  const MlstmSize s = {2, 2, 1, 6, 4, 4};
  std::vector<Arg> args = MlstmInputs(s, XH_F32, false);
  args.push_back(Output(XH_F32, {2, 2, 6, 4}));
  args.resize(13);
  for (const Doubles& bad : HostileStarts()) {
    args[kStart] = Of(XH_I32, {2, 6}, WithGoodRow(bad));
    for (xh_pass pass : {XH_INFER, XH_FORWARD}) {
      Op op(XH_OP_MLSTM, MlstmParams(s));
      const Outcome outcome = RunOrGap(op, pass, &args);
      EXPECT_EQ(outcome.code, XH_INVALID_ARGUMENT);
      EXPECT_TRUE(Names(outcome.message, {"start"})) << outcome.message;
    }
  }
  args[kStart] = Of(XH_I32, {2, 6}, WithGoodRow({0, 0, 2, 2, 2, 5}));
  Op op(XH_OP_MLSTM, MlstmParams(s));
  MustRun(op, XH_FORWARD, &args);
  args.push_back(Random(XH_F32, {2, 2, 6, 4}, 3));
  args.resize(26);
  args[17] = Output(XH_F32, {2, 2, 6, 4});
  args[kStart].values[7] = 5.0;
  EXPECT_EQ(op.Run(XH_BACKWARD, &args).code, XH_INVALID_ARGUMENT);
}

TEST(DocumentMlstm, StatesAndWrongShapesAreRefusedWhenPlanned) {
  const MlstmSize s = {1, 2, 2, 4, 4, 4};
  std::vector<Arg> args = MlstmInputs(s, XH_F32, true);
  args[kStart] = StartsOf({{1, 3}});
  args.push_back(Output(XH_F32, {1, 2, 4, 4}));
  args.resize(13);
  Op op(XH_OP_MLSTM, MlstmParams(s));
  EXPECT_EQ(op.Open(XH_INFER, args).code, XH_UNSUPPORTED) << "a state before";
  args[5] = args[6] = args[7] = Absent();
  EXPECT_EQ(OpenOrGap(op, XH_INFER, args).code, 0);
  const std::vector<Arg> state = StateOutputs(s);
  std::copy(state.begin(), state.end(), args.begin() + 10);
  EXPECT_EQ(op.Open(XH_INFER, args).code, XH_UNSUPPORTED) << "a state after";
  args.resize(10);
  args.resize(13);
  args[kStart] = StartsOf({{1, 2}});
  EXPECT_EQ(op.Open(XH_INFER, args).code, XH_INVALID_ARGUMENT) << "three tokens of four";
  args[kStart] = Random(XH_F32, {1, 4}, 1);
  EXPECT_EQ(op.Open(XH_INFER, args).code, XH_INVALID_ARGUMENT) << "f32";
}

}  // namespace
}  // namespace xh::test
