#include "core/checkpoint/safetensors.h"

#include <unistd.h>

#include "core/checkpoint/dtype.h"
#include "tests/checkpoint/sample.h"
#include "tests/checkpoint/scratch.h"

namespace xh {
namespace {

using namespace test;  // NOLINT: the helpers of this directory

std::string Framed(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

// Opens a file with this content.
StatusOr<std::shared_ptr<SafetensorsReader>> OpenBytes(const Scratch& scratch, const std::string& bytes) {
  WriteBytes(scratch / "t.safetensors", bytes);
  return SafetensorsReader::Open(scratch / "t.safetensors");
}

Status OpenHeader(const std::string& header, size_t data_bytes) {
  Scratch scratch;
  return OpenBytes(scratch, Framed(header, std::string(data_bytes, 'd'))).status();
}

TEST(SafetensorsTest, GivesBackWhatWasWritten) {
  Scratch scratch;
  std::vector<SafeTensorData> tensors;
  const std::vector<SampleTensor> sample = SampleTensors(4);
  for (const SampleTensor& tensor : sample) {
    tensors.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.bytes.data()});
  }
  ASSERT_OK(WriteSafetensors(scratch / "model.safetensors", tensors, {{"format", "pt"}}));
  EXPECT_EQ(List(scratch.path()), std::vector<std::string>{"model.safetensors"});
  for (const std::string& path : {scratch / "model.safetensors", scratch.path()}) {
    auto reader = SafetensorsReader::Open(path);
    ASSERT_OK(reader.status());
    ASSERT_EQ((*reader)->tensors().size(), sample.size());
    EXPECT_EQ((*reader)->file_metadata().at("format"), "pt");
    for (const SampleTensor& tensor : sample) {
      const SafeTensor* found = (*reader)->Find(tensor.name);
      ASSERT_NE(found, nullptr) << tensor.name;
      EXPECT_EQ(found->dtype, tensor.dtype);
      EXPECT_EQ(found->shape, tensor.shape);
      std::string bytes(tensor.bytes.size(), '?');
      ASSERT_OK((*reader)->Read(tensor.name, bytes.data(), found->bytes));
      EXPECT_EQ(bytes, tensor.bytes);
      auto view = (*reader)->View(tensor.name);
      ASSERT_OK(view.status());
      EXPECT_EQ(std::string(static_cast<const char*>(*view), tensor.bytes.size()), tensor.bytes);
    }
    EXPECT_EQ((*reader)->Find("absent"), nullptr);
    char byte = 0;
    EXPECT_TRUE(Fails((*reader)->Read("absent", &byte, 1), XH_NOT_FOUND, "no tensor \"absent\""));
    EXPECT_TRUE(Fails((*reader)->View("absent").status(), XH_NOT_FOUND, "no tensor \"absent\""));
    EXPECT_TRUE(Fails((*reader)->Read("scalar", &byte, 1), XH_INVALID_ARGUMENT, "has 8 bytes; 1 are asked for"));
  }
}

TEST(SafetensorsTest, ReadsAFileAsOthersWriteIt) {
  Scratch scratch;
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},)"
      R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"e":{"dtype":"U8","shape":[0],"data_offsets":[8,8]}}   )";
  auto reader = OpenBytes(scratch, Framed(header, std::string("\0\0\x80\x3f\1\2\3\4", 8)));
  ASSERT_OK(reader.status());
  float a = 0;
  ASSERT_OK((*reader)->Read("a", &a, 4));
  EXPECT_EQ(a, 1.0f);
  EXPECT_EQ((*reader)->tensors()[1].name, "b");
  EXPECT_EQ((*reader)->Find("e")->bytes, 0);
  EXPECT_OK(OpenHeader("{}", 0));
}

TEST(SafetensorsTest, EveryTruncationAndExtensionIsRefused) {
  Scratch scratch;
  const std::vector<float> values = Ramp(5, 1);
  const SafeTensorData tensor = {"w", XH_F32, {5}, values.data()};
  ASSERT_OK(WriteSafetensors(scratch / "w.safetensors", {tensor}));
  const std::string bytes = ReadBytes(scratch / "w.safetensors");
  ASSERT_OK(OpenBytes(scratch, bytes).status());
  for (size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_TRUE(Fails(OpenBytes(scratch, bytes.substr(0, size)).status(), XH_CORRUPT, "t.safetensors")) << size;
  }
  EXPECT_TRUE(Fails(OpenBytes(scratch, bytes + "x").status(), XH_CORRUPT, "bytes after its last tensor"));
}

