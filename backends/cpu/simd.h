// The vector of this instruction set and what ops do with it. Op files are compiled once for each set, so everything
// lives in xh::cpu::XH_ISA. A Vec has the arithmetic, comparison and ?: operators of GCC vectors; a scalar operand is
// broadcast. Pointers need only the alignment of their element.
#ifndef XHYBRID_BACKENDS_CPU_SIMD_H_
#define XHYBRID_BACKENDS_CPU_SIMD_H_

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace xh::cpu::XH_ISA {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif
using Vec = float __attribute__((vector_size(4 * kLanes)));
using IVec = int32_t __attribute__((vector_size(4 * kLanes)));   // comparisons give -1 and 0
using UVec = uint32_t __attribute__((vector_size(4 * kLanes)));  // bits of a Vec
using HVec = uint16_t __attribute__((vector_size(2 * kLanes)));  // bits of kLanes bfloat16

// The upper half of a float. Conversion from float rounds to nearest even and keeps NaN.
struct BF16 {
  uint16_t bits;
};

inline float ToFloat(float x) { return x; }
inline float ToFloat(BF16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
template <class T>
inline T FromFloat(float x);
template <>
inline float FromFloat<float>(float x) {
  return x;
}
template <>
inline BF16 FromFloat<BF16>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  if (x != x) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};  // a NaN whose payload would round to infinity
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

inline Vec Set(float x) { return x - Vec{}; }  // not x + Vec{}: that would turn -0 into +0

inline Vec Load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline void Store(float* p, Vec v) { std::memcpy(p, &v, sizeof(v)); }

inline Vec Widen(HVec bits) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(bits)), 16));
#else
  return reinterpret_cast<Vec>(__builtin_convertvector(bits, UVec) << 16);
#endif
}
inline HVec Narrow(Vec v) {
  const UVec bits = reinterpret_cast<UVec>(v);
  const UVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const UVec kept = v != v ? (bits >> 16) | 0x40u : rounded;
#if defined(__AVX2__) && !defined(__AVX512F__)
  const __m256i packed = _mm256_packus_epi32(reinterpret_cast<__m256i>(kept), reinterpret_cast<__m256i>(kept));
  return reinterpret_cast<HVec>(_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
#else
  return __builtin_convertvector(kept, HVec);
#endif
}
inline Vec Load(const BF16* p) {
  HVec bits;
  std::memcpy(&bits, p, sizeof(bits));
  return Widen(bits);
}
inline void Store(BF16* p, Vec v) {
  const HVec bits = Narrow(v);
  std::memcpy(p, &bits, sizeof(bits));
}

// The first `count` lanes, 0 <= count <= kLanes; the others are zero, their memory is not touched.
#if defined(__AVX512F__)
inline Vec LoadPartial(const float* p, int count) {
  return reinterpret_cast<Vec>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), p));
}
inline void StorePartial(float* p, Vec v, int count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1u), reinterpret_cast<__m512>(v));
}
#elif defined(__AVX2__)
inline __m256i FirstLanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec LoadPartial(const float* p, int count) {
  return reinterpret_cast<Vec>(_mm256_maskload_ps(p, FirstLanes(count)));
}
inline void StorePartial(float* p, Vec v, int count) {
  _mm256_maskstore_ps(p, FirstLanes(count), reinterpret_cast<__m256>(v));
}
#else
inline Vec LoadPartial(const float* p, int count) {
  Vec v{};
  for (int i = 0; i < count; ++i) v[i] = p[i];
  return v;
}
inline void StorePartial(float* p, Vec v, int count) {
  for (int i = 0; i < count; ++i) p[i] = v[i];
}
#endif
inline Vec LoadPartial(const BF16* p, int count) {
  HVec bits{};
  for (int i = 0; i < count; ++i) bits[i] = p[i].bits;
  return Widen(bits);
}
inline void StorePartial(BF16* p, Vec v, int count) {
  const HVec bits = Narrow(v);
  for (int i = 0; i < count; ++i) p[i].bits = bits[i];
}

