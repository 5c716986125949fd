// Ops on rows: RMS_NORM, ROPE, ADD, SWIGLU, MIX, EMBED.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/conformance/backend_check.h"
#include "tests/conformance/oracle_dense.h"

namespace xh::test {
namespace {

struct Size {
  int64_t m, d;
};
const Size kSizes[] = {{1, 1}, {3, 7}, {7, 65}, {65, 3}, {400, 130}};

Arg Padded(Arg arg, int64_t gap, int64_t offset) {
  arg.gap = gap;
  arg.offset = offset;
  return arg;
}

Case NormCase(Size s, xh_dtype dtype, xh_dtype w_dtype, int64_t gap) {
  Case c;
  c.op = XH_OP_RMS_NORM;
  c.Params(xh_norm_params{XH_SIZED(xh_norm_params), 1e-5f});
  c.inputs = {Padded(Random(dtype, {s.m, s.d}, 1), gap, gap), Random(w_dtype, {s.d}, 2)};
  c.outputs = {Padded(Output(dtype, {s.m, s.d}), 2 * gap, 1)};
  c.needs_inputs = 0b11;
  c.differentiable = 0b11;
  c.parameters = 0b10;
  c.forward = [s](const std::vector<Doubles>& in) {
    return std::vector<Doubles>{oracle::RmsNorm(in[0], in[1], s.m, s.d, 1e-5f)};
  };
  if (dtype == XH_BF16) UseBf16Tolerance(&c);
  return c;
}

TEST(RmsNorm, MatchesTheOracleInEverySize) {
  for (Size s : kSizes) {
    if (s.d == 1) continue;  // y is the sign of x there: its gradient is nothing but cancellation
    SCOPED_TRACE(testing::Message() << s.m << " x " << s.d);
    CheckOp(NormCase(s, XH_F32, XH_F32, 0));
  }
  CheckOp(NormCase({1, 2}, XH_F32, XH_F32, 0));
}
TEST(RmsNorm, TakesStridedRowsAndBf16) {
  CheckOp(NormCase({7, 65}, XH_F32, XH_BF16, 3));
  CheckOp(NormCase({7, 65}, XH_BF16, XH_F32, 3));
  CheckOp(NormCase({130, 200}, XH_BF16, XH_BF16, 1));
}

Case AddCase(Size s, xh_dtype dtype, int64_t gap) {
  Case c;
  c.op = XH_OP_ADD;
  c.inputs = {Padded(Random(dtype, {s.m, s.d}, 1), gap, 0), Random(dtype, {s.m, s.d}, 2)};
  c.outputs = {Padded(Output(dtype, {s.m, s.d}), gap, gap)};
  c.differentiable = 0b11;
  c.forward = [](const std::vector<Doubles>& in) {
    Doubles y = in[0];
    for (size_t i = 0; i < y.size(); ++i) y[i] += in[1][i];
    return std::vector<Doubles>{y};
  };
  if (dtype == XH_BF16) UseBf16Tolerance(&c);
  return c;
}

Case SwigluCase(Size s, xh_dtype dtype, int64_t gap) {
  Case c;
  c.op = XH_OP_SWIGLU;
  c.inputs = {Padded(Random(dtype, {s.m, s.d}, 3, 2.0), gap, 1), Padded(Random(dtype, {s.m, s.d}, 4), 2 * gap, 0)};
  c.outputs = {Padded(Output(dtype, {s.m, s.d}), gap, 0)};
  c.needs_inputs = 0b11;
  c.differentiable = 0b11;
  c.forward = [](const std::vector<Doubles>& in) { return std::vector<Doubles>{oracle::Swiglu(in[0], in[1])}; };
  if (dtype == XH_BF16) UseBf16Tolerance(&c);
  return c;
}

TEST(Add, MatchesTheOracleAndPassesGradientsOn) {
  for (Size s : kSizes) CheckOp(AddCase(s, XH_F32, 0));
  CheckOp(AddCase({7, 65}, XH_F32, 5));
  CheckOp(AddCase({65, 7}, XH_BF16, 1));
}
TEST(Swiglu, MatchesTheOracleInEverySize) {
  for (Size s : kSizes) CheckOp(SwigluCase(s, XH_F32, 0));
  CheckOp(SwigluCase({7, 65}, XH_F32, 5));
  CheckOp(SwigluCase({65, 7}, XH_BF16, 1));
  CheckOp(SwigluCase({200, 130}, XH_BF16, 0));
}
TEST(Swiglu, IsFiniteForLargeGates) {
  Op op(XH_OP_SWIGLU);
  std::vector<Arg> args = {Of(XH_F32, {1, 4}, {-200, 200, -90, 90}), Of(XH_F32, {1, 4}, {1, 1, 1, 1}),
                           Output(XH_F32, {1, 4})};
  MustRun(op, XH_INFER, &args);
  EXPECT_NEAR(args[2].values[0], 0.0, 1e-30);
  EXPECT_EQ(args[2].values[1], 200.0);
  EXPECT_NEAR(args[2].values[2], 0.0, 1e-30);
  EXPECT_EQ(args[2].values[3], 90.0);
}

struct HeadSize {
  int64_t b, h, t, d;
};

Case MixCase(HeadSize s, xh_dtype dtype, int64_t gap) {
  Case c;
  c.op = XH_OP_MIX;
  Arg o = Random(XH_F32, {s.b, s.h, s.t}, 1);
  o.order = {0, 2, 1};
  c.inputs = {o, TokenMajor(Random(dtype, {s.b, s.h, s.t, s.d}, 2), gap), Random(dtype, {s.b, s.h, s.t, s.d}, 3)};
  c.outputs = {TokenMajor(Output(dtype, {s.b, s.h, s.t, s.d}))};
  c.needs_inputs = 0b111;
  c.differentiable = 0b111;
  c.forward = [s](const std::vector<Doubles>& in) {
    return std::vector<Doubles>{oracle::Mix(in[0], in[1], in[2], s.d)};
  };
  if (dtype == XH_BF16) UseBf16Tolerance(&c);
  return c;
}

TEST(Mix, MatchesTheOracleInEveryLayout) {
  CheckOp(MixCase({1, 1, 1, 1}, XH_F32, 0));
  CheckOp(MixCase({2, 3, 7, 5}, XH_F32, 3));
  CheckOp(MixCase({2, 3, 65, 64}, XH_F32, 0));
  CheckOp(MixCase({1, 3, 7, 17}, XH_BF16, 1));
}

const int32_t kSomeHeads[] = {0, 3, 4};

// Three of six heads are mixed.
Case MixSomeCase(HeadSize s, xh_dtype dtype, int64_t gap) {
  const int64_t some = 3, row = s.t * s.d;
  Case c = MixCase(s, dtype, gap);
  c.Params(xh_heads_params{XH_SIZED(xh_heads_params), some, kSomeHeads});
  Arg o = Random(XH_F32, {s.b, some, s.t}, 1);
  o.order = {0, 2, 1};
  c.inputs[0] = o;
  c.inputs[1] = TokenMajor(Random(dtype, {s.b, some, s.t, s.d}, 2), gap);
  c.forward = [s, row](const std::vector<Doubles>& in) {
    Doubles h = in[2];
    for (int64_t b = 0; b < s.b; ++b) {
      for (int64_t j = 0; j < some; ++j) {
        const int64_t whole = (b * s.h + kSomeHeads[j]) * row, part = (b * some + j) * row;
        for (int64_t i = 0; i < row; ++i) {
          const double gate = in[0][(b * some + j) * s.t + i / s.d];
          h[whole + i] = gate * in[1][part + i] + (1 - gate) * in[2][whole + i];
        }
      }
    }
    return std::vector<Doubles>{h};
  };
  return c;
}

TEST(Mix, LeavesHeadsOutsideTheListAsTheyAre) {
  CheckOp(MixSomeCase({1, 6, 1, 1}, XH_F32, 0));
  CheckOp(MixSomeCase({2, 6, 7, 5}, XH_F32, 3));
  CheckOp(MixSomeCase({2, 6, 65, 64}, XH_F32, 0));
  CheckOp(MixSomeCase({1, 6, 7, 17}, XH_BF16, 1));
}

Case SelectCase(HeadSize s, const std::vector<int32_t>& heads, xh_dtype dtype, int64_t gap) {
  const int64_t count = static_cast<int64_t>(heads.size()), row = s.t * s.d;
  Case c;
  c.op = XH_OP_SELECT_HEADS;
  c.Params(xh_heads_params{XH_SIZED(xh_heads_params), static_cast<int32_t>(count), heads.data()});
  c.inputs = {TokenMajor(Random(dtype, {s.b, s.h, s.t, s.d}, 2), gap)};
  c.outputs = {TokenMajor(Output(dtype, {s.b, count, s.t, s.d}))};
  c.differentiable = 0b1;
  c.forward = [s, row, heads](const std::vector<Doubles>& in) {
    Doubles y;
    for (int64_t b = 0; b < s.b; ++b) {
      for (int32_t head : heads) {
        const auto first = in[0].begin() + (b * s.h + head) * row;
        y.insert(y.end(), first, first + row);
      }
    }
    return std::vector<Doubles>{y};
  };
  if (dtype == XH_BF16) UseBf16Tolerance(&c);
  return c;
}

TEST(SelectHeads, CopiesTheHeadsOfTheListAndSumsTheGradientsOfRepeatedOnes) {
  const std::vector<std::vector<int32_t>> lists = {{0, 3, 4}, {0, 0, 0, 3, 4, 4}, {0, 3}};
  for (const std::vector<int32_t>& heads : lists) {
    CheckOp(SelectCase({1, 6, 1, 1}, heads, XH_F32, 0));
    CheckOp(SelectCase({2, 5, 7, 5}, heads, XH_F32, 3));
    CheckOp(SelectCase({2, 6, 65, 64}, heads, XH_F32, 0));
    CheckOp(SelectCase({1, 6, 7, 17}, heads, XH_BF16, 1));
  }
}

TEST(Heads, OfAListMustBeSortedAndThere) {
  const int32_t twice[] = {1, 1, 2}, back[] = {2, 1, 3}, beyond[] = {0, 1, 6};
  auto refusal = [](xh_op op, const int32_t* heads, std::vector<Arg> args) {
    Op asked(op, xh_heads_params{XH_SIZED(xh_heads_params), 3, heads});
    return OpenOrGap(asked, XH_INFER, args);
  };
  const std::vector<Arg> select = {Random(XH_F32, {1, 6, 2, 4}, 1), Output(XH_F32, {1, 3, 2, 4})};
  const std::vector<Arg> mix = {Random(XH_F32, {1, 3, 2}, 1), Random(XH_F32, {1, 3, 2, 4}, 2),
                                Random(XH_F32, {1, 6, 2, 4}, 3), Output(XH_F32, {1, 6, 2, 4})};
  for (const int32_t* heads :
       {static_cast<const int32_t*>(back), static_cast<const int32_t*>(beyond), static_cast<const int32_t*>(nullptr)}) {
    EXPECT_EQ(refusal(XH_OP_SELECT_HEADS, heads, select).code, XH_INVALID_ARGUMENT);
    EXPECT_EQ(refusal(XH_OP_MIX, heads, mix).code, XH_INVALID_ARGUMENT);
  }
  EXPECT_EQ(refusal(XH_OP_SELECT_HEADS, twice, select).code, 0);
  const Outcome repeated = refusal(XH_OP_MIX, twice, mix);
  EXPECT_EQ(repeated.code, XH_INVALID_ARGUMENT);
  EXPECT_TRUE(Names(repeated.message, {"heads", "1"})) << repeated.message;
}

Case RopeCase(HeadSize s, xh_dtype dtype, int64_t gap) {
  const int64_t rows = s.t + 9;
  Doubles table, position;
  for (int64_t p = 0; p < rows; ++p) {
    for (int64_t j = 0; j < s.d; ++j) {
      const int64_t pair = j % (s.d / 2);
      const double angle =
          static_cast<double>(p) * std::pow(1e4, -2.0 * static_cast<double>(pair) / static_cast<double>(s.d));
      table.push_back(j < s.d / 2 ? std::cos(angle) : std::sin(angle));
    }
  }
  for (int64_t b = 0; b < s.b; ++b) position.push_back(static_cast<double>(4 * b));
  Case c;
  c.op = XH_OP_ROPE;
  Arg x = Random(dtype, {s.b, s.t, s.h, s.d}, 1);
  x.gap = gap;
  Arg y = Output(dtype, {s.b, s.t, s.h, s.d});
  y.order = {0, 2, 1, 3};
  c.inputs = {x, Of(XH_F32, {rows, s.d}, table), Of(XH_I32, {s.b}, position)};
  c.outputs = {y};
  c.needs_inputs = 0b110;
  c.differentiable = 0b001;
  c.forward = [s](const std::vector<Doubles>& in) {
    return std::vector<Doubles>{oracle::Rope(in[0], in[1], in[2], s.b, s.t, s.h, s.d)};
  };
  if (dtype == XH_BF16) UseBf16Tolerance(&c);
  return c;
}

TEST(Rope, MatchesTheOracleFromEveryPosition) {
  CheckOp(RopeCase({1, 1, 1, 2}, XH_F32, 0));
  CheckOp(RopeCase({3, 2, 7, 6}, XH_F32, 2));
  CheckOp(RopeCase({2, 3, 65, 64}, XH_F32, 0));
  CheckOp(RopeCase({2, 3, 5, 10}, XH_BF16, 1));
}
TEST(Rope, RefusesAPositionPastTheTable) {
  Case c = RopeCase({2, 3, 7, 6}, XH_F32, 0);
  c.inputs[2].values[1] = 10;
  Op op(XH_OP_ROPE);
  std::vector<Arg> args = c.inputs;
  args.push_back(c.outputs[0]);
  const Outcome outcome = RunOrGap(op, XH_INFER, &args);
  EXPECT_EQ(outcome.code, XH_INVALID_ARGUMENT);
  EXPECT_TRUE(Names(outcome.message, {"position", "10"})) << outcome.message;
}

Case EmbedCase(Size s, int64_t rows, xh_dtype table_dtype, xh_dtype dtype, int64_t gap) {
  Doubles ids;
  for (int64_t m = 0; m < s.m; ++m) ids.push_back(static_cast<double>(m * m * 7 % rows));  // with repeats
  Case c;
  c.op = XH_OP_EMBED;
  c.inputs = {Padded(Random(table_dtype, {rows, s.d}, 1), gap, 0), Of(XH_I32, {s.m}, ids)};
  c.outputs = {Padded(Output(dtype, {s.m, s.d}), gap, 1)};
  c.needs_inputs = 0b10;
  c.differentiable = c.parameters = 0b01;
  c.forward = [s](const std::vector<Doubles>& in) {
    Doubles y;
    for (double id : in[1]) {
      const auto row = in[0].begin() + static_cast<int64_t>(id) * s.d;
      y.insert(y.end(), row, row + s.d);
    }
    return std::vector<Doubles>{y};
  };
  if (dtype == XH_BF16 || table_dtype == XH_BF16) UseBf16Tolerance(&c);
  return c;
}

TEST(Embed, ReadsRowsAndAddsGradientsOfEqualIds) {
  Case one = EmbedCase({1, 1}, 1, XH_F32, XH_F32, 0);
  CheckOp(one);
  CheckOp(EmbedCase({7, 3}, 1, XH_F32, XH_F32, 0));
  CheckOp(EmbedCase({7, 3}, 2, XH_F32, XH_F32, 2));
}
TEST(Embed, ConvertsBetweenTableAndActivation) {
  for (xh_dtype table : {XH_F32, XH_BF16}) {
    for (xh_dtype dtype : {XH_F32, XH_BF16}) {
      const Case c = EmbedCase({5, 65}, 1, table, dtype, 1);
      CheckOp(c);
    }
  }
}
TEST(Embed, GradientDoesNotDependOnTheThreads) {
  std::vector<Doubles> results;
  for (int threads : {1, 2, 3}) {
    Op op(XH_OP_EMBED, threads);
    Doubles ids;
    for (int m = 0; m < 500; ++m) ids.push_back(m * 13 % 37);
    std::vector<Arg> args = {
        Absent(), Of(XH_I32, {500}, ids), Absent(), Random(XH_F32, {500, 150}, 3), Output(XH_F32, {40, 150}), Absent()};
    MustRun(op, XH_BACKWARD, &args);
    results.push_back(args[4].values);
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}
TEST(Embed, RefusesAnIdOutOfTheTableAndWritesNothing) {
  for (double id : {-1.0, 5.0}) {
    Op op(XH_OP_EMBED);
    std::vector<Arg> args = {Random(XH_F32, {5, 3}, 1), Of(XH_I32, {2}, {4, id}), Of(XH_F32, {2, 3}, Doubles(6, 9.0))};
    const Outcome outcome = RunOrGap(op, XH_INFER, &args);
    EXPECT_EQ(outcome.code, XH_INVALID_ARGUMENT);
    EXPECT_TRUE(Names(outcome.message, {"ids", std::to_string(static_cast<int>(id)).c_str()})) << outcome.message;
    EXPECT_EQ(args[2].values, Doubles(6, 9.0));
  }
}

}  // namespace
}  // namespace xh::test