TEST(SafetensorsTest, NoFlippedByteOfTheHeaderCrashesOrReachesBeyondTheFile) {
  Scratch scratch;
  const std::vector<float> values = Ramp(5, 1);
  ASSERT_OK(WriteSafetensors(scratch / "w.safetensors", {{"w", XH_F32, {5}, values.data()}}));
  const std::string bytes = ReadBytes(scratch / "w.safetensors");
  int refused = 0;
  for (size_t at = 0; at + 20 < bytes.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(changed[at] ^ (1 << bit));
      auto reader = OpenBytes(scratch, changed);
      refused += !reader.ok();
      if (!reader.ok()) continue;
      for (const SafeTensor& tensor : (*reader)->tensors()) {  // a name, shape or dtype of the same size
        std::string out(static_cast<size_t>(tensor.bytes), '?');
        EXPECT_OK((*reader)->Read(tensor.name, out.data(), tensor.bytes));
      }
    }
  }
  EXPECT_GT(refused, 300);
}

TEST(SafetensorsAttackTest, HeadersAreBounded) {
  Scratch scratch;
  const auto with_length = [](uint64_t length) {
    return std::string(reinterpret_cast<const char*>(&length), 8) + "{}";
  };
  EXPECT_TRUE(Fails(OpenBytes(scratch, with_length(UINT64_MAX)).status(), XH_CORRUPT, "allowed: at most 100000000"));
  EXPECT_TRUE(Fails(OpenBytes(scratch, with_length(100000001)).status(), XH_CORRUPT, "allowed: at most 100000000"));
  EXPECT_TRUE(Fails(OpenBytes(scratch, with_length(100000000)).status(), XH_CORRUPT, "truncated"));
  EXPECT_TRUE(Fails(OpenBytes(scratch, with_length(0)).status(), XH_CORRUPT, "no JSON header"));
  EXPECT_TRUE(Fails(OpenBytes(scratch, "").status(), XH_CORRUPT, "it has 0 bytes"));
  EXPECT_TRUE(Fails(OpenHeader("[]", 0), XH_CORRUPT, "no JSON header"));
  EXPECT_TRUE(Fails(OpenHeader("{", 0), XH_CORRUPT, "(header) is not valid JSON"));
  EXPECT_TRUE(Fails(OpenHeader("{\"a\":" + std::string(100000, '['), 0), XH_CORRUPT, "nested more than 64"));
  EXPECT_TRUE(Fails(OpenHeader("{\"\xff\":1}", 0), XH_CORRUPT, "UTF-8"));
}

// One tensor "a" of F32 [1] with parts of its entry replaced.
std::string EntryHeader(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "{\"a\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}";
}

TEST(SafetensorsAttackTest, EntriesAreChecked) {
  EXPECT_OK(OpenHeader(EntryHeader("\"F32\"", "[1]", "[0,4]"), 4));
  const struct {
    const char *dtype, *shape, *offsets, *part;
  } corrupt[] = {
      {"\"F32\"", "[1]", "[0,8]", "do not span"},
      {"\"F32\"", "[1]", "[4,0]", "do not span"},
      {"\"F32\"", "[1]", "[0]", "do not span"},
      {"\"F32\"", "[1]", "[0,4,8]", "do not span"},
      {"\"F32\"", "[1]", "[0,4.0]", "allowed: integers"},
      {"\"F32\"", "[1]", "[-4,0]", "allowed: integers"},
      {"\"F32\"", "[1]", "[0,9007199254740993]", "allowed: integers"},
      {"\"F32\"", "[1]", "[18446744073709551612,18446744073709551616]", "allowed: integers"},
      {"\"F32\"", "[1]", "null", "data_offsets, is not an array"},
      {"\"F32\"", "[-1]", "[0,4]", "allowed: integers"},
      {"\"F32\"", "[\"1\"]", "[0,4]", "allowed: integers"},
      {"\"F32\"", "{}", "[0,4]", "shape, is not an array"},
      {"\"F32\"", "[4294967296,4294967296]", "[0,0]", "63 bits"},
      {"\"F32\"", "[4611686018427387904]", "[0,0]", "allowed: integers"},
      {"3", "[1]", "[0,4]", "\"dtype\" is 3"},
      {"\"F32\",\"extra\":1", "[1]", "[0,4]", "unknown \"extra\""},
      {"\"F32\",\"dtype\":\"F32\"", "[1]", "[0,4]", "duplicate key \"dtype\""},
  };
  for (const auto& c : corrupt) {
    EXPECT_TRUE(Fails(OpenHeader(EntryHeader(c.dtype, c.shape, c.offsets), 4), XH_CORRUPT, c.part)) << c.offsets;
  }
  EXPECT_TRUE(Fails(OpenHeader("{\"a\":3}", 0), XH_CORRUPT, "is 3; allowed: an object"));
  EXPECT_TRUE(Fails(OpenHeader("{\"\":{}}", 0), XH_CORRUPT, "tensor name is empty"));
  EXPECT_TRUE(Fails(OpenHeader("{\"a\\n\":{}}", 0), XH_CORRUPT, "control character"));
  EXPECT_TRUE(Fails(OpenHeader("{\"__metadata__\":{\"n\":1}}", 0), XH_CORRUPT, "\"n\" is not text"));
  EXPECT_TRUE(Fails(OpenHeader("{\"__metadata__\":[]}", 0), XH_CORRUPT, "is not an object"));
}

