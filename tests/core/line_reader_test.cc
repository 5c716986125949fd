// Lines of files that are gzip'd or not.
#include "core/line_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <filesystem>

#include "tests/files.h"

namespace xh {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Gzipped(const std::string& text) {
  z_stream z = {};
  EXPECT_EQ(deflateInit2(&z, Z_BEST_SPEED, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&z, text.size()), '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  z.avail_in = static_cast<uInt>(text.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

class LineReaderTest : public ::testing::Test {
 protected:
  LineReaderTest() : path_(::testing::TempDir() + "/line_reader_test." + std::to_string(::getpid())) {}
  ~LineReaderTest() override { std::filesystem::remove(path_); }

  StatusOr<std::vector<std::string>> Read(const std::string& bytes) {
    test_files::WriteText(path_, bytes);
    XH_ASSIGN_OR_RETURN(LineReader reader, LineReader::Open(path_));
    std::vector<std::string> all, block;
    int64_t first = 0;
    do {
      XH_RETURN_IF_ERROR(reader.NextBlock(&block, &first));
      EXPECT_EQ(first, static_cast<int64_t>(all.size()) + 1);
      all.insert(all.end(), block.begin(), block.end());
    } while (!block.empty());
    EXPECT_EQ(reader.bytes(), static_cast<int64_t>(bytes.size()));
    EXPECT_EQ(reader.bytes_read(), reader.bytes());
    digest_ = reader.Digest();
    return all;
  }
  Status Fails(const std::string& bytes) { return Read(bytes).status(); }

  std::string path_, digest_;
};

TEST_F(LineReaderTest, AGzippedFileHasTheLinesOfThePlainOne) {
  for (const std::string& text : {std::string("\xEF\xBB\xBFone\r\n\ntwo\nthree"), std::string("\n"), std::string()}) {
    const StatusOr<std::vector<std::string>> plain = Read(text), gzipped = Read(Gzipped(text));
    ASSERT_TRUE(plain.ok() && gzipped.ok()) << plain.status() << gzipped.status();
    EXPECT_EQ(*gzipped, *plain);
  }
  EXPECT_THAT(*Read(Gzipped("\xEF\xBB\xBFone\r\n\ntwo\nthree")), ElementsAre("one", "", "two", "three"));
}

TEST_F(LineReaderTest, TheDigestIsOfTheFileAsItLiesThere) {
  ASSERT_TRUE(Read("abc").ok());
  EXPECT_EQ(digest_, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  ASSERT_TRUE(Read(Gzipped("abc")).ok());
  EXPECT_NE(digest_, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_F(LineReaderTest, MembersThatFollowEachOtherAreOneText) {
  EXPECT_THAT(*Read(Gzipped("one\ntw") + Gzipped("") + Gzipped("o\nthree\n")), ElementsAre("one", "two", "three"));
}

// 24 MB from 100 kB: many times what is inflated at once comes out of one piece of the file.
TEST_F(LineReaderTest, TextMuchLongerThanItsFileIsReadToItsEnd) {
  const std::string line(79, 'x');
  std::string text;
  for (int i = 0; i < 300000; ++i) text += line + "\n";
  const StatusOr<std::vector<std::string>> lines = Read(Gzipped(text));
  ASSERT_TRUE(lines.ok()) << lines.status();
  EXPECT_EQ(lines->size(), 300000u);
  EXPECT_EQ(lines->back(), line);
}

TEST_F(LineReaderTest, AFileThatEndsInsideItsGzippedDataIsCorrupt) {
  const std::string whole = Gzipped("one\ntwo\nthree\n");
  for (size_t bytes = 2; bytes < whole.size(); ++bytes) {
    const Status status = Fails(whole.substr(0, bytes));
    EXPECT_EQ(CodeOf(status), XH_CORRUPT) << bytes << " bytes: " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path_ + " ends within its gzip'd data"));
  }
}

TEST_F(LineReaderTest, DamagedGzippedDataAndWhatFollowsThemAreCorrupt) {
  std::string damaged = Gzipped("one\ntwo\nthree\n");
  damaged[damaged.size() - 6] ^= 1;  // of its checksum
  for (const std::string& bytes : {damaged, Gzipped("one\n") + "two\n", std::string("\x1F\x8B\x07")}) {
    const Status status = Fails(bytes);
    EXPECT_EQ(CodeOf(status), XH_CORRUPT) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
  }
}

TEST_F(LineReaderTest, ALineBeyondTheLimitIsRefusedWhereverItComesFrom) {
  const Status status = Fails(Gzipped("one\n" + std::string(70ll << 20, 'x')));
  EXPECT_EQ(CodeOf(status), XH_INVALID_ARGUMENT) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(path_ + ":2: the line is longer than 67108864 bytes"));
}

}  // namespace
}  // namespace xh
