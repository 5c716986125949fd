// The vectors and tiles that the sequence mixers are built on. Compiled once for each instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "backends/cpu/simd.h"
#include "backends/cpu/tile_copy.h"
#include "backends/cpu/tile_gemm.h"

namespace xh::cpu::XH_ISA {
namespace {

class Vectors : public testing::Test {
 protected:
  void SetUp() override {
#if defined(__AVX512F__)
    if (!__builtin_cpu_supports("avx512f")) GTEST_SKIP() << "this machine has no AVX-512";
#elif defined(__AVX2__)
    if (!__builtin_cpu_supports("avx2")) GTEST_SKIP() << "this machine has no AVX2";
#endif
  }
};
using Tiles = Vectors;

float FromBits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

TEST_F(Vectors, ExpIsWithinTwoUlp) {
  double worst = 0.0;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 1009) {
    const float x = FromBits(static_cast<uint32_t>(bits));
    if (!(x > -87.3f && x < 88.7f)) continue;
    const double exact = std::exp(static_cast<double>(x));
    const double ulp = std::ldexp(1.0, std::ilogb(exact) - 23);
    worst = std::max(worst, std::fabs(static_cast<double>(Exp(Set(x))[0]) - exact) / ulp);
  }
  EXPECT_LE(worst, 2.0);
}

TEST_F(Vectors, ExpAtTheEdges) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Exp(Set(-infinity))[0], 0.0f);
  EXPECT_EQ(Exp(Set(-1e30f))[0], 0.0f);
  EXPECT_EQ(Exp(Set(-104.5f))[0], 0.0f);
  EXPECT_EQ(Exp(Set(0.0f))[0], 1.0f);
  EXPECT_EQ(Exp(Set(-0.0f))[0], 1.0f);
  EXPECT_EQ(Exp(Set(88.73f))[0], infinity);
  EXPECT_EQ(Exp(Set(infinity))[0], infinity);
  EXPECT_TRUE(std::isnan(Exp(Set(std::numeric_limits<float>::quiet_NaN()))[kLanes - 1]));
  EXPECT_NEAR(Exp(Set(-100.0f))[0] / 3.783505e-44f, 1.0f, 0.05f);  // subnormal: 27 units of the smallest
}

TEST_F(Vectors, BfloatRoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(FromFloat<BF16>(FromBits(0x3f808000u)).bits, 0x3f80u);  // a tie goes to the even neighbour
  EXPECT_EQ(FromFloat<BF16>(FromBits(0x3f818000u)).bits, 0x3f82u);
  EXPECT_EQ(FromFloat<BF16>(FromBits(0x3f808001u)).bits, 0x3f81u);
  EXPECT_EQ(FromFloat<BF16>(FromBits(0x7f7fffffu)).bits, 0x7f80u);  // past the largest: infinity
  EXPECT_TRUE(std::isnan(ToFloat(FromFloat<BF16>(FromBits(0x7f800001u)))));
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 65521) {
    const float x = FromBits(static_cast<uint32_t>(bits));
    BF16 stored[kLanes];
    Store(stored, Set(x));
    EXPECT_EQ(stored[kLanes - 1].bits, FromFloat<BF16>(x).bits) << bits;
    if (!std::isnan(x)) {
      EXPECT_EQ(Load(stored)[0], ToFloat(stored[0]));
    }
  }
}

TEST_F(Vectors, PartialAccessTouchesTheFirstLanesOnly) {
  for (int count = 0; count <= kLanes; ++count) {
    std::vector<float> from(static_cast<size_t>(count), 3.0f), to(kLanes + 1, -1.0f);
    std::vector<BF16> half(kLanes, BF16{0x4000});
    const Vec v = LoadPartial(from.data(), count);
    StorePartial(to.data(), v + 1.0f, count);
    StorePartial(half.data(), v, count);
    for (int i = 0; i < kLanes; ++i) {
      EXPECT_EQ(v[i], i < count ? 3.0f : 0.0f);
      EXPECT_EQ(to[static_cast<size_t>(i)], i < count ? 4.0f : -1.0f);
      EXPECT_EQ(half[static_cast<size_t>(i)].bits, i < count ? 0x4040u : 0x4000u);
    }
    EXPECT_EQ(Sum(LoadPartial(half.data(), count)), 3.0f * static_cast<float>(count));
  }
}

