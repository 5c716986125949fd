// Writing and reading as intended, and damage to a file that was right.
#include <fcntl.h>
#include <unistd.h>

#include <thread>

#include "core/checkpoint/reader.h"
#include "core/checkpoint/writer.h"
#include "tests/checkpoint/sample.h"
#include "tests/checkpoint/scratch.h"

namespace xh {
namespace {

using namespace test;  // NOLINT: the helpers of this directory

TEST(CheckpointTest, GivesBackWhatWasWritten) {
  Scratch scratch;
  ASSERT_OK(WriteSample(scratch / "a.xhy", 1.5f));
  EXPECT_OK(CheckSample(scratch / "a.xhy", 1.5f));
  EXPECT_OK(CheckSample(scratch / "a.xhy", 1.5f, LoadMode::kCopy));
  EXPECT_EQ(List(scratch.path()), std::vector<std::string>{"a.xhy"});
  EXPECT_EQ(List(scratch / "a.xhy"), (std::vector<std::string>{"manifest.xhy", "tensors-00000.bin"}));
  auto reader = CheckpointReader::Open(scratch / "a.xhy/");  // as shells complete it
  ASSERT_OK(reader.status());
  EXPECT_EQ((*reader)->metadata().at("tokenizer/tokenizer.model"), std::string("\0\xff\x80 any bytes", 13));
  EXPECT_THAT((*reader)->producer(), ::testing::StartsWith("libxhybrid "));
  EXPECT_EQ((*reader)->directory(), scratch / "a.xhy/");
  EXPECT_TRUE(Fails((*reader)->Data("absent").status(), XH_NOT_FOUND, "no tensor \"absent\""));
  EXPECT_EQ((*reader)->Find("absent"), nullptr);
}

TEST(CheckpointTest, TensorsAreSortedAndAligned) {
  Scratch scratch;
  ASSERT_OK(WriteSample(scratch / "a.xhy", 0));
  auto reader = CheckpointReader::Open(scratch / "a.xhy");
  ASSERT_OK(reader.status());
  std::vector<std::string> names;
  for (const TensorEntry& tensor : (*reader)->tensors()) {
    names.push_back(tensor.name);
    EXPECT_EQ(tensor.offset % 4096, 0u);
  }
  EXPECT_THAT(names, ::testing::ElementsAre("blocks.0.gate", "empty", "model.embed", "scalar", "stage/bytes"));
}

TEST(CheckpointTest, ACheckpointWithoutTensorsIsAllowed) {
  Scratch scratch;
  auto writer = CheckpointWriter::Open(scratch / "a.xhy");
  ASSERT_OK(writer.status());
  (*writer)->SetMetadata("config", "{}");
  ASSERT_OK((*writer)->Commit());
  auto reader = CheckpointReader::Open(scratch / "a.xhy");
  ASSERT_OK(reader.status());
  EXPECT_TRUE((*reader)->tensors().empty());
  EXPECT_OK((*reader)->Verify());
}

TEST(CheckpointTest, StreamedPiecesEqualOneCall) {
  Scratch scratch;
  const std::vector<float> values = Ramp(700000, 0);  // more than two chunks of the writer
  const int64_t bytes = 4 * 700000;
  auto whole = CheckpointWriter::Open(scratch / "whole.xhy");
  ASSERT_OK(whole.status());
  ASSERT_OK((*whole)->AddTensor("w", XH_F32, {700, 1000}, values.data()));
  ASSERT_OK((*whole)->Commit());
  auto pieces = CheckpointWriter::Open(scratch / "pieces.xhy");
  ASSERT_OK(pieces.status());
  ASSERT_OK((*pieces)->BeginTensor("w", XH_F32, {700, 1000}));
  const char* from = reinterpret_cast<const char*>(values.data());
  for (int64_t at = 0; at < bytes; at += 123457) {
    ASSERT_OK((*pieces)->Append(from + at, std::min<int64_t>(123457, bytes - at)));
  }
  ASSERT_OK((*pieces)->EndTensor());
  ASSERT_OK((*pieces)->Commit());
  for (const char* file : {"manifest.xhy", "tensors-00000.bin"}) {
    EXPECT_EQ(ReadBytes(scratch / "whole.xhy" + "/" + file), ReadBytes(scratch / "pieces.xhy" + "/" + file));
  }
}

TEST(CheckpointTest, TheSameContentGivesTheSameBytes) {
  Scratch scratch;
  ASSERT_OK(WriteSample(scratch / "a.xhy", 3));
  ASSERT_OK(WriteSample(scratch / "b.xhy", 3));
  for (const std::string& file : List(scratch / "a.xhy")) {
    EXPECT_EQ(ReadBytes(scratch / "a.xhy/" + file), ReadBytes(scratch / "b.xhy/" + file)) << file;
  }
}

TEST(CheckpointTest, ShardsCloseAtTheirSizeAndATensorNeverSpansTwo) {
  Scratch scratch;
  const std::vector<float> values = Ramp(3000, 0);
  WriteOptions options;
  options.shard_bytes = 8192;
  auto writer = CheckpointWriter::Open(scratch / "a.xhy", options);
  ASSERT_OK(writer.status());
  ASSERT_OK((*writer)->AddTensor("a", XH_F32, {1000}, values.data()));  // 4,000 bytes
  ASSERT_OK((*writer)->AddTensor("b", XH_F32, {1024}, values.data()));  // up to 8,192 exactly
  ASSERT_OK((*writer)->AddTensor("c", XH_F32, {1}, values.data()));     // does not fit
  ASSERT_OK((*writer)->AddTensor("d", XH_F32, {3000}, values.data()));  // larger than a shard
  ASSERT_OK((*writer)->AddTensor("e", XH_F32, {2}, values.data()));
  ASSERT_OK((*writer)->Commit());
  for (LoadMode mode : {LoadMode::kMap, LoadMode::kCopy}) {
    auto reader = CheckpointReader::Open(scratch / "a.xhy", mode);
    ASSERT_OK(reader.status());
    std::vector<uint32_t> shards;
    for (const TensorEntry& tensor : (*reader)->tensors()) {
      shards.push_back(tensor.shard);
      auto data = (*reader)->Data(tensor.name);
      ASSERT_OK(data.status());
      EXPECT_EQ(std::memcmp(*data, values.data(), static_cast<size_t>(tensor.bytes)), 0);
    }
    EXPECT_THAT(shards, ::testing::ElementsAre(0, 0, 1, 2, 3));
    EXPECT_OK((*reader)->Verify());
  }
}

TEST(CheckpointTest, WriterRefusesMisuseAndStaysUsable) {
  Scratch scratch;
  auto opened = CheckpointWriter::Open(scratch / "a.xhy");
  ASSERT_OK(opened.status());
  CheckpointWriter& writer = **opened;
  const float value[2] = {1, 2};
  EXPECT_TRUE(Fails(writer.Append(value, 4), XH_INVALID_STATE, "no tensor is begun"));
  EXPECT_TRUE(Fails(writer.EndTensor(), XH_INVALID_STATE, "no tensor is begun"));
  EXPECT_TRUE(Fails(writer.AddTensor("", XH_F32, {1}, value), XH_INVALID_ARGUMENT, "tensor name is empty"));
  EXPECT_TRUE(Fails(writer.AddTensor("a\nb", XH_F32, {1}, value), XH_INVALID_ARGUMENT, "\"a?b\" holds a control"));
  EXPECT_TRUE(Fails(writer.AddTensor("\xc0\xaf", XH_F32, {1}, value), XH_INVALID_ARGUMENT, "not UTF-8"));
  EXPECT_TRUE(Fails(writer.AddTensor("t", 7, {1}, value), XH_INVALID_ARGUMENT, "tensor \"t\": dtype 7"));
  EXPECT_TRUE(Fails(writer.AddTensor("t", XH_F32, {-1}, value), XH_INVALID_ARGUMENT, "dimension 0 is -1"));
  ASSERT_OK(writer.BeginTensor("t", XH_F32, {2}));
  EXPECT_TRUE(Fails(writer.BeginTensor("u", XH_F32, {1}), XH_INVALID_STATE, "\"t\" is not ended"));
  EXPECT_TRUE(Fails(writer.Append(value, 12), XH_INVALID_ARGUMENT, "12 bytes; allowed: 0 to 8"));
  EXPECT_TRUE(Fails(writer.Append(value, -1), XH_INVALID_ARGUMENT, "-1 bytes"));
  ASSERT_OK(writer.Append(value, 4));
  EXPECT_TRUE(Fails(writer.EndTensor(), XH_INVALID_STATE, "4 of its 8 bytes"));
  EXPECT_TRUE(Fails(writer.Commit(), XH_INVALID_STATE, "not ended"));
  ASSERT_OK(writer.Append(value + 1, 4));
  ASSERT_OK(writer.EndTensor());
  EXPECT_TRUE(Fails(writer.AddTensor("t", XH_F32, {1}, value), XH_INVALID_ARGUMENT, "added twice"));
  ASSERT_OK(writer.Commit());
  EXPECT_TRUE(Fails(writer.Commit(), XH_INVALID_STATE, "is committed"));
  EXPECT_TRUE(Fails(writer.AddTensor("v", XH_F32, {1}, value), XH_INVALID_STATE, "is committed"));
  WriteOptions absurd;
  absurd.shard_bytes = 0;
  EXPECT_TRUE(
      Fails(CheckpointWriter::Open(scratch / "b.xhy", absurd).status(), XH_INVALID_ARGUMENT, "shard_bytes is 0"));
}

TEST(CheckpointTest, AManifestThatNoReaderWouldAcceptIsNotWritten) {
  Scratch scratch;
  auto writer = CheckpointWriter::Open(scratch / "a.xhy");
  ASSERT_OK(writer.status());
  (*writer)->SetMetadata("large", std::string((64 << 20) + 1, 'x'));
  EXPECT_TRUE(Fails((*writer)->Commit(), XH_INVALID_ARGUMENT, "allowed: at most 67108864"));
  EXPECT_TRUE(List(scratch.path()).empty());
  writer = CheckpointWriter::Open(scratch / "a.xhy");
  ASSERT_OK(writer.status());
  (*writer)->SetMetadata("", "value");
  EXPECT_TRUE(Fails((*writer)->Commit(), XH_INVALID_ARGUMENT, "metadata key is empty"));
}

TEST(CheckpointTest, DataIsSafeFromManyThreads) {
  Scratch scratch;
  ASSERT_OK(WriteSample(scratch / "a.xhy", 7));
  for (LoadMode mode : {LoadMode::kMap, LoadMode::kCopy}) {
    auto reader = CheckpointReader::Open(scratch / "a.xhy", mode);
    ASSERT_OK(reader.status());
    std::vector<const void*> seen(8);
    std::vector<std::thread> threads;
    for (const void*& mine : seen) {
      threads.emplace_back([&mine, &reader] {
        for (const SampleTensor& tensor : SampleTensors(7)) {
          auto data = (*reader)->Data(tensor.name);
          if (data.ok() && tensor.name == "model.embed") mine = *data;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_NE(seen[0], nullptr);
    for (const void* data : seen) EXPECT_EQ(data, seen[0]);
  }
}

TEST(CheckpointTest, AnOpenReaderOutlivesAReplacement) {
  Scratch scratch;
  ASSERT_OK(WriteSample(scratch / "a.xhy", 1));
  for (LoadMode mode : {LoadMode::kMap, LoadMode::kCopy}) {
    auto reader = CheckpointReader::Open(scratch / "a.xhy", mode);
    ASSERT_OK(reader.status());
    auto before = (*reader)->Data("model.embed");
    ASSERT_OK(before.status());
    const float first = *static_cast<const float*>(*before);
    WriteOptions options;
    options.replace = true;
    ASSERT_OK(WriteSample(scratch / "a.xhy", first + 10, options));
    EXPECT_EQ(*static_cast<const float*>(*before), first);
    EXPECT_OK((*reader)->Verify());
    EXPECT_OK(CheckSample(scratch / "a.xhy", first + 10));
  }
}

TEST(DamageTest, TruncationAtEveryByteIsRefused) {
  Scratch scratch;
  ASSERT_OK(WriteSample(scratch / "a.xhy", 2));
  for (const std::string& file : List(scratch / "a.xhy")) {
    const std::string path = scratch / "a.xhy/" + file;
    const std::string bytes = ReadBytes(path);
    for (size_t size = bytes.size(); size-- > 0;) {
      ASSERT_EQ(::truncate(path.c_str(), static_cast<off_t>(size)), 0);
      ASSERT_TRUE(Fails(CheckpointReader::Open(scratch / "a.xhy").status(), XH_CORRUPT, file)) << size;
    }
    WriteBytes(path, bytes + '\0');
    EXPECT_TRUE(Fails(CheckpointReader::Open(scratch / "a.xhy").status(), XH_CORRUPT, file));
    WriteBytes(path, bytes);
    ASSERT_OK(CheckSample(scratch / "a.xhy", 2));
  }
}

TEST(DamageTest, EveryFlippedBitOfTheManifestIsRefused) {
  Scratch scratch;
  ASSERT_OK(WriteSample(scratch / "a.xhy", 2));
  const std::string path = scratch / "a.xhy/manifest.xhy";
  const std::string bytes = ReadBytes(path);
  const int descriptor = ::open(path.c_str(), O_WRONLY);
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    const char flipped = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    ASSERT_EQ(::pwrite(descriptor, &flipped, 1, static_cast<off_t>(bit / 8)), 1);
    const Status status = CheckpointReader::Open(scratch / "a.xhy").status();
    ASSERT_TRUE(CodeOf(status) == XH_CORRUPT || CodeOf(status) == XH_INCOMPATIBLE) << bit << ": " << status.ToString();
    ASSERT_EQ(::pwrite(descriptor, &bytes[bit / 8], 1, static_cast<off_t>(bit / 8)), 1);
  }
  ::close(descriptor);
  EXPECT_OK(CheckSample(scratch / "a.xhy", 2));
}

TEST(DamageTest, EveryFlippedByteOfAShardIsFoundByVerifyAndThoseOfATensorByData) {
  Scratch scratch;
  ASSERT_OK(WriteSample(scratch / "a.xhy", 2));
  const std::string path = scratch / "a.xhy/tensors-00000.bin";
  const std::string bytes = ReadBytes(path);
  auto reader = CheckpointReader::Open(scratch / "a.xhy");
  ASSERT_OK(reader.status());
  const int descriptor = ::open(path.c_str(), O_WRONLY);
  int64_t in_tensors = 0;
  for (size_t at = 0; at < bytes.size(); ++at) {
    const char flipped = static_cast<char>(bytes[at] ^ 0x10);
    const TensorEntry* hit = nullptr;
    for (const TensorEntry& tensor : (*reader)->tensors()) {
      if (at >= tensor.offset && at < tensor.offset + static_cast<uint64_t>(tensor.bytes)) hit = &tensor;
    }
    in_tensors += hit != nullptr;
    if (hit == nullptr && at % 61 != 0) continue;  // padding: a sample of its bytes
    ASSERT_EQ(::pwrite(descriptor, &flipped, 1, static_cast<off_t>(at)), 1);
    ASSERT_TRUE(Fails((*reader)->Verify(), XH_CORRUPT, hit != nullptr ? hit->name : "padding byte")) << at;
    if (hit != nullptr) {
      for (LoadMode mode : {LoadMode::kMap, LoadMode::kCopy}) {
        auto fresh = CheckpointReader::Open(scratch / "a.xhy", mode);
        ASSERT_OK(fresh.status());
        for (int use = 0; use < 2; ++use) {
          ASSERT_TRUE(Fails((*fresh)->Data(hit->name).status(), XH_CORRUPT, "\"" + hit->name + "\" in"));
        }
      }
    }
    ASSERT_EQ(::pwrite(descriptor, &bytes[at], 1, static_cast<off_t>(at)), 1);
  }
  ::close(descriptor);
  EXPECT_EQ(in_tensors, 24 + 10 + 8 + 3);
  EXPECT_OK((*reader)->Verify());
}

TEST(DamageTest, VerifyFindsAShardThatShrankAfterOpening) {
  Scratch scratch;
  ASSERT_OK(WriteSample(scratch / "a.xhy", 2));
  auto reader = CheckpointReader::Open(scratch / "a.xhy", LoadMode::kCopy);
  ASSERT_OK(reader.status());
  ASSERT_EQ(::truncate((scratch / "a.xhy/tensors-00000.bin").c_str(), 10), 0);
  EXPECT_TRUE(Fails((*reader)->Verify(), XH_CORRUPT, "has 10 bytes; the manifest says"));
  EXPECT_TRUE(Fails((*reader)->Data("model.embed").status(), XH_CORRUPT, "ends at byte 10"));
}

}  // namespace
}  // namespace xh
