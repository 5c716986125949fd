#include "core/checkpoint/file.h"

#include <sys/stat.h>
#include <unistd.h>

#include "core/checkpoint/names.h"
#include "tests/checkpoint/sample.h"
#include "tests/checkpoint/scratch.h"

namespace xh {
namespace {

using namespace test;  // NOLINT: the helpers of this directory

TEST(FileTest, OpensRegularFilesOnlyAndFollowsLinksWhenAsked) {
  Scratch scratch;
  WriteBytes(scratch / "file", "0123456789");
  ASSERT_EQ(::symlink("file", (scratch / "link").c_str()), 0);
  ASSERT_EQ(::mkfifo((scratch / "pipe").c_str(), 0600), 0);
  EXPECT_OK(File::OpenRead(scratch / "file", Links::kRefuse).status());
  EXPECT_OK(File::OpenRead(scratch / "link", Links::kFollow).status());
  EXPECT_TRUE(Fails(File::OpenRead(scratch / "link", Links::kRefuse).status(), XH_CORRUPT, "is a symbolic link"));
  EXPECT_TRUE(Fails(File::OpenRead(scratch / "pipe", Links::kFollow).status(), XH_CORRUPT, "not a regular file"));
  EXPECT_TRUE(Fails(File::OpenRead("/dev/zero", Links::kFollow).status(), XH_CORRUPT, "not a regular file"));
  EXPECT_TRUE(Fails(File::OpenRead(scratch / "no", Links::kFollow).status(), XH_NOT_FOUND, "no: No such file"));
  EXPECT_TRUE(Fails(File::OpenDirectory(scratch / "file").status(), XH_IO, "Not a directory"));
}

TEST(FileTest, ReadsExactlyWhatIsAskedOrSaysWhereTheFileEnds) {
  Scratch scratch;
  WriteBytes(scratch / "file", "0123456789");
  auto file = File::OpenRead(scratch / "file", Links::kRefuse);
  ASSERT_OK(file.status());
  EXPECT_EQ(*file->Size(), 10);
  std::string part(4, '?');
  ASSERT_OK(file->ReadAt(3, part.data(), 4));
  EXPECT_EQ(part, "3456");
  EXPECT_TRUE(Fails(file->ReadAt(8, part.data(), 4), XH_CORRUPT, "ends at byte 10; 2 more bytes are expected"));
}

TEST(FileTest, CreateNeverOpensWhatExists) {
  Scratch scratch;
  auto directory = File::OpenDirectory(scratch.path());
  ASSERT_OK(directory.status());
  auto file = File::CreateAt(*directory, "new");
  ASSERT_OK(file.status());
  ASSERT_OK(file->Write("abc", 3));
  ASSERT_OK(file->Sync());
  ASSERT_OK(file->Close());
  EXPECT_EQ(ReadBytes(scratch / "new"), "abc");
  EXPECT_TRUE(Fails(File::CreateAt(*directory, "new").status(), XH_IO, "new: File exists"));
  ASSERT_EQ(::symlink("elsewhere", (scratch / "link").c_str()), 0);
  EXPECT_TRUE(Fails(File::CreateAt(*directory, "link").status(), XH_IO, "link: File exists"));
}

TEST(RegionTest, MapsAndCopiesTheSameBytes) {
  Scratch scratch;
  WriteBytes(scratch / "file", std::string(4096, 'a') + "bcd");
  Region mapped, copied, fallen_back, empty;
  {
    auto file = File::OpenRead(scratch / "file", Links::kRefuse);
    ASSERT_OK(file.status());
    mapped = *Region::Map(*file, 4096, 3);
    copied = *Region::Copy(*file, 4096, 3);
    EXPECT_TRUE(Fails(Region::Map(*file, 4095, 3).status(), XH_IO, "cannot map"));
    fallen_back = *Region::MapOrCopy(*file, 4095, 3);  // no mapping begins there
    empty = *Region::Map(*file, 0, 0);
    EXPECT_TRUE(Fails(Region::Copy(*file, 4096, 4).status(), XH_CORRUPT, "ends at byte 4099"));
    EXPECT_TRUE(Fails(Region::Copy(*file, 0, INT64_MAX).status(), XH_OUT_OF_MEMORY, "cannot hold"));
  }
  const auto text = [](const Region& region) {
    return std::string(reinterpret_cast<const char*>(region.data()), static_cast<size_t>(region.bytes()));
  };
  EXPECT_EQ(text(mapped), "bcd");
  EXPECT_EQ(text(copied), "bcd");
  EXPECT_EQ(text(fallen_back), "abc");
  EXPECT_NE(empty.data(), nullptr);
  EXPECT_EQ(Region().data(), nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(copied.data()) % 4096, 0u);
}

TEST(NamesTest, Utf8IsCheckedStrictly) {
  for (const char* good : {"", "a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(IsUtf8(good)) << good;
  }
  // Lone continuation, overlong forms, surrogate, beyond U+10FFFF, cut short.
  for (const char* bad : {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xed\xa0\x80",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xc3", "\xe2\x82", "\xc3(", "\xff"}) {
    EXPECT_FALSE(IsUtf8(bad)) << Quoted(bad);
  }
}

TEST(NamesTest, QuotedTextIsOneShortLine) {
  EXPECT_EQ(Quoted("a\xc3\xa9"), "\"a\xc3\xa9\"");
  EXPECT_EQ(Quoted(std::string("a\n\0\xff", 4)), "\"a???\"");
  EXPECT_EQ(Quoted(std::string(1000, 'x')), "\"" + std::string(120, 'x') + "...\"");
}

}  // namespace
}  // namespace xh
