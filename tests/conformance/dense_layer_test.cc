// DENSE: a product with the norm before it, the gate and the sum after it. Backends may leave out what they like of it:
// each call by itself.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/conformance/backend_check.h"
#include "tests/conformance/coverage.h"
#include "tests/conformance/oracle_dense.h"

namespace xh::test {
namespace {

enum { kX, kNorm, kW, kBias, kResidual, kY };

struct Size {
  int64_t m, d, f;
};

struct Layer {
  bool norm = false, bias = false, residual = false, gated = false;
  xh_dtype x = XH_F32, w = XH_F32, y = XH_F32;
  int64_t gap = 0;
};
const Layer kPlain, kEverything = {true, true, true, true};

xh_dense_params ParamsOf(const Layer& layer) {
  return {XH_SIZED(xh_dense_params), layer.gated ? XH_DENSE_SWIGLU : XH_DENSE_LINEAR, 1e-5f};
}

std::vector<Arg> ArgsOf(Size s, const Layer& layer) {
  const int64_t n = layer.gated ? 2 * s.f : s.f;
  std::vector<Arg> args = {Random(layer.x, {s.m, s.d}, 1),
                           layer.norm ? Random(layer.w, {s.d}, 2) : Absent(),
                           Random(layer.w, {n, s.d}, 3, 1.0 / std::sqrt(static_cast<double>(s.d))),
                           layer.bias ? Random(layer.w, {n}, 4) : Absent(),
                           layer.residual ? Random(layer.y, {s.m, s.f}, 5) : Absent(),
                           Output(layer.y, {s.m, s.f})};
  for (int i : {kX, kW, kResidual, kY}) args[static_cast<size_t>(i)].gap = layer.gap;
  args[kX].offset = args[kY].offset = layer.gap;
  return args;
}

Doubles Expected(Size s, const Layer& layer, const std::vector<Arg>& args) {
  const int64_t n = layer.gated ? 2 * s.f : s.f;
  Doubles x = args[kX].values;
  if (layer.norm) x = oracle::RmsNorm(x, args[kNorm].values, s.m, s.d, 1e-5f);
  Doubles y = oracle::Matmul(x, args[kW].values, args[kBias].values, s.m, n, s.d);
  if (layer.gated) {
    Doubles gate, up;
    for (int64_t i = 0; i < s.m * n; ++i) (i % n < s.f ? gate : up).push_back(y[static_cast<size_t>(i)]);
    y = oracle::Swiglu(gate, up);
  }
  for (size_t i = 0; i < args[kResidual].values.size(); ++i) y[i] += args[kResidual].values[i];
  return y;
}

// A call that is left out ends the test as a gap, but only when all others were made.
template <class Body>
void EachAlone(const Body& body) {
  try {
    body();
  } catch (const Unsupported&) {
  }
}

void Check(Size s, const Layer& layer) {
  SCOPED_TRACE(testing::Message() << s.m << " x " << s.d << " -> " << s.f << ", norm " << layer.norm << " bias "
                                  << layer.bias << " residual " << layer.residual << " gated " << layer.gated
                                  << " dtypes " << layer.x << layer.w << layer.y << " gap " << layer.gap);
  EachAlone([&] {
    Op op(XH_OP_DENSE, ParamsOf(layer));
    std::vector<Arg> args = ArgsOf(s, layer), again = args;
    const Doubles expected = Expected(s, layer, args);
    MustRun(op, XH_INFER, &args);
    const bool rounds = layer.x == XH_BF16 || layer.w == XH_BF16 || layer.y == XH_BF16;
    const double error = RelativeError(args[kY].values, expected), tolerance = rounds ? 1e-2 : 1e-5;
    CountError(XH_OP_DENSE, DtypeName({layer.x, layer.w, layer.y}), false, error, tolerance);
    EXPECT_LE(error, tolerance);
    MustRun(op, XH_INFER, &again);
    EXPECT_EQ(again[kY].values, args[kY].values) << "differs from run to run";
  });
}

TEST(Dense, TakesOneToNineRows) {
  for (int64_t m = 1; m <= 9; ++m) {
    Check({m, 64, 12}, kPlain);
    Check({m, 64, 12}, {true});
    Check({m, 264, 20}, kEverything);
  }
}
// The last columns of an uneven number, fewer than a kernel makes at a time, and depths that are no whole vectors.
TEST(Dense, TakesUnevenSizes) {
  for (int64_t f : {1, 2, 3, 5, 7, 13, 33}) {
    Check({1, 64, f}, {true, true, true});
    Check({3, 64, f}, kEverything);
    Check({8, 64, f}, kEverything);
  }
  Check({2, 33, 7}, kEverything);
  Check({1, 1, 1}, kEverything);
}
TEST(Dense, TakesEveryPartAloneAndTogether) {
  for (int parts = 0; parts < 16; ++parts) {
    Layer layer = {(parts & 1) != 0, (parts & 2) != 0, (parts & 4) != 0, (parts & 8) != 0};
    Check({1, 96, 40}, layer);
    layer.x = layer.w = layer.y = XH_BF16;
    Check({2, 96, 40}, layer);
  }
}
TEST(Dense, TakesEveryMixOfDtypes) {
  for (xh_dtype x : {XH_F32, XH_BF16}) {
    for (xh_dtype w : {XH_F32, XH_BF16}) {
      for (xh_dtype y : {XH_F32, XH_BF16}) {
        Layer layer = kEverything;
        layer.x = x;
        layer.w = w;
        layer.y = y;
        for (int64_t gap : {0, 1, 8}) {
          layer.gap = gap;
          Check({3, 72, 10}, layer);
        }
      }
    }
  }
}
// More rows of w than a device has warps, sums over many warps, and rows of x that shared memory does not hold at once.
TEST(Dense, MatchesTheOracleInLargeSizes) {
  for (xh_dtype dtype : {XH_F32, XH_BF16}) {
    const Layer layer = {true, true, true, true, dtype, dtype, dtype};
    Check({1, 1032, 5001}, layer);
    Check({1, 8200, 6}, layer);
    Check({2, 4104, 90}, layer);
    Check({4, 14344, 10}, layer);
    Check({8, 14344, 30}, layer);
  }
}

TEST(Dense, AddsToTheResidualInPlace) {
  for (Layer layer : {Layer{false, false, true}, kEverything}) {
    for (Size s : {Size{1, 64, 7}, Size{3, 64, 33}, Size{8, 128, 500}}) {
      EachAlone([&] {
        Op op(XH_OP_DENSE, ParamsOf(layer));
        layer.gap = 3;
        std::vector<Arg> apart = ArgsOf(s, layer);
        apart[kY].offset = 0;
        std::vector<Arg> in_place = apart;
        in_place[kY].alias = kResidual;
        MustRun(op, XH_INFER, &apart);
        MustRun(op, XH_INFER, &in_place);
        EXPECT_EQ(in_place[kY].values, apart[kY].values);
      });
    }
  }
}

// As a library of products may take them: nothing but the sum stands around the product.
TEST(Dense, ManyRowsAddToTheResidual) {
  for (xh_dtype y : {XH_F32, XH_BF16}) {
    for (int64_t gap : {0, 3, 8}) {
      const Layer layer = {false, false, true, false, XH_BF16, XH_BF16, y, gap};
      for (Size s : {Size{9, 64, 40}, Size{64, 256, 128}, Size{130, 72, 24}}) Check(s, layer);
    }
  }
}

TEST(Dense, GatesThatAreShutOrOpenStayFinite) {
  Op op(XH_OP_DENSE, ParamsOf({false, true, false, true}));
  std::vector<Arg> args = {Of(XH_F32, {1, 8}, Doubles(8, 0.0)),
                           Absent(),
                           Random(XH_F32, {8, 8}, 1),
                           Of(XH_F32, {8}, {-200, 200, -90, 90, 1, 1, 1, 1}),
                           Absent(),
                           Output(XH_F32, {1, 4})};
  MustRun(op, XH_INFER, &args);
  EXPECT_NEAR(args[kY].values[0], 0.0, 1e-30);
  EXPECT_EQ(args[kY].values[1], 200.0);
  EXPECT_NEAR(args[kY].values[2], 0.0, 1e-30);
  EXPECT_EQ(args[kY].values[3], 90.0);
}

TEST(Dense, ShowsNan) {
  for (int poisoned = kX; poisoned < kY; ++poisoned) {
    Op op(XH_OP_DENSE, ParamsOf(kEverything));
    std::vector<Arg> args = ArgsOf({2, 64, 8}, kEverything);
    args[static_cast<size_t>(poisoned)].values[3] = std::numeric_limits<double>::quiet_NaN();
    MustRun(op, XH_INFER, &args);
    bool seen = false;
    for (double value : args[kY].values) seen = seen || std::isnan(value);
    EXPECT_TRUE(seen) << "a NaN in input " << poisoned << " does not show";
  }
}

TEST(Dense, WorksOnNoRows) {
  Op op(XH_OP_DENSE, ParamsOf(kEverything));
  std::vector<Arg> args = ArgsOf({0, 64, 8}, kEverything);
  MustRun(op, XH_INFER, &args);
}

TEST(Dense, RefusesWhatDoesNotFit) {
  const auto refusal = [](const xh_dense_params& params, const std::vector<Arg>& args) {
    Op op(XH_OP_DENSE, params);
    return OpenOrGap(op, XH_INFER, args);
  };
  const std::vector<Arg> args = ArgsOf({2, 64, 8}, kEverything);
  xh_dense_params params = ParamsOf(kEverything);
  params.eps = -1.0f;
  const Outcome eps = refusal(params, args);
  EXPECT_EQ(eps.code, XH_INVALID_ARGUMENT);
  EXPECT_TRUE(Names(eps.message, {"eps", "-1"})) << eps.message;
  const Outcome odd = refusal(ParamsOf(kPlain), args);  // 16 rows of w for 8 columns
  EXPECT_EQ(odd.code, XH_INVALID_ARGUMENT);
  EXPECT_TRUE(Names(odd.message, {"w", "16", "8"})) << odd.message;
  std::vector<Arg> wrong = args;
  wrong[kNorm] = Random(XH_F32, {63}, 1);
  EXPECT_EQ(refusal(ParamsOf(kEverything), wrong).code, XH_INVALID_ARGUMENT);
  wrong = args;
  wrong[kW] = Absent();
  EXPECT_EQ(refusal(ParamsOf(kEverything), wrong).code, XH_INVALID_ARGUMENT);
  params = ParamsOf(kEverything);
  params.activation = 7;
  Op unknown(XH_OP_DENSE, params), forward(XH_OP_DENSE, ParamsOf(kEverything));
  EXPECT_EQ(unknown.Open(XH_INFER, args).code, XH_UNSUPPORTED);
  EXPECT_EQ(forward.Open(XH_FORWARD, args).code, XH_UNSUPPORTED);
}

}  // namespace
}  // namespace xh::test
