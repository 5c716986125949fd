// Attention over rows packed from documents: each is a sequence of its own, its window and sinks too.
#include <gtest/gtest.h>

#include "tests/conformance/attention_oracle.h"
#include "tests/conformance/packed_rows.h"

namespace xh::test {
namespace {

constexpr size_t kStart = 6;
using Rows = std::vector<std::vector<int64_t>>;

struct PackedSize {
  AttentionSize size;
  Rows rows;
};

// The case borrows `p`.
Case PackedCase(const PackedSize& p, xh_dtype dtype = XH_F32) {
  const AttentionSize& s = p.size;
  Case c;
  c.op = XH_OP_ATTENTION;
  c.Params(s.Params());
  c.inputs = AttentionInputs(s, dtype);
  c.inputs[kStart] = StartsOf(p.rows);
  c.outputs = {Output(dtype, {s.batch, s.heads, s.tokens, s.dim})};
  c.needs_inputs = 0x47;
  c.differentiable = 7;
  c.needs_outputs = 1;
  c.forward = [&s](const std::vector<Doubles>& in) { return AttentionOracle(s, in); };
  return c;
}

class DocumentAttentionSizes : public testing::TestWithParam<PackedSize> {};

TEST_P(DocumentAttentionSizes, AgreesWithTheFormulaAndItsDifferences) {
  const PackedSize p = GetParam();
  CheckOp(PackedCase(p));
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, DocumentAttentionSizes,
    testing::Values(PackedSize{{1, 1, 1, 2, 4, {0}, 0}, {{1, 1}}},
                    PackedSize{{2, 3, 1, 19, 5, {0}, 4}, {{4, 15}, {19}}},           // sinks without a window
                    PackedSize{{1, 2, 2, 23, 9, {1, 7}, 0}, {{1, 10, 12}}},          // a window of one token
                    PackedSize{{1, 4, 2, 30, 6, {3, 8}, 4}, {{2, 20, 8}}},           // fewer tokens than sinks
                    PackedSize{{1, 6, 3, 70, 11, {16, 0, 1}, 2}, {{33, 1, 1, 35}}},  // every kind of window
                    PackedSize{{1, 2, 1, 150, 17, {65}, 3}, {{10, 130, 10}}},        // longer than a block
                    PackedSize{{1, 1, 1, 140, 8, {5}, 70}, {{50, 90}}}));            // sinks in two blocks

TEST(DocumentAttention, BfloatActivationsInTokenMajorLayout) {
  const PackedSize p = {{1, 4, 2, 37, 12, {9, 0}, 2}, {{7, 30}}};
  Case c = PackedCase(p, XH_BF16);
  for (size_t i = 0; i < 3; ++i) c.inputs[i] = TokenMajor(c.inputs[i], 3);
  c.outputs[0] = TokenMajor(c.outputs[0], 6);
  UseBf16Tolerance(&c);
  CheckOp(c);
}

// Forward and backward of a packed row against those of its documents run alone.
class PackedAttention : public testing::TestWithParam<std::vector<int64_t>> {};

TEST_P(PackedAttention, EqualsItsDocumentsAlone) {
  const std::vector<int64_t>& lengths = GetParam();
  for (xh_dtype dtype : {XH_F32, XH_BF16}) {
    AttentionSize s = {1, 6, 3, 300, 16, {0, 40, 7}, 3};
    std::vector<Arg> inputs = AttentionInputs(s, dtype);
    inputs[kStart] = StartsOf({lengths});
    const Arg d_out = Random(dtype, inputs[0].shape, 9);
    Arg out = inputs[0];
    out.values = RunAttention(s, XH_INFER, inputs);
    const std::vector<Doubles> gradients = AttentionGradients(s, inputs, d_out);
    int64_t from = 0;
    for (int64_t length : lengths) {
      const int64_t to = from + length;
      s.tokens = length;
      std::vector<Arg> alone;
      for (size_t i = 0; i < 3; ++i) alone.push_back(Tokens(inputs[i], from, to));
      alone.resize(7);
      const std::string where = "document at " + std::to_string(from);
      const double tolerance = dtype == XH_F32 ? 1e-5 : 1e-2;
      EXPECT_LE(RelativeError(Tokens(out, from, to).values, RunAttention(s, XH_FORWARD, alone)), tolerance) << where;
      const std::vector<Doubles> expected = AttentionGradients(s, alone, Tokens(d_out, from, to));
      for (size_t i = 0; i < 3; ++i) {
        Arg gradient = inputs[i];
        gradient.values = gradients[i];
        if (length == 1 && i != 2) continue;  // one token sees itself, whatever q and k are
        EXPECT_LE(RelativeError(Tokens(gradient, from, to).values, expected[i]), 10 * tolerance)
            << where << ", gradient of input " << i;
      }
      from = to;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, PackedAttention,
    testing::ValuesIn(Rows{
        {300}, {64, 64, 128, 44}, {1, 63, 1, 1, 150, 84}, {100, 100, 100}, {299, 1}, {30, 5, 7, 200, 58}}));

TEST(DocumentAttention, NothingFlowsAcrossABorder) {
  const AttentionSize s = {1, 4, 2, 150, 8, {0, 20}, 3};
  std::vector<Arg> inputs = AttentionInputs(s, XH_F32);
  inputs[kStart] = StartsOf({{40, 30, 80}});
  Arg d_out = Random(XH_F32, inputs[0].shape, 9);
  for (size_t e = 0; e < d_out.values.size(); ++e) {
    const size_t t = e / 8 % 150;
    if (t < 40 || t >= 70) d_out.values[e] = 0.0;
  }
  const std::vector<Doubles> gradients = AttentionGradients(s, inputs, d_out);
  for (size_t i = 0; i < 3; ++i) {
    double inside = 0.0;
    for (size_t e = 0; e < gradients[i].size(); ++e) {
      const size_t t = e / 8 % 150;
      if (t >= 40 && t < 70) {
        inside += std::fabs(gradients[i][e]);
      } else {
        ASSERT_EQ(gradients[i][e], 0.0) << "input " << i << ", token " << t;
      }
    }
    EXPECT_GT(inside, 0.0) << "input " << i;
  }
}

TEST(DocumentAttention, OneDocumentIsARowThatRunsOn) {
  const AttentionSize s = {2, 4, 2, 150, 8, {0, 20}, 3};
  std::vector<Arg> inputs = AttentionInputs(s, XH_F32);
  const Arg d_out = Random(XH_F32, inputs[0].shape, 9);
  const Doubles out = RunAttention(s, XH_INFER, inputs);
  const std::vector<Doubles> expected = AttentionGradients(s, inputs, d_out);
  inputs[kStart] = StartsOf({{150}, {150}});
  ExpectSameBits(RunAttention(s, XH_INFER, inputs), out);
  ExpectSameBits(AttentionGradients(s, inputs, d_out), expected);
}

TEST(DocumentAttention, OutputsDoNotDependOnThreads) {
  const AttentionSize s = {1, 3, 1, 300, 16, {100}, 4};
  std::vector<Arg> inputs = AttentionInputs(s, XH_F32);
  inputs[kStart] = StartsOf({{100, 130, 70}});
  ExpectSameBits(RunAttention(s, XH_INFER, inputs, 1), RunAttention(s, XH_INFER, inputs, 2));
  const Arg d_out = Random(XH_F32, inputs[0].shape, 9);
  const std::vector<Doubles> one = AttentionGradients(s, inputs, d_out, 1), two = AttentionGradients(s, inputs, d_out);
  EXPECT_LE(RelativeError(two[0], one[0]), 1e-6);
  EXPECT_EQ(two[1], one[1]);
  EXPECT_EQ(two[2], one[2]);
}

TEST(DocumentAttention, StartsThatAreNoDocumentsAreRefusedWhenRun) {
  const AttentionSize s = {2, 2, 1, 6, 4, {3}, 1};
  std::vector<Arg> args = AttentionInputs(s, XH_F32);
  args.push_back(Output(XH_F32, {2, 2, 6, 4}));
  for (const Doubles& bad : HostileStarts()) {
    args[kStart] = Of(XH_I32, {2, 6}, WithGoodRow(bad));
    for (xh_pass pass : {XH_INFER, XH_FORWARD}) {
      Op op(XH_OP_ATTENTION, s.Params());
      const Outcome outcome = RunOrGap(op, pass, &args);
      EXPECT_EQ(outcome.code, XH_INVALID_ARGUMENT);
      EXPECT_TRUE(Names(outcome.message, {"start"})) << outcome.message;
    }
  }
  args[kStart] = Of(XH_I32, {2, 6}, WithGoodRow({0, 0, 2, 2, 2, 5}));
  Op op(XH_OP_ATTENTION, s.Params());
  MustRun(op, XH_FORWARD, &args);
  args.push_back(Random(XH_F32, {2, 2, 6, 4}, 3));
  args.resize(16);
  args[9] = Output(XH_F32, {2, 2, 6, 4});
  args[kStart].values[7] = 5.0;
  EXPECT_EQ(op.Run(XH_BACKWARD, &args).code, XH_INVALID_ARGUMENT);
}

TEST(DocumentAttention, ACacheAndWrongShapesAreRefusedWhenPlanned) {
  const AttentionSize s = {1, 4, 2, 5, 8, {3, 0}, 2, 10};
  std::vector<Arg> args = AttentionInputs(s, XH_F32);
  args.push_back(Output(XH_F32, {1, 4, 5, 8}));
  args[kStart] = StartsOf({{2, 3}});
  Op whole(XH_OP_ATTENTION, s.Params());
  EXPECT_EQ(OpenOrGap(whole, XH_INFER, args).code, 0);
  args[3] = args[4] = Output(XH_F32, {1, 15, 8});
  args[5] = Of(XH_I32, {1}, {0});
  EXPECT_EQ(Op(XH_OP_ATTENTION, s.Params()).Open(XH_INFER, args).code, XH_UNSUPPORTED);
  args[3] = args[4] = args[5] = Absent();
  args[kStart] = StartsOf({{2, 2}});
  EXPECT_EQ(Op(XH_OP_ATTENTION, s.Params()).Open(XH_INFER, args).code, XH_INVALID_ARGUMENT) << "four tokens of five";
}

}  // namespace
}  // namespace xh::test
