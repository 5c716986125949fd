#include "core/checkpoint/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "tests/checkpoint/sample.h"

namespace xh {
namespace {

using test::Fails;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(DTypeTest, NamesAndSizesGoBothWays) {
  const struct {
    xh_dtype dtype;
    const char* name;
    int64_t bytes;
  } cases[] = {{XH_F32, "f32", 4}, {XH_F16, "f16", 2}, {XH_BF16, "bf16", 2},
               {XH_I32, "i32", 4}, {XH_I64, "i64", 8}, {XH_U8, "u8", 1}};
  for (const auto& c : cases) {
    EXPECT_STREQ(DTypeName(c.dtype), c.name);
    EXPECT_EQ(DTypeBytes(c.dtype), c.bytes);
    ASSERT_TRUE(ParseDType(c.name).ok());
    EXPECT_EQ(*ParseDType(c.name), c.dtype);
  }
  EXPECT_EQ(DTypeBytes(0), 0);
  EXPECT_STREQ(DTypeName(99), "unknown");
  EXPECT_TRUE(Fails(ParseDType("f8").status(), XH_INVALID_ARGUMENT, "dtype \"f8\" is not known; allowed: f32"));
}

TEST(DTypeTest, TensorBytesRefusesWhatDoesNotFit) {
  EXPECT_EQ(*TensorBytes(XH_BF16, {3, 5}), 30);
  EXPECT_EQ(*TensorBytes(XH_I64, {}), 8);
  EXPECT_EQ(*TensorBytes(XH_F32, {7, 0, 9}), 0);
  EXPECT_TRUE(Fails(TensorBytes(0, {1}).status(), XH_INVALID_ARGUMENT, "dtype 0"));
  EXPECT_TRUE(Fails(TensorBytes(XH_F32, {2, -1}).status(), XH_INVALID_ARGUMENT, "dimension 1 is -1"));
  EXPECT_TRUE(Fails(TensorBytes(XH_F32, {1, 1, 1, 1, 1, 1, 1}).status(), XH_INVALID_ARGUMENT, "7 dimensions"));
  EXPECT_TRUE(Fails(TensorBytes(XH_F32, {1ll << 31, 1ll << 31}).status(), XH_INVALID_ARGUMENT, "63 bits"));
  EXPECT_TRUE(Fails(TensorBytes(XH_U8, {1ll << 62, 0, 1ll << 62}).status(), XH_INVALID_ARGUMENT, "63 bits"));
}

// All 65,536 halves, through the array form (hardware where present) and the plain form.
TEST(DTypeTest, EveryHalfSurvivesTheWayThroughF32) {
  std::vector<uint16_t> halves(65536), back(65536);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  std::vector<float> values(halves.size());
  ToF32(XH_F16, halves.data(), 65536, values.data());
  FromF32(values.data(), 65536, XH_F16, back.data());
  for (size_t i = 0; i < halves.size(); ++i) {
    const bool nan = (i & 0x7c00) == 0x7c00 && (i & 0x3ff) != 0;
    EXPECT_EQ(back[i], nan ? i | 0x200 : i);  // a signalling NaN becomes quiet
    EXPECT_EQ(std::bit_cast<uint32_t>(F16ToF32(halves[i])), std::bit_cast<uint32_t>(values[i])) << i;
    EXPECT_EQ(F32ToF16(values[i]), back[i]) << i;
  }
}

TEST(DTypeTest, HalvesRoundToNearestEven) {
  const struct {
    float value;
    uint16_t half;
  } cases[] = {{1.0f, 0x3c00},
               {-2.0f, 0xc000},
               {65504.0f, 0x7bff},
               {65519.996f, 0x7bff},
               {65520.0f, 0x7c00},
               {1e30f, 0x7c00},
               {-kInfinity, 0xfc00},
               {1.0f + 0x1p-11f, 0x3c00},             // halfway, down to even
               {1.0f + 3 * 0x1p-11f, 0x3c02},         // halfway, up to even
               {1.0f + 0x1p-11f + 0x1p-20f, 0x3c01},  // just above halfway
               {0x1p-14f, 0x0400},
               {0x1p-24f, 0x0001},
               {0x1p-25f, 0x0000},
               {0x1.8p-25f, 0x0001},
               {-0.0f, 0x8000}};
  for (const auto& c : cases) {
    const std::vector<float> eight(8, c.value);
    std::vector<uint16_t> out(8);
    FromF32(eight.data(), 8, XH_F16, out.data());
    EXPECT_EQ(out[0], c.half) << c.value;
    EXPECT_EQ(F32ToF16(c.value), c.half) << c.value;
  }
}

TEST(DTypeTest, PlainAndArrayRoundingAgreeOnAllExponents) {
  std::vector<float> values;
  for (uint32_t top = 0; top < 0x10000; ++top) {
    for (uint32_t low : {0u, 1u, 0x0fffu, 0x1000u, 0x1001u, 0x2fffu, 0x3000u, 0xffffu}) {
      values.push_back(std::bit_cast<float>(top << 16 | low));
    }
  }
  std::vector<uint16_t> halves(values.size());
  FromF32(values.data(), static_cast<int64_t>(values.size()), XH_F16, halves.data());
  for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(F32ToF16(values[i]), halves[i]) << values[i];
}

TEST(DTypeTest, BF16RoundsToNearestEvenAndKeepsNaN) {
  const float nan_low_bits = std::bit_cast<float>(0x7f800001u);  // its upper half alone would be infinity
  const struct {
    float value;
    uint16_t bits;
  } cases[] = {{1.0f, 0x3f80},
               {std::bit_cast<float>(0x3f808000u), 0x3f80},  // halfway, down to even
               {std::bit_cast<float>(0x3f818000u), 0x3f82},  // halfway, up to even
               {std::bit_cast<float>(0x3f808001u), 0x3f81},
               {std::numeric_limits<float>::max(), 0x7f80},
               {kInfinity, 0x7f80},
               {-kInfinity, 0xff80},
               {nan_low_bits, 0x7fc0}};
  for (const auto& c : cases) {
    uint16_t out = 0;
    FromF32(&c.value, 1, XH_BF16, &out);
    EXPECT_EQ(out, c.bits) << c.value;
  }
  for (uint32_t i = 0; i < 0x10000; ++i) {
    const uint16_t bits = static_cast<uint16_t>(i);
    float value = 0;
    uint16_t back = 0;
    ToF32(XH_BF16, &bits, 1, &value);
    FromF32(&value, 1, XH_BF16, &back);
    EXPECT_EQ(back, std::isnan(value) ? bits | 0x40 : bits);
  }
}

TEST(DTypeTest, IntegersRoundAndSaturate) {
  const float values[] = {2.5f, -3.5f, 1e30f, -1e30f, std::numeric_limits<float>::quiet_NaN()};
  int32_t i32[5];
  int64_t i64[5];
  uint8_t u8[5];
  FromF32(values, 5, XH_I32, i32);
  FromF32(values, 5, XH_I64, i64);
  FromF32(values, 5, XH_U8, u8);
  EXPECT_THAT(i32, ::testing::ElementsAre(2, -4, INT32_MAX, INT32_MIN, 0));
  EXPECT_THAT(i64, ::testing::ElementsAre(2, -4, INT64_MAX, INT64_MIN, 0));
  EXPECT_THAT(u8, ::testing::ElementsAre(2, 0, 255, 0, 0));
  float back[5];
  ToF32(XH_U8, u8, 5, back);
  EXPECT_THAT(back, ::testing::ElementsAre(2, 0, 255, 0, 0));
}

TEST(DTypeTest, UnalignedArraysAreConverted) {
  std::vector<char> bytes(1 + 2 * 19);
  for (int i = 0; i < 19; ++i) {
    const uint16_t half = F32ToF16(static_cast<float>(i));
    std::memcpy(bytes.data() + 1 + 2 * i, &half, 2);
  }
  std::vector<float> out(19);
  ToF32(XH_F16, bytes.data() + 1, 19, out.data());
  for (int i = 0; i < 19; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], static_cast<float>(i));
}

}  // namespace
}  // namespace xh