TEST(SafetensorsAttackTest, OtherDtypesAreNamed) {
  for (const char* dtype : {"F64", "I8", "I16", "U16", "U32", "U64", "BOOL", "F8_E4M3", "F8_E5M2", "F4"}) {
    const Status status = OpenHeader(EntryHeader("\"" + std::string(dtype) + "\"", "[1]", "[0,4]"), 4);
    EXPECT_TRUE(Fails(status, XH_UNSUPPORTED, "tensor \"a\" has dtype \"" + std::string(dtype) + "\"; supported: F32"));
  }
  EXPECT_TRUE(Fails(OpenHeader(EntryHeader("\"F32\"", "[1,1,1,1,1,1,1]", "[0,4]"), 4), XH_UNSUPPORTED, "7 dimensions"));
}

TEST(SafetensorsAttackTest, HolesOverlapsAndHiddenBytesAreRefused) {
  const auto two = [](const std::string& a, const std::string& b) {
    return "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + a +
           "},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + b + "}}";
  };
  EXPECT_OK(OpenHeader(two("[4,8]", "[0,4]"), 8));
  EXPECT_TRUE(Fails(OpenHeader(two("[0,4]", "[2,6]"), 6), XH_CORRUPT, "no holes, no overlaps"));
  EXPECT_TRUE(Fails(OpenHeader(two("[0,4]", "[0,4]"), 4), XH_CORRUPT, "no holes, no overlaps"));
  EXPECT_TRUE(Fails(OpenHeader(two("[0,4]", "[5,9]"), 9), XH_CORRUPT, "no holes, no overlaps"));
  EXPECT_TRUE(Fails(OpenHeader(two("[1,5]", "[5,9]"), 9), XH_CORRUPT, "no holes, no overlaps"));
  EXPECT_TRUE(Fails(OpenHeader(two("[0,4]", "[4,8]"), 9), XH_CORRUPT, "bytes after its last tensor"));
  EXPECT_TRUE(Fails(OpenHeader(two("[0,4]", "[4,8]"), 7), XH_CORRUPT, "truncated"));
  const std::string huge =
      "{\"a\":{\"dtype\":\"U8\",\"shape\":[9007199254740992],\"data_offsets\":[0,9007199254740992]}}";
  EXPECT_TRUE(Fails(OpenHeader(huge, 8), XH_CORRUPT, "truncated"));
}

// A sharded model in `scratch`: a in one.safetensors, b in two.safetensors, with this index.
void WriteSharded(const Scratch& scratch, const std::string& index) {
  const float value = 3;
  ASSERT_OK(WriteSafetensors(scratch / "one.safetensors", {{"a", XH_F32, {1}, &value}}, {{"format", "pt"}}));
  ASSERT_OK(WriteSafetensors(scratch / "two.safetensors", {{"b", XH_F32, {1}, &value}}, {{"format", "np"}}));
  WriteBytes(scratch / "model.safetensors.index.json", index);
}

