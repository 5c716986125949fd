// Digests of stored bytes. They detect damage, not malice: whoever can write the bytes can write the digest.
#ifndef XHYBRID_CORE_CHECKPOINT_DIGEST_H_
#define XHYBRID_CORE_CHECKPOINT_DIGEST_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace xh {

// SHA-256 (FIPS 180-4) of a stream of bytes. Uses the processor's SHA instructions where present. One thread at a time.
class Sha256 {
 public:
  using Digest = std::array<uint8_t, 32>;

  void Update(const void* data, size_t bytes);
  // The digest of everything so far. The object must not be used afterwards.
  Digest Finish();

 private:
  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> pending_ = {};  // the first total_ % 64 bytes wait for a full block
  uint64_t total_ = 0;
};

// CRC-32C (Castagnoli, RFC 3720 appendix B.4). `seed` is the result for the bytes before, so that
// Crc32c(b, nb, Crc32c(a, na)) is the checksum of a followed by b. Any thread.
uint32_t Crc32c(const void* data, size_t bytes, uint32_t seed = 0);
// The same by table, on any processor: what Crc32c uses where SSE4.2 is missing.
uint32_t Crc32cPortable(const void* data, size_t bytes, uint32_t seed = 0);

// One SHA-256 compression of `blocks` blocks of 64 bytes into `state`, in plain C++: what Sha256 uses where the
// processor has no SHA instructions.
void Sha256BlocksPortable(uint32_t* state, const uint8_t* data, size_t blocks);

}  // namespace xh

#endif  // XHYBRID_CORE_CHECKPOINT_DIGEST_H_
