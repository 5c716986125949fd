#include <bit>
#include <cstring>

#include "core/checkpoint/digest.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace xh {
namespace {

constexpr size_t kBlock = 64;

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes (FIPS 180-4, 4.2.2).
alignas(16) constexpr uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t LoadBigEndian(const uint8_t* at) {
  return static_cast<uint32_t>(at[0]) << 24 | static_cast<uint32_t>(at[1]) << 16 | static_cast<uint32_t>(at[2]) << 8 |
         at[3];
}

void StoreBigEndian(uint64_t value, int bytes, uint8_t* out) {
  for (int i = 0; i < bytes; ++i) out[i] = static_cast<uint8_t>(value >> (8 * (bytes - 1 - i)));
}

#if defined(__x86_64__)
bool HasShaInstructions() {
  static const bool has = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __builtin_cpu_supports("sse4.1") && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & (1u << 29)) != 0;
  }();
  return has;
}

// Four rounds a step. The instructions hold the state as (a, b, e, f) and (c, d, g, h), first name in the highest lane.
__attribute__((target("sha,sse4.1"))) void BlocksWithSha(uint32_t* state, const uint8_t* data, size_t blocks) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bll, 0x0405060700010203ll);
  auto lane = [](uint32_t word) { return static_cast<int>(word); };
  __m128i abef = _mm_set_epi32(lane(state[0]), lane(state[1]), lane(state[4]), lane(state[5]));
  __m128i cdgh = _mm_set_epi32(lane(state[2]), lane(state[3]), lane(state[6]), lane(state[7]));
  for (; blocks > 0; --blocks, data += kBlock) {
    const __m128i abef_before = abef;
    const __m128i cdgh_before = cdgh;
    __m128i w[4];
    for (int i = 0; i < 4; ++i) {
      w[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data) + i), swap);
    }
    for (int step = 0; step < 16; ++step) {
      __m128i& now = w[step & 3];
      const __m128i wk = _mm_add_epi32(now, _mm_load_si128(reinterpret_cast<const __m128i*>(kRound) + step));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0e));
      // The schedule runs 16 words ahead; in the last four steps its result is not used.
      const __m128i last = w[(step + 3) & 3];
      const __m128i seven_back = _mm_alignr_epi8(last, w[(step + 2) & 3], 4);
      now = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(now, w[(step + 1) & 3]), seven_back), last);
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  uint32_t high[4], low[4];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(high), abef);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(low), cdgh);
  state[0] = high[3], state[1] = high[2], state[4] = high[1], state[5] = high[0];
  state[2] = low[3], state[3] = low[2], state[6] = low[1], state[7] = low[0];
}
#endif

void Blocks(uint32_t* state, const uint8_t* data, size_t blocks) {
#if defined(__x86_64__)
  if (HasShaInstructions()) return BlocksWithSha(state, data, blocks);
#endif
  Sha256BlocksPortable(state, data, blocks);
}

}  // namespace

void Sha256BlocksPortable(uint32_t* state, const uint8_t* data, size_t blocks) {
  for (; blocks > 0; --blocks, data += kBlock) {
    uint32_t w[64];
    for (int t = 0; t < 16; ++t) w[t] = LoadBigEndian(data + 4 * t);
    for (int t = 16; t < 64; ++t) {
      const uint32_t s0 = std::rotr(w[t - 15], 7) ^ std::rotr(w[t - 15], 18) ^ (w[t - 15] >> 3);
      const uint32_t s1 = std::rotr(w[t - 2], 17) ^ std::rotr(w[t - 2], 19) ^ (w[t - 2] >> 10);
      w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0; t < 64; ++t) {
      const uint32_t sum1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
      const uint32_t t1 = h + sum1 + ((e & f) ^ (~e & g)) + kRound[t] + w[t];
      const uint32_t sum0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
      const uint32_t t2 = sum0 + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1;
      d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
  }
}

void Sha256::Update(const void* data, size_t bytes) {
  const uint8_t* at = static_cast<const uint8_t*>(data);
  const size_t waiting = total_ % kBlock;
  total_ += bytes;
  if (waiting > 0) {
    const size_t taken = bytes < kBlock - waiting ? bytes : kBlock - waiting;
    if (taken > 0) std::memcpy(pending_.data() + waiting, at, taken);
    if (waiting + taken < kBlock) return;
    Blocks(state_.data(), pending_.data(), 1);
    at += taken;
    bytes -= taken;
  }
  Blocks(state_.data(), at, bytes / kBlock);
  if (bytes % kBlock > 0) std::memcpy(pending_.data(), at + bytes / kBlock * kBlock, bytes % kBlock);
}

Sha256::Digest Sha256::Finish() {
  const uint64_t bits = total_ * 8;
  uint8_t padding[2 * kBlock] = {0x80};
  const size_t waiting = total_ % kBlock;
  const size_t length = (waiting < 56 ? 56 : 120) - waiting;  // the bit count ends a block
  StoreBigEndian(bits, 8, padding + length);
  Update(padding, length + 8);
  Digest digest;
  for (int i = 0; i < 8; ++i) StoreBigEndian(state_[i], 4, digest.data() + 4 * i);
  return digest;
}

}  // namespace xh
