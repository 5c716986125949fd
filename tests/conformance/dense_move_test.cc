// CAST, FILL, REDUCE and TOP_K.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/conformance/backend_check.h"

namespace xh::test {
namespace {

Arg Ordered(Arg arg, std::vector<int> order, int64_t gap = 0) {
  arg.order = std::move(order);
  arg.gap = gap;
  return arg;
}

Case CastCase(Arg x, Arg y) {
  Case c;
  c.op = XH_OP_CAST;
  c.inputs = {std::move(x)};
  c.outputs = {std::move(y)};
  c.differentiable = 0b1;
  c.forward = [](const std::vector<Doubles>& in) { return std::vector<Doubles>{in[0]}; };
  if (c.inputs[0].dtype == XH_BF16 || c.outputs[0].dtype == XH_BF16) UseBf16Tolerance(&c);
  return c;
}

TEST(Cast, CopiesBetweenAnyLayouts) {
  const std::vector<int64_t> shape = {3, 5, 2, 7};
  for (xh_dtype from : {XH_F32, XH_BF16}) {
    for (xh_dtype to : {XH_F32, XH_BF16}) {
      const Arg x = Random(from, shape, 1), y = Output(to, shape);
      CheckOp(CastCase(x, y));
      CheckOp(CastCase(Ordered(x, {0, 2, 1, 3}, 2), y));
      CheckOp(CastCase(Ordered(x, {3, 1, 0, 2}, 1), Ordered(y, {2, 0, 1, 3}, 3)));
    }
  }
  CheckOp(CastCase(Random(XH_F32, {}, 1), Output(XH_BF16, {})));
  CheckOp(CastCase(Random(XH_F32, {1, 1, 65, 1}, 1), Output(XH_BF16, {1, 1, 65, 1})));
  CheckOp(CastCase(Random(XH_F32, {20001}, 1), Output(XH_BF16, {20001})));
}
TEST(Cast, RoundsToNearestEvenAndKeepsSpecialValues) {
  Op op(XH_OP_CAST);
  const double tie_down = 1.0 + 1.0 / 256.0, tie_up = 1.0 + 3.0 / 256.0;  // between neighbours of 1.0 in steps of 1/128
  std::vector<Arg> args = {Of(XH_F32, {6}, {tie_down, tie_up, INFINITY, -INFINITY, NAN, 3.4e38}), Output(XH_BF16, {6})};
  MustRun(op, XH_INFER, &args);
  EXPECT_EQ(args[1].values[0], 1.0);
  EXPECT_EQ(args[1].values[1], 1.0 + 4.0 / 256.0);
  EXPECT_EQ(args[1].values[2], INFINITY);
  EXPECT_EQ(args[1].values[3], -INFINITY);
  EXPECT_TRUE(std::isnan(args[1].values[4]));
  EXPECT_EQ(args[1].values[5], INFINITY);
}
TEST(Cast, MovesIntegersAndConvertsThemOrSaysThatItCannot) {
  Op op(XH_OP_CAST);
  for (xh_dtype dtype : {XH_I32, XH_I64, XH_U8}) {
    Arg x = Of(dtype, {2, 3, 2}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 120});
    std::vector<Arg> args = {Ordered(x, {2, 0, 1}, 1), Output(dtype, {2, 3, 2})};
    MustRun(op, XH_INFER, &args);
    EXPECT_EQ(args[1].values, x.values);
  }
  const Outcome outcome = op.Open(XH_INFER, {Of(XH_I32, {2}, {1, 2}), Output(XH_F32, {2})});
  EXPECT_TRUE(outcome.code == 0 || outcome.code == XH_UNSUPPORTED) << outcome.message;
  EXPECT_EQ(op.Open(XH_INFER, {Random(XH_F32, {2, 3}, 1), Output(XH_F32, {3, 2})}).code, XH_INVALID_ARGUMENT);
}

TEST(Fill, WritesEveryElementAndNothingElse) {
  for (xh_dtype dtype : {XH_F32, XH_BF16, XH_I32}) {
    Op op(XH_OP_FILL, xh_fill_params{XH_SIZED(xh_fill_params), -3.0f});
    std::vector<Arg> args = {Ordered(Output(dtype, {3, 65, 5}), {1, 0, 2}, 3)};
    MustRun(op, XH_INFER, &args);
    EXPECT_EQ(args[0].values, Doubles(3 * 65 * 5, -3.0));
  }
  Op op(XH_OP_FILL, xh_fill_params{XH_SIZED(xh_fill_params), NAN});
  std::vector<Arg> args = {Output(XH_F32, {50000})};
  MustRun(op, XH_INFER, &args);
  EXPECT_TRUE(std::all_of(args[0].values.begin(), args[0].values.end(), [](double x) { return std::isnan(x); }));
  EXPECT_EQ(op.Open(XH_INFER, {Output(XH_I32, {3})}).code, XH_INVALID_ARGUMENT);
}

TEST(Reduce, SumsRowsOfEveryWidth) {
  struct Shape {
    int64_t m, n, gap;
  };
  const Shape shapes[] = {{1, 1, 0},   {7, 3, 0},     {7, 3, 2},     {65, 1, 0}, {1000, 2, 0},
                          {33, 65, 1}, {50001, 1, 0}, {40000, 5, 0}, {0, 3, 0}};
  for (xh_reduce_kind kind : {XH_REDUCE_SUM, XH_REDUCE_SUM_SQUARES}) {
    for (Shape s : shapes) {
      SCOPED_TRACE(testing::Message() << s.m << " x " << s.n << " kind " << kind);
      Arg x = Random(XH_F32, {s.m, s.n}, 1);
      x.gap = s.gap;
      Doubles expected(static_cast<size_t>(s.n), 0.0);
      for (size_t i = 0; i < x.values.size(); ++i) {
        expected[i % expected.size()] += kind == XH_REDUCE_SUM ? x.values[i] : x.values[i] * x.values[i];
      }
      std::vector<Doubles> results;
      for (int threads : {1, 2, 5}) {
        Op op(XH_OP_REDUCE, xh_reduce_params{XH_SIZED(xh_reduce_params), kind}, threads);
        std::vector<Arg> args = {x, Output(XH_F32, {s.n})};
        MustRun(op, XH_INFER, &args);
        EXPECT_LE(RelativeError(args[1].values, expected), 1e-6);
        results.push_back(args[1].values);
      }
      EXPECT_EQ(results[0], results[1]) << "the sum depends on the number of threads";
      EXPECT_EQ(results[0], results[2]);
    }
  }
}
TEST(Reduce, SumsInDouble) {
  Doubles values(20000, 1.0);  // f32 partial sums past 2^24 would lose the ones
  values[0] = 67108864.0;
  Op op(XH_OP_REDUCE, xh_reduce_params{XH_SIZED(xh_reduce_params), XH_REDUCE_SUM});
  std::vector<Arg> args = {Of(XH_F32, {20000, 1}, values), Output(XH_F32, {1})};
  MustRun(op, XH_INFER, &args);
  EXPECT_EQ(args[1].values[0], RoundTo(XH_F32, 67108864.0 + 19999.0));
  args = {Of(XH_F32, {2, 1}, {1.0, NAN}), Output(XH_F32, {1})};
  MustRun(op, XH_INFER, &args);
  EXPECT_TRUE(std::isnan(args[1].values[0]));
}

struct TopKResult {
  Doubles values, ids;
};
TopKResult RunTopK(const Arg& logits, int64_t k, int threads = 2) {
  Op op(XH_OP_TOP_K, xh_top_k_params{XH_SIZED(xh_top_k_params), static_cast<int32_t>(k)}, threads);
  Arg values = Output(XH_F32, {logits.shape[0], k}), ids = Output(XH_I32, {logits.shape[0], k});
  values.gap = 3;
  std::vector<Arg> args = {logits, values, ids};
  MustRun(op, XH_INFER, &args);
  return {args[1].values, args[2].values};
}
void CheckTopK(const Arg& logits, int64_t k) {
  const int64_t m = logits.shape[0], v = logits.shape[1];
  SCOPED_TRACE(testing::Message() << m << " x " << v << " k " << k << " dtype " << logits.dtype);
  Doubles values, ids;
  for (int64_t row = 0; row < m; ++row) {
    std::vector<int64_t> order(static_cast<size_t>(v));
    std::iota(order.begin(), order.end(), 0);
    const double* const x = logits.values.data() + row * v;
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return x[a] > x[b]; });
    for (int64_t j = 0; j < k; ++j) {
      ids.push_back(static_cast<double>(order[static_cast<size_t>(j)]));
      values.push_back(x[order[static_cast<size_t>(j)]]);
    }
  }
  const TopKResult result = RunTopK(logits, k);
  EXPECT_EQ(result.ids, ids);
  EXPECT_EQ(result.values, values);
}

