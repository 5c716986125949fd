#include "core/checkpoint/dtype.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace xh {
namespace {

struct DTypeRow {
  xh_dtype dtype;
  int64_t bytes;
  const char* name;
};
constexpr DTypeRow kDTypes[] = {
    {XH_F32, 4, "f32"}, {XH_F16, 2, "f16"}, {XH_BF16, 2, "bf16"},
    {XH_I32, 4, "i32"}, {XH_I64, 8, "i64"}, {XH_U8, 1, "u8"},
};

const DTypeRow* Find(xh_dtype dtype) {
  for (const DTypeRow& row : kDTypes) {
    if (row.dtype == dtype) return &row;
  }
  return nullptr;
}

template <typename T>
T Load(const void* base, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(base) + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <typename T>
void Store(T value, void* base, int64_t index) {
  std::memcpy(static_cast<char*>(base) + index * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

uint16_t F32ToBF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return static_cast<uint16_t>((nan ? bits | 0x400000 : rounded) >> 16);  // a NaN is made quiet, so that it stays one
}

template <typename T>
T Saturated(float value) {
  if (std::isnan(value)) return 0;
  const double rounded = std::nearbyint(static_cast<double>(value));
  // The limits as doubles: the upper one of int64_t rounds up to 2^63, hence >=.
  if (rounded >= static_cast<double>(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
  if (rounded <= static_cast<double>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
  return static_cast<T>(rounded);
}

template <typename T>
void IntegersToF32(const void* in, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(Load<T>(in, i));
}

template <typename T>
void IntegersFromF32(const float* in, int64_t n, void* out) {
  for (int64_t i = 0; i < n; ++i) Store(Saturated<T>(in[i]), out, i);
}

#if defined(__x86_64__)
bool HasF16c() {
  static const bool has = [] {
    unsigned a, b, c, d;  // by cpuid: older clangs do not know the name "f16c"
    return __builtin_cpu_supports("avx") && __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
  }();
  return has;
}

// Whole groups of eight; returns how many elements were converted.
__attribute__((target("avx,f16c"))) int64_t HalvesToF32(const void* in, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const char* at = static_cast<const char*>(in) + 2 * i;
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
  }
  return i;
}

__attribute__((target("avx,f16c"))) int64_t HalvesFromF32(const float* in, int64_t n, void* out) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<char*>(out) + 2 * i), halves);
  }
  return i;
}
#else
bool HasF16c() { return false; }
int64_t HalvesToF32(const void*, int64_t, float*) { return 0; }
int64_t HalvesFromF32(const float*, int64_t, void*) { return 0; }
#endif

}  // namespace

int64_t DTypeBytes(xh_dtype dtype) {
  const DTypeRow* row = Find(dtype);
  return row != nullptr ? row->bytes : 0;
}

const char* DTypeName(xh_dtype dtype) {
  const DTypeRow* row = Find(dtype);
  return row != nullptr ? row->name : "unknown";
}

StatusOr<xh_dtype> ParseDType(const std::string& name) {
  for (const DTypeRow& row : kDTypes) {
    if (name == row.name) return row.dtype;
  }
  return InvalidArgument("dtype \"", name, "\" is not known; allowed: f32, f16, bf16, i32, i64, u8");
}

int64_t ElementCount(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (int64_t extent : shape) count *= extent;
  return count;
}

StatusOr<int64_t> TensorBytes(xh_dtype dtype, const std::vector<int64_t>& shape) {
  int64_t padded = DTypeBytes(dtype);
  if (padded == 0) return InvalidArgument("dtype ", dtype, " is not known; allowed: ", XH_F32, " to ", XH_U8);
  if (shape.size() > XH_MAX_RANK) {
    return InvalidArgument("shape has ", shape.size(), " dimensions; allowed: at most ", XH_MAX_RANK);
  }
  bool empty = false;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 0) return InvalidArgument("dimension ", i, " is ", shape[i], "; allowed: 0 or more");
    empty = empty || shape[i] == 0;
    if (shape[i] > 0 && __builtin_mul_overflow(padded, shape[i], &padded)) {
      return InvalidArgument("the product of the dimensions does not fit 63 bits");
    }
  }
  return empty ? 0 : padded;
}

float F16ToF32(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t fraction = half & 0x3ff;
  if (exponent == 0) {  // zero and subnormals: fraction * 2^-24, exact in f32
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  if (exponent == 31) {  // infinity, or a NaN made quiet
    return std::bit_cast<float>(sign | 0x7f800000 | fraction << 13 | (fraction != 0 ? 0x400000u : 0u));
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t F32ToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
  if (magnitude >= 0x47800000) return sign | 0x7c00;  // 2^16 and more
  if (magnitude < 0x38800000) {                       // below 2^-14: a subnormal, counted in 2^-24
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24f;
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(scaled)));
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);  // may carry into the exponent, up to infinity
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

void ToF32(xh_dtype from, const void* in, int64_t n, float* out) {
  switch (from) {
    case XH_F32:
      if (n > 0) std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
      break;
    case XH_F16:
      for (int64_t i = HasF16c() ? HalvesToF32(in, n, out) : 0; i < n; ++i) out[i] = F16ToF32(Load<uint16_t>(in, i));
      break;
    case XH_BF16:
      for (int64_t i = 0; i < n; ++i) {
        out[i] = std::bit_cast<float>(static_cast<uint32_t>(Load<uint16_t>(in, i)) << 16);
      }
      break;
    case XH_I32:
      IntegersToF32<int32_t>(in, n, out);
      break;
    case XH_I64:
      IntegersToF32<int64_t>(in, n, out);
      break;
    case XH_U8:
      IntegersToF32<uint8_t>(in, n, out);
      break;
    default:
      break;
  }
}

void FromF32(const float* in, int64_t n, xh_dtype to, void* out) {
  switch (to) {
    case XH_F32:
      if (n > 0) std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
      break;
    case XH_F16:
      for (int64_t i = HasF16c() ? HalvesFromF32(in, n, out) : 0; i < n; ++i) Store(F32ToF16(in[i]), out, i);
      break;
    case XH_BF16:
      for (int64_t i = 0; i < n; ++i) Store(F32ToBF16(in[i]), out, i);
      break;
    case XH_I32:
      IntegersFromF32<int32_t>(in, n, out);
      break;
    case XH_I64:
      IntegersFromF32<int64_t>(in, n, out);
      break;
    case XH_U8:
      IntegersFromF32<uint8_t>(in, n, out);
      break;
    default:
      break;
  }
}

}  // namespace xh
