#include "core/checkpoint/digest.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/escaping.h"

namespace xh {
namespace {

std::string HexSha256(const std::string& text) {
  Sha256 sha;
  sha.Update(text.data(), text.size());
  const Sha256::Digest digest = sha.Finish();
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

// FIPS 180-4 examples (NIST).
TEST(Sha256Test, GivesThePublishedDigests) {
  EXPECT_EQ(HexSha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(HexSha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(HexSha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(
      HexSha256("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopq"
                "rstnopqrstu"),
      "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
  EXPECT_EQ(HexSha256(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256Test, DoesNotDependOnHowTheBytesArrive) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>(i * 7);
  for (size_t length = 0; length <= text.size(); ++length) {
    const std::string whole = text.substr(0, length);
    Sha256 sha;
    for (size_t at = 0, step = 1; at < length; at += step, step = step % 67 + 1) {
      sha.Update(whole.data() + at, std::min(step, length - at));
    }
    const Sha256::Digest digest = sha.Finish();
    EXPECT_EQ(absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size())),
              HexSha256(whole))
        << length;
  }
}

TEST(Sha256Test, PlainAndHardwareCompressionAgree) {
  // "abc" padded to one block: the compression of the initial state is the digest of "abc".
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t block[64] = {'a', 'b', 'c', 0x80};
  block[63] = 24;
  Sha256BlocksPortable(state, block, 1);
  const uint32_t expected[8] = {0xba7816bf, 0x8f01cfea, 0x414140de, 0x5dae2223,
                                0xb00361a3, 0x96177a9c, 0xb410ff61, 0xf20015ad};
  for (int i = 0; i < 8; ++i) EXPECT_EQ(state[i], expected[i]) << i;
}

// RFC 3720, appendix B.4, and the check value of the CRC catalogue.
TEST(Crc32cTest, GivesThePublishedChecksums) {
  std::string ascending, descending;
  for (int i = 0; i < 32; ++i) ascending += static_cast<char>(i), descending += static_cast<char>(31 - i);
  const struct {
    std::string bytes;
    uint32_t crc;
  } cases[] = {{"", 0},
               {"123456789", 0xe3069283},
               {std::string(32, '\0'), 0x8a9136aa},
               {std::string(32, '\xff'), 0x62a8ab43},
               {ascending, 0x46dd794e},
               {descending, 0x113fdb5c}};
  for (const auto& c : cases) {
    EXPECT_EQ(Crc32c(c.bytes.data(), c.bytes.size()), c.crc);
    EXPECT_EQ(Crc32cPortable(c.bytes.data(), c.bytes.size()), c.crc);
  }
}

TEST(Crc32cTest, ContinuesFromASeedAtEverySplitAndAlignment) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += static_cast<char>(i * 31 + 5);
  const uint32_t whole = Crc32cPortable(text.data(), text.size());
  for (size_t split = 0; split <= text.size(); ++split) {
    const uint32_t first = Crc32c(text.data(), split);
    EXPECT_EQ(Crc32c(text.data() + split, text.size() - split, first), whole) << split;
    EXPECT_EQ(Crc32cPortable(text.data(), split), first) << split;
  }
}

}  // namespace
}  // namespace xh
