// FEATURE_MAP and HEAD_GATE.
#include <gtest/gtest.h>

#include "tests/conformance/backend_check.h"
#include "tests/conformance/oracle_dense.h"

namespace xh::test {
namespace {

struct MapSize {
  int64_t b, inputs, heads, t, d, n;
};

Case MapCase(MapSize s, xh_feature_map kind, xh_dtype dtype, int64_t gap = 0) {
  const bool hedgehog = kind == XH_FEATURE_HEDGEHOG;
  Case c;
  c.op = XH_OP_FEATURE_MAP;
  c.Params(xh_feature_map_params{XH_SIZED(xh_feature_map_params), kind});
  c.inputs = {TokenMajor(Random(dtype, {s.b, s.inputs, s.t, s.d}, 1), gap),
              Random(XH_F32, {s.heads, s.d, s.n}, 2, 0.5)};
  c.outputs = {TokenMajor(Output(dtype, {s.b, s.heads, s.t, hedgehog ? 2 * s.n : s.n}), gap)};
  c.needs_inputs = 0b11;
  c.needs_outputs = 0b1;
  c.differentiable = 0b11;
  c.parameters = 0b10;
  c.forward = [s, hedgehog](const std::vector<Doubles>& in) {
    return std::vector<Doubles>{oracle::FeatureMap(in[0], in[1], s.b, s.inputs, s.heads, s.t, s.d, s.n, hedgehog)};
  };
  if (dtype == XH_BF16) UseBf16Tolerance(&c);
  return c;
}

const MapSize kMaps[] = {{1, 1, 1, 1, 1, 2}, {2, 3, 3, 7, 5, 3}, {1, 2, 6, 9, 4, 65}, {2, 1, 3, 7, 17, 33}};

TEST(FeatureMap, SoftmaxMatchesTheOracle) {
  for (MapSize s : kMaps) CheckOp(MapCase(s, XH_FEATURE_SOFTMAX, XH_F32));
  CheckOp(MapCase({1, 1, 3, 130, 64, 64}, XH_FEATURE_SOFTMAX, XH_F32, 3));
}
TEST(FeatureMap, HedgehogMatchesTheOracle) {
  for (MapSize s : kMaps) CheckOp(MapCase(s, XH_FEATURE_HEDGEHOG, XH_F32));
  CheckOp(MapCase({2, 1, 3, 65, 64, 64}, XH_FEATURE_HEDGEHOG, XH_F32));
}
TEST(FeatureMap, TakesBf16) {
  CheckOp(MapCase({2, 1, 3, 7, 17, 9}, XH_FEATURE_SOFTMAX, XH_BF16, 1));
  CheckOp(MapCase({1, 2, 4, 130, 33, 40}, XH_FEATURE_HEDGEHOG, XH_BF16));
}
TEST(FeatureMap, ReadsParametersInBf16) {
  Case c = MapCase({2, 1, 3, 7, 17, 9}, XH_FEATURE_SOFTMAX, XH_F32);
  c.inputs[1] = Random(XH_BF16, {3, 17, 9}, 2, 0.5);
  CheckOp(c);
}
TEST(FeatureMap, OneTokenOfManySequencesInBf16) {
  for (xh_feature_map kind : {XH_FEATURE_SOFTMAX, XH_FEATURE_HEDGEHOG}) {
    for (MapSize s : {MapSize{41, 2, 4, 1, 128, 64}, MapSize{33, 3, 3, 1, 64, 128}, MapSize{32, 1, 2, 1, 128, 128},
                      MapSize{70, 1, 3, 1, 64, 64}}) {
      Case c = MapCase(s, kind, XH_BF16, 8);
      c.inputs[1] = Random(XH_BF16, {s.heads, s.d, s.n}, 2, 0.1);
      Op op(c.op);
      op.SetParams(c.params);
      std::vector<Arg> args = {c.inputs[0], c.inputs[1], c.outputs[0]};
      MustRun(op, XH_INFER, &args);
      EXPECT_LE(RelativeError(args[2].values, c.forward({args[0].values, args[1].values})[0]), c.tolerance);
    }
  }
}
TEST(FeatureMap, FeaturesSumToOneForLargeScores) {
  Op op(XH_OP_FEATURE_MAP, xh_feature_map_params{XH_SIZED(xh_feature_map_params), XH_FEATURE_HEDGEHOG});
  std::vector<Arg> args = {Random(XH_F32, {1, 2, 9, 16}, 1, 100.0), Random(XH_F32, {2, 16, 16}, 2, 10.0),
                           Output(XH_F32, {1, 2, 9, 32})};
  MustRun(op, XH_INFER, &args);
  for (size_t row = 0; row < 2 * 2 * 9; ++row) {
    double sum = 0.0;
    for (size_t j = 0; j < 16; ++j) sum += args[2].values[row * 16 + j];
    EXPECT_NEAR(sum, 1.0, 1e-5);
  }
}
TEST(FeatureMap, RefusesHeadsThatDoNotDivide) {
  Case c = MapCase({2, 1, 3, 7, 17, 9}, XH_FEATURE_SOFTMAX, XH_F32);
  c.inputs[0] = Random(XH_F32, {2, 2, 7, 17}, 1);
  Op op(XH_OP_FEATURE_MAP);
  op.SetParams(c.params);
  const Outcome outcome = OpenOrGap(op, XH_INFER, {c.inputs[0], c.inputs[1], c.outputs[0]});
  EXPECT_EQ(outcome.code, XH_INVALID_ARGUMENT);
  EXPECT_TRUE(Names(outcome.message, {"u", "2"})) << outcome.message;
}

struct GateSize {
  int64_t b, heads, kv_heads, t, d;
};

Case GateCase(GateSize s, xh_dtype dtype, int64_t gap = 0) {
  Case c;
  c.op = XH_OP_HEAD_GATE;
  Arg o = Output(XH_F32, {s.b, s.heads, s.t});
  o.order = {0, 2, 1};
  c.inputs = {TokenMajor(Random(dtype, {s.b, s.heads, s.t, s.d}, 1), gap),
              TokenMajor(Random(dtype, {s.b, s.kv_heads, s.t, s.d}, 2)), Random(dtype, {s.b, s.kv_heads, s.t, s.d}, 3),
              Random(XH_F32, {s.heads, 3 * s.d}, 4, 0.3), Random(XH_F32, {s.heads}, 5)};
  c.outputs = {o};
  c.needs_inputs = 0b01111;
  c.needs_outputs = 0b1;
  c.differentiable = 0b11111;
  c.parameters = 0b11000;
  c.forward = [s](const std::vector<Doubles>& in) {
    return std::vector<Doubles>{
        oracle::HeadGate(in[0], in[1], in[2], in[3], in[4], s.b, s.heads, s.kv_heads, s.t, s.d)};
  };
  if (dtype == XH_BF16) UseBf16Tolerance(&c);
  return c;
}

TEST(HeadGate, MatchesTheOracle) {
  CheckOp(GateCase({1, 1, 1, 1, 1}, XH_F32));
  CheckOp(GateCase({2, 3, 1, 7, 5}, XH_F32, 3));
  CheckOp(GateCase({1, 6, 2, 9, 65}, XH_F32));
  CheckOp(GateCase({2, 3, 3, 80, 64}, XH_F32));
}
TEST(HeadGate, ManyTokensOfCommonHeads) {
  CheckOp(GateCase({1, 4, 2, 2053, 64}, XH_F32));
  CheckOp(GateCase({2, 5, 1, 2049, 64}, XH_BF16));
  CheckOp(GateCase({1, 8, 2, 2051, 128}, XH_BF16));
}
TEST(HeadGate, TakesBf16) {
  CheckOp(GateCase({2, 3, 1, 7, 17}, XH_BF16, 1));
  Case c = GateCase({1, 3, 1, 7, 17}, XH_F32);
  c.inputs[3] = Random(XH_BF16, {3, 51}, 4, 0.3);
  c.inputs[4] = Random(XH_BF16, {3}, 5);
  CheckOp(c);
}

}  // namespace
}  // namespace xh::test
