// Attention at shapes that are multiples of nothing, against the formula in double and its central differences.
#include <gtest/gtest.h>

#include "tests/conformance/attention_oracle.h"

namespace xh::test {
namespace {

// The case borrows `s`.
Case AttentionCase(const AttentionSize& s, xh_dtype dtype = XH_F32) {
  Case c;
  c.op = XH_OP_ATTENTION;
  c.Params(s.Params());
  c.inputs = AttentionInputs(s, dtype);
  c.outputs = {Output(dtype, {s.batch, s.heads, s.tokens, s.dim})};
  c.needs_inputs = 0x47;
  c.differentiable = 7;
  c.needs_outputs = 1;
  c.forward = [&s](const std::vector<Doubles>& in) { return AttentionOracle(s, in); };
  return c;
}

class AttentionSizes : public testing::TestWithParam<AttentionSize> {};

TEST_P(AttentionSizes, AgreesWithTheFormulaAndItsDifferences) {
  const AttentionSize s = GetParam();
  CheckOp(AttentionCase(s));
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, AttentionSizes,
    testing::Values(AttentionSize{1, 1, 1, 1, 4, {0}, 0},      // one token
                    AttentionSize{2, 3, 1, 19, 5, {0}, 4},     // sinks without a window
                    AttentionSize{1, 2, 2, 23, 9, {1, 7}, 0},  // a window of one token
                    AttentionSize{1, 4, 2, 30, 6, {3, 8}, 4},  // a window shorter than the sinks
                    AttentionSize{1, 6, 3, 70, 11, {16, 0, 1}, 2},
                    AttentionSize{1, 2, 1, 150, 17, {65}, 3},     // a window over a block's edge
                    AttentionSize{1, 1, 1, 140, 8, {5}, 70},      // sinks in two blocks
                    AttentionSize{1, 2, 1, 12, 33, {100}, 30}));  // everything visible, fewer tokens than sinks

TEST(AttentionGradient, BfloatActivations) {
  const AttentionSize s = {1, 4, 2, 37, 12, {9, 0}, 2};
  Case c = AttentionCase(s, XH_BF16);
  UseBf16Tolerance(&c);
  CheckOp(c);
}

TEST(AttentionGradient, TokenMajorLayoutWithGaps) {
  const AttentionSize s = {2, 4, 2, 37, 10, {9, 0}, 2};
  Case c = AttentionCase(s);
  for (size_t i = 0; i < 3; ++i) c.inputs[i] = TokenMajor(c.inputs[i], 3);
  c.outputs[0] = TokenMajor(c.outputs[0], 6);
  CheckOp(c);
}

TEST(AttentionGradient, WideWindowEqualsNoWindow) {
  const AttentionSize full = {1, 4, 2, 130, 16, {0, 0}, 0};
  const std::vector<Arg> inputs = AttentionInputs(full, XH_F32);
  const Arg d_out = Random(XH_F32, inputs[0].shape, 9);
  const std::vector<Doubles> expected = AttentionGradients(full, inputs, d_out);
  for (int32_t window : {130, 131, 100000}) {
    const AttentionSize wide = {1, 4, 2, 130, 16, {window, window}, 0};
    SCOPED_TRACE(testing::Message() << "window " << window);
    ExpectSameBits(RunAttention(wide, XH_INFER, inputs), RunAttention(full, XH_INFER, inputs));
    ExpectSameBits(AttentionGradients(wide, inputs, d_out), expected);
  }
}

TEST(AttentionGradient, LargeScoresDoNotOverflow) {
  const AttentionSize s = {1, 1, 1, 20, 4, {0}, 0};
  std::vector<Arg> inputs = AttentionInputs(s, XH_F32);
  for (double& x : inputs[0].values) x = RoundTo(XH_F32, x * 1e3);
  const Doubles expected = AttentionOracle(s, {inputs[0].values, inputs[1].values, inputs[2].values})[0];
  EXPECT_LE(RelativeError(RunAttention(s, XH_INFER, inputs), expected), 1e-3);  // scores of 1e4 have an ulp of 1e-3
}

TEST(AttentionGradient, OutputsDoNotDependOnThreads) {
  const AttentionSize s = {1, 3, 1, 300, 16, {100}, 4};
  const std::vector<Arg> inputs = AttentionInputs(s, XH_F32);
  EXPECT_EQ(RunAttention(s, XH_INFER, inputs, 1), RunAttention(s, XH_INFER, inputs, 2));
  const Arg d_out = Random(XH_F32, inputs[0].shape, 9);
  const std::vector<Doubles> one = AttentionGradients(s, inputs, d_out, 1), two = AttentionGradients(s, inputs, d_out);
  EXPECT_LE(RelativeError(two[0], one[0]), 1e-6);
  EXPECT_EQ(two[1], one[1]);
  EXPECT_EQ(two[2], one[2]);
  EXPECT_EQ(two, AttentionGradients(s, inputs, d_out));
}

TEST(AttentionGradient, IncompleteArgumentsAreRefused) {
  const AttentionSize s = {1, 4, 2, 5, 8, {3, 0}, 2, 10};
  std::vector<Arg> args = AttentionInputs(s, XH_F32);
  args.push_back(Output(XH_F32, {1, 4, 5, 8}));
  Op whole(XH_OP_ATTENTION, s.Params());
  EXPECT_EQ(OpenOrGap(whole, XH_INFER, args).code, 0);
  xh_attention_params params = s.Params();
  params.windows = nullptr;
  EXPECT_EQ(Op(XH_OP_ATTENTION, params).Open(XH_INFER, args).code, XH_INVALID_ARGUMENT);
  params = s.Params();
  params.kv_heads = 1;
  EXPECT_EQ(Op(XH_OP_ATTENTION, params).Open(XH_INFER, args).code, XH_INVALID_ARGUMENT);
  const AttentionSize negative = {1, 4, 2, 5, 8, {3, -1}, 2};
  EXPECT_EQ(Op(XH_OP_ATTENTION, negative.Params()).Open(XH_INFER, args).code, XH_INVALID_ARGUMENT);
  args[3] = Output(XH_F32, {1, 15, 8});
  EXPECT_EQ(Op(XH_OP_ATTENTION, s.Params()).Open(XH_INFER, args).code, XH_INVALID_ARGUMENT) << "half a cache";
  args[4] = args[3];
  args[5] = Of(XH_I32, {1}, {0});
  EXPECT_EQ(Op(XH_OP_ATTENTION, s.Params()).Open(XH_INFER, args).code, 0);
  EXPECT_EQ(Op(XH_OP_ATTENTION, s.Params()).Open(XH_FORWARD, args).code, XH_UNSUPPORTED);
  args[3] = args[4] = Output(XH_F32, {1, 16, 8});
  EXPECT_EQ(Op(XH_OP_ATTENTION, s.Params()).Open(XH_INFER, args).code, XH_INVALID_ARGUMENT) << "a slot too many";
}

}  // namespace
}  // namespace xh::test
