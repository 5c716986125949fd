// MATMUL: every kernel behind it, every mix of dtypes.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/conformance/backend_check.h"
#include "tests/conformance/oracle_dense.h"

namespace xh::test {
namespace {

struct Shape {
  int64_t m, n, k;
};

struct Layout {
  xh_dtype x = XH_F32, w = XH_F32, y = XH_F32;
  bool bias = true;
  int64_t gap = 0;
};

Case MatmulCase(Shape s, Layout layout) {
  Case c;
  c.op = XH_OP_MATMUL;
  Arg x = Random(layout.x, {s.m, s.k}, 1), w = Random(layout.w, {s.n, s.k}, 2, 0.3), y = Output(layout.y, {s.m, s.n});
  x.gap = y.gap = layout.gap;
  w.gap = 2 * layout.gap;
  x.offset = w.offset = layout.gap;
  c.inputs = {x, w, layout.bias ? Random(layout.w, {s.n}, 3) : Absent()};
  c.outputs = {y};
  c.needs_inputs = 0b011;
  c.differentiable = layout.bias ? 0b111 : 0b011;
  c.parameters = 0b110;
  c.forward = [s](const std::vector<Doubles>& in) {
    return std::vector<Doubles>{oracle::Matmul(in[0], in[1], in[2], s.m, s.n, s.k)};
  };
  if (layout.x == XH_BF16 || layout.w == XH_BF16 || layout.y == XH_BF16) UseBf16Tolerance(&c);
  return c;
}

void CheckAll(Shape s, Layout layout) {
  SCOPED_TRACE(testing::Message() << s.m << " x " << s.n << " x " << s.k << " dtypes " << layout.x << layout.w
                                  << layout.y << " bias " << layout.bias << " gap " << layout.gap);
  CheckOp(MatmulCase(s, layout));
}

const Shape kSmall[] = {{1, 1, 1},  {1, 7, 3},  {3, 1, 7},   {4, 65, 33},
                        {7, 3, 65}, {65, 7, 3}, {13, 9, 17}, {33, 31, 10}};
// For each kind of kernel that the cpu backend has: streaming weights, streaming rows, and blocks of every kind in all
// three sizes.
const Shape kLarge[] = {{2, 300, 200}, {900, 3, 65}, {150, 130, 70}, {97, 200, 30}};

TEST(Matmul, MatchesTheOracleInSmallShapes) {
  for (Shape s : kSmall) {
    CheckAll(s, {});
    CheckAll(s, {XH_F32, XH_F32, XH_F32, false, 3});
  }
}
TEST(Matmul, MatchesTheOracleInLargeShapes) {
  for (Shape s : kLarge) CheckAll(s, {});
}
TEST(Matmul, TakesEveryMixOfDtypes) {
  for (xh_dtype x : {XH_F32, XH_BF16}) {
    for (xh_dtype w : {XH_F32, XH_BF16}) {
      for (xh_dtype y : {XH_F32, XH_BF16}) {
        for (Shape s : {Shape{3, 33, 17}, Shape{33, 3, 17}, Shape{13, 18, 9}}) CheckAll(s, {x, w, y, true, 1});
      }
    }
  }
}
// Long sums and many blocks, against the oracle directly: y, dx and dw at sizes where every block loop runs several
// times.
void CheckBlocks(Shape s, xh_dtype dtype, double tolerance) {
  SCOPED_TRACE(testing::Message() << s.m << " x " << s.n << " x " << s.k << " dtype " << dtype);
  const Arg x = Random(dtype, {s.m, s.k}, 1), w = Random(dtype, {s.n, s.k}, 2), dy = Random(dtype, {s.m, s.n}, 3);
  Op op(XH_OP_MATMUL);
  std::vector<Arg> forward = {x, w, Absent(), Output(dtype, {s.m, s.n})};
  MustRun(op, XH_FORWARD, &forward);
  EXPECT_LE(RelativeError(forward[3].values, oracle::Matmul(x.values, w.values, {}, s.m, s.n, s.k)), tolerance);
  std::vector<Arg> backward = {
      x, w, Absent(), Absent(), dy, Output(dtype, {s.m, s.k}), Output(XH_F32, {s.n, s.k}), Absent()};
  MustRun(op, XH_BACKWARD, &backward);
  const auto transposed = [](const Doubles& a, int64_t rows, int64_t columns) {
    Doubles out(a.size());
    for (int64_t i = 0; i < rows * columns; ++i) {
      out[static_cast<size_t>(i % columns * rows + i / columns)] = a[static_cast<size_t>(i)];
    }
    return out;
  };
  const Doubles w_t = transposed(w.values, s.n, s.k), x_t = transposed(x.values, s.m, s.k);
  const Doubles dy_t = transposed(dy.values, s.m, s.n);
  EXPECT_LE(RelativeError(backward[5].values, oracle::Matmul(dy.values, w_t, {}, s.m, s.k, s.n)), tolerance);
  EXPECT_LE(RelativeError(backward[6].values, oracle::Matmul(dy_t, x_t, {}, s.n, s.k, s.m)), tolerance);
}

TEST(Matmul, LongSumsStayAccurate) {
  const Shape shapes[] = {{1100, 70, 90}, {70, 1100, 90}, {70, 90, 1100}};
  for (Shape s : shapes) CheckBlocks(s, XH_F32, 1e-5);
  for (Shape s : shapes) CheckBlocks(s, XH_BF16, 1e-2);
}

TEST(Matmul, FrozenWeightsNeedNoInput) {
  Op op(XH_OP_MATMUL);
  const Arg w = Random(XH_F32, {5, 7}, 1), dy = Random(XH_F32, {9, 5}, 2);
  std::vector<Arg> args = {Absent(), w, Absent(), Absent(), dy, Output(XH_F32, {9, 7}), Absent(), Absent()};
  MustRun(op, XH_BACKWARD, &args);
  for (int64_t i = 0; i < 9 * 7; ++i) {
    double sum = 0.0;
    for (int64_t n = 0; n < 5; ++n) {
      sum += dy.values[static_cast<size_t>(i / 7 * 5 + n)] * w.values[static_cast<size_t>(n * 7 + i % 7)];
    }
    EXPECT_NEAR(args[5].values[static_cast<size_t>(i)], sum, 1e-5);
  }
  args[6] = Output(XH_F32, {5, 7});
  const Outcome outcome = op.Open(XH_BACKWARD, args);
  EXPECT_EQ(outcome.code, XH_INVALID_ARGUMENT);
  EXPECT_TRUE(Names(outcome.message, {"x"})) << outcome.message;
}

TEST(Matmul, EmptyBatchGivesZeroGradients) {
  Op op(XH_OP_MATMUL);
  std::vector<Arg> forward = {Of(XH_F32, {0, 4}, {}), Random(XH_F32, {3, 4}, 1), Absent(), Output(XH_F32, {0, 3})};
  MustRun(op, XH_FORWARD, &forward);
  std::vector<Arg> backward = {
      Of(XH_F32, {0, 4}, {}), Random(XH_F32, {3, 4}, 1), Absent(),           Absent(), Of(XH_F32, {0, 3}, {}),
      Output(XH_F32, {0, 4}), Output(XH_F32, {3, 4}),    Output(XH_F32, {3})};
  MustRun(op, XH_BACKWARD, &backward);
  EXPECT_EQ(backward[6].values, Doubles(12, 0.0));
  EXPECT_EQ(backward[7].values, Doubles(3, 0.0));
}

TEST(Matmul, InfinityAndNanPassThrough) {
  for (Shape s : {Shape{2, 20, 16}, Shape{20, 2, 16}, Shape{20, 20, 16}}) {
    Op op(XH_OP_MATMUL);
    Arg x = Of(XH_F32, {s.m, s.k}, Doubles(static_cast<size_t>(s.m * s.k), 1.0));
    x.values[0] = INFINITY;
    x.values[static_cast<size_t>(s.k)] = NAN;
    std::vector<Arg> args = {x, Of(XH_F32, {s.n, s.k}, Doubles(static_cast<size_t>(s.n * s.k), 1.0)), Absent(),
                             Output(XH_F32, {s.m, s.n})};
    MustRun(op, XH_INFER, &args);
    EXPECT_EQ(args[3].values[0], INFINITY);
    EXPECT_TRUE(std::isnan(args[3].values[static_cast<size_t>(s.n)]));
  }
}

}  // namespace
}  // namespace xh::test