inline Vec Fma(Vec a, Vec b, Vec c) {  // a * b + c, one rounding where the set has it
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(
      _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__AVX2__)
  return reinterpret_cast<Vec>(
      _mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
  return a * b + c;
#endif
}

inline float Fma(float a, float b, float c) {  // rounds as a lane of the above
#if defined(__FMA__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

inline Vec Max(Vec a, Vec b) { return a > b ? a : b; }  // b where either is NaN
inline Vec Min(Vec a, Vec b) { return a < b ? a : b; }  // b where either is NaN

// Over the lanes, in a fixed order.
#if defined(__AVX2__)
using HalfVec = float __attribute__((vector_size(2 * kLanes)));
#if defined(__AVX512F__)
inline float Sum(HalfVec v) {
  float __attribute__((vector_size(16))) quarter =
      __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
  return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}
inline float Max(HalfVec v) {
  float __attribute__((vector_size(16))) a = __builtin_shufflevector(v, v, 0, 1, 2, 3);
  float __attribute__((vector_size(16))) b = __builtin_shufflevector(v, v, 4, 5, 6, 7);
  a = a > b ? a : b;
  const float left = a[0] > a[2] ? a[0] : a[2], right = a[1] > a[3] ? a[1] : a[3];
  return left > right ? left : right;
}
inline float Sum(Vec v) {
  return Sum(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
             __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
}
inline float Max(Vec v) {
  const HalfVec a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
  const HalfVec b = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  return Max(a > b ? a : b);
}
#else
inline float Sum(Vec v) {
  const HalfVec half = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
  return (half[0] + half[2]) + (half[1] + half[3]);
}
inline float Max(Vec v) {
  const HalfVec a = __builtin_shufflevector(v, v, 0, 1, 2, 3), b = __builtin_shufflevector(v, v, 4, 5, 6, 7);
  const HalfVec half = a > b ? a : b;
  const float left = half[0] > half[2] ? half[0] : half[2], right = half[1] > half[3] ? half[1] : half[3];
  return left > right ? left : right;
}
#endif
#else
inline float Sum(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline float Max(Vec v) {
  const float left = v[0] > v[2] ? v[0] : v[2], right = v[1] > v[3] ? v[1] : v[3];
  return left > right ? left : right;
}
#endif

// e^x within 2 ulp where the result is normal; gradual underflow; 0 at -inf, inf past 88.73, NaN at NaN.
inline Vec Exp(Vec x) {
  // e^-104 rounds to 0 and e^89 to inf; NaN fails both comparisons and stays.
  x = x < -104.0f ? Set(-104.0f) : x;
  x = x > 89.0f ? Set(89.0f) : x;
  // x = n ln 2 + r, |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer, whose bits then stand in the low bits.
  constexpr float kMagic = 12582912.0f;
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;  // 10 bits: n times it is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  const Vec shifted = Fma(x, Set(kLog2E), Set(kMagic));
  const IVec n = reinterpret_cast<IVec>(shifted) - reinterpret_cast<IVec>(Set(kMagic));
  const Vec whole = shifted - kMagic;
  Vec r = Fma(whole, Set(-kLn2High), x);
  r = Fma(whole, Set(-kLn2Low), r);
  // The series to r^7 / 7!: the rest is below 6e-9 on this interval.
  Vec p = Fma(r, Set(1.0f / 5040.0f), Set(1.0f / 720.0f));
  p = Fma(p, r, Set(1.0f / 120.0f));
  p = Fma(p, r, Set(1.0f / 24.0f));
  p = Fma(p, r, Set(1.0f / 6.0f));
  p = Fma(p, r, Set(0.5f));
  p = Fma(p * r, r, r) + 1.0f;
  // 2^n in two factors, so that subnormal results and overflow need no cases.
  const IVec half = n >> 1;
  const Vec first = reinterpret_cast<Vec>((half + 127) << 23);
  const Vec second = reinterpret_cast<Vec>((n - half + 127) << 23);
  return p * first * second;
}

}  // namespace xh::cpu::XH_ISA

#endif  // XHYBRID_BACKENDS_CPU_SIMD_H_