TEST(TopK, SelectsInOrderInEverySize) {
  struct Shape {
    int64_t m, v, k;
  };
  const Shape shapes[] = {{1, 1, 1},       {3, 7, 7},    {7, 65, 3},    {65, 130, 65}, {3, 5000, 256},
                          {2, 30011, 256}, {2, 4096, 1}, {1, 30011, 1}, {300, 513, 1}};
  for (Shape s : shapes) {
    for (xh_dtype dtype : {XH_F32, XH_BF16}) CheckTopK(Random(dtype, {s.m, s.v}, 1), s.k);  // bf16 has many ties
  }
}
TEST(TopK, SelectsFromOrderedAndEqualRows) {
  for (int kind = 0; kind < 3; ++kind) {
    Doubles values;
    for (int i = 0; i < 9000; ++i) values.push_back(kind == 0 ? i : kind == 1 ? -i : 1.0);
    for (int64_t k : {100, 1}) CheckTopK(Of(XH_F32, {1, 9000}, values), k);
  }
  CheckTopK(Of(XH_F32, {2, 4}, {-1.0, -0.0, 0.0, -2.0, -INFINITY, -INFINITY, -INFINITY, -INFINITY}), 1);
  CheckTopK(Of(XH_F32, {1, 6}, {-INFINITY, 0.0, -0.0, INFINITY, -INFINITY, -1.0}), 6);
}
TEST(TopK, ShowsNanFirst) {
  Arg logits = Random(XH_F32, {1, 5000}, 1);
  logits.values[4321] = NAN;
  for (int64_t k : {4, 1}) {
    const TopKResult result = RunTopK(logits, k);
    EXPECT_TRUE(std::isnan(result.values[0]));
    EXPECT_EQ(result.ids[0], 4321);
  }
}
TEST(TopK, RefusesMoreThanTheVocabulary) {
  Op op(XH_OP_TOP_K, xh_top_k_params{XH_SIZED(xh_top_k_params), 9});
  const Outcome outcome =
      OpenOrGap(op, XH_INFER, {Random(XH_F32, {2, 8}, 1), Output(XH_F32, {2, 9}), Output(XH_I32, {2, 9})});
  EXPECT_EQ(outcome.code, XH_INVALID_ARGUMENT);
  EXPECT_TRUE(Names(outcome.message, {"top_k", "9"})) << outcome.message;
}

}  // namespace
}  // namespace xh::test