TEST_F(Vectors, SumAndMaxSeeEveryLane) {
  for (int lane = 0; lane < kLanes; ++lane) {
    Vec v = Vec{};
    v[lane] = 5.0f;
    EXPECT_EQ(Sum(v), 5.0f);
    EXPECT_EQ(Max(v), 5.0f);
    EXPECT_EQ(Max(-v), kLanes == 1 ? -5.0f : 0.0f);
  }
}

std::vector<float> RandomTile(int64_t rows, int64_t stride, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<float> tile(static_cast<size_t>(rows * stride));
  for (float& x : tile) x = uniform(generator);
  return tile;
}

struct Product {
  int64_t m, n, k;
};

TEST_F(Tiles, ProductsOfEveryRemainder) {
  for (const Product& p : {Product{1, 1, 1}, Product{3, 5, 2}, Product{6, 16, 7}, Product{7, 17, 9},
                           Product{13, 40, 33}, Product{16, 64, 64}, Product{64, 33, 20}, Product{5, 12, 0}}) {
    const int64_t a_stride = TileStride(std::max(p.m, p.k)), stride = TileStride(p.n);
    const std::vector<float> a = RandomTile(std::max(p.m, p.k), a_stride, 1), b = RandomTile(p.k, stride, 2);
    for (bool transposed : {false, true}) {
      for (bool accumulate : {false, true}) {
        std::vector<float> c = RandomTile(p.m, stride, 3);
        const std::vector<float> before = c;
        TileGemm(p.m, p.n, p.k, transposed ? Transposed(a.data(), a_stride) : Plain(a.data(), a_stride), b.data(),
                 stride, c.data(), stride, accumulate);
        for (int64_t i = 0; i < p.m; ++i) {
          for (int64_t j = 0; j < stride; ++j) {
            const size_t at = static_cast<size_t>(i * stride + j);
            if (j >= PaddedColumns(p.n)) {
              ASSERT_EQ(c[at], before[at]) << "wrote past the padding";
              continue;
            }
            double exact = accumulate ? static_cast<double>(before[at]) : 0.0;
            for (int64_t e = 0; e < p.k; ++e) {
              exact += static_cast<double>(a[static_cast<size_t>(transposed ? e * a_stride + i : i * a_stride + e)]) *
                       static_cast<double>(b[static_cast<size_t>(e * stride + j)]);
            }
            ASSERT_NEAR(static_cast<double>(c[at]), exact, 1e-5) << p.m << " x " << p.n << " x " << p.k;
          }
        }
      }
    }
  }
}

TEST_F(Tiles, TranspositionOfEveryRemainder) {
  for (int64_t rows : {1, 3, 4, 6, 17}) {
    for (int64_t columns : {1, 2, 4, 7, 20}) {
      const std::vector<float> from = RandomTile(rows, columns, 1);
      std::vector<float> to(static_cast<size_t>(columns * (rows + 1)), 9.0f);
      Transpose(from.data(), columns, rows, columns, to.data(), rows + 1);
      for (int64_t c = 0; c < columns; ++c) {
        for (int64_t r = 0; r < rows; ++r) {
          EXPECT_EQ(to[static_cast<size_t>(c * (rows + 1) + r)], from[static_cast<size_t>(r * columns + c)]);
        }
        EXPECT_EQ(to[static_cast<size_t>(c * (rows + 1) + rows)], 9.0f);
      }
    }
  }
}

}  // namespace
}  // namespace xh::cpu::XH_ISA