TEST(SafetensorsShardTest, ReadsWhatTheIndexNames) {
  Scratch scratch;
  WriteSharded(scratch, R"({"metadata":{"total_size":8},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  auto reader = SafetensorsReader::Open(scratch.path());
  ASSERT_OK(reader.status());
  EXPECT_EQ((*reader)->tensors().size(), 2u);
  EXPECT_EQ((*reader)->file_metadata().at("format"), "pt");
  float b = 0;
  ASSERT_OK((*reader)->Read("b", &b, 4));
  EXPECT_EQ(b, 3.0f);
}

TEST(SafetensorsShardTest, FollowsLinksAsHubCachesHaveThem) {
  Scratch scratch;
  WriteSharded(scratch, "{}");
  std::filesystem::create_directory(scratch / "snapshot");
  ASSERT_EQ(::symlink("../one.safetensors", (scratch / "snapshot/model.safetensors").c_str()), 0);
  EXPECT_OK(SafetensorsReader::Open(scratch / "snapshot").status());
}

TEST(SafetensorsShardTest, TheIndexMustAgreeWithTheFiles) {
  const struct {
    const char* index;
    const char* part;
  } cases[] = {
      {R"({"weight_map":{"a":"two.safetensors","b":"one.safetensors"}})", "says \"two.safetensors\""},
      {R"({"weight_map":{"a":"one.safetensors","c":"two.safetensors"}})", "says nothing of it"},
      {R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors","c":"two.safetensors"}})", "names 3 tensors"},
      {R"({"weight_map":{"a":"../one.safetensors"}})", "a bare name is needed"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", "a bare name is needed"},
      {R"({"weight_map":{"a":3}})", "not mapped to a file name"},
      {R"({"weight_map":{"a":"one.safetensors","a":"two.safetensors"}})", "duplicate key \"a\""},
      {R"({"weight_map":{}})", "\"weight_map\" is missing"},
      {R"([])", "\"weight_map\" is missing"},
      {R"({)", "not valid JSON"},
  };
  for (const auto& c : cases) {
    Scratch scratch;
    WriteSharded(scratch, c.index);
    EXPECT_TRUE(Fails(SafetensorsReader::Open(scratch.path()).status(), XH_CORRUPT, c.part)) << c.index;
  }
  Scratch scratch;
  WriteSharded(scratch, R"({"weight_map":{"a":"one.safetensors","b":"three.safetensors"}})");
  EXPECT_TRUE(Fails(SafetensorsReader::Open(scratch.path()).status(), XH_NOT_FOUND, "three.safetensors"));
}

TEST(SafetensorsTest, WhatIsMissingIsNamed) {
  Scratch scratch;
  EXPECT_TRUE(Fails(SafetensorsReader::Open(scratch / "absent.safetensors").status(), XH_NOT_FOUND, "absent"));
  EXPECT_TRUE(Fails(SafetensorsReader::Open(scratch.path()).status(), XH_NOT_FOUND,
                    "has neither model.safetensors nor model.safetensors.index.json"));
}

TEST(SafetensorsTest, WritingRefusesBadNamesAndLeavesNothingOnAFullDisk) {
  Scratch scratch;
  const float value = 1;
  const SafeTensorData good = {"a", XH_F32, {1}, &value};
  const std::string path = scratch / "w.safetensors";
  EXPECT_TRUE(Fails(WriteSafetensors(path, {good, good}), XH_INVALID_ARGUMENT, "\"a\" is taken"));
  EXPECT_TRUE(Fails(WriteSafetensors(path, {{"", XH_F32, {1}, &value}}), XH_INVALID_ARGUMENT, "name is empty"));
  EXPECT_TRUE(Fails(WriteSafetensors(path, {{"a", 9, {1}, &value}}), XH_INVALID_ARGUMENT, "dtype 9"));
  EXPECT_TRUE(Fails(WriteSafetensors(path, {good}, {{"k", "\xff"}}), XH_INVALID_ARGUMENT, "not UTF-8"));
  EXPECT_TRUE(Fails(WriteSafetensors(scratch / "no/w.safetensors", {good}), XH_NOT_FOUND, "no"));
  EXPECT_TRUE(Fails(WriteSafetensors("/dev/full/w", {good}), XH_IO, "Not a directory"));
  EXPECT_TRUE(List(scratch.path()).empty());
}

}  // namespace
}  // namespace xh
