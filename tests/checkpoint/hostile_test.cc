// Manifests with a right digest and wrong content, and files that are not what their names say.
#include <sys/stat.h>
#include <unistd.h>

#include <functional>

#include "checkpoint_generated.h"
#include "core/checkpoint/digest.h"
#include "core/checkpoint/manifest.h"
#include "tests/checkpoint/sample.h"
#include "tests/checkpoint/scratch.h"

namespace xh {
namespace {

using namespace test;  // NOLINT: the helpers of this directory
namespace fbs = xhybrid::checkpoint;

// Two tensors of 8 bytes in one shard.
Manifest Honest() {
  Manifest manifest;
  manifest.shards.push_back({"s.bin", 4104, DigestKind::kNone, {}});
  for (const char* name : {"a", "b"}) {
    TensorEntry tensor;
    tensor.name = name;
    tensor.dtype = XH_F32;
    tensor.shape = {2};
    tensor.bytes = 8;
    tensor.offset = name[0] == 'a' ? 0 : 4096;
    tensor.crc32c = Crc32c("\0\0\0\0\0\0\0\0", 8);
    manifest.tensors.push_back(tensor);
  }
  return manifest;
}

// A directory with `manifest` and a shard s.bin of zeros.
class Crafted {
 public:
  explicit Crafted(const Manifest& manifest) {
    auto file = EncodeManifest(manifest);
    EXPECT_OK(file.status());
    Place(*file);
  }
  explicit Crafted(const std::vector<uint8_t>& file) { Place(file); }

  Status Open() const { return CheckpointReader::Open(path()).status(); }
  std::string path() const { return scratch_ / "c.xhy"; }

 private:
  void Place(const std::vector<uint8_t>& file) {
    std::filesystem::create_directory(path());
    WriteBytes(path() + "/manifest.xhy", std::string(file.begin(), file.end()));
    WriteBytes(path() + "/s.bin", std::string(4104, '\0'));
  }
  Scratch scratch_;
};

Status OpenWith(const std::function<void(Manifest*)>& change) {
  Manifest manifest = Honest();
  change(&manifest);
  return Crafted(manifest).Open();
}

TEST(HostileManifestTest, TheHonestOneIsAccepted) { EXPECT_OK(Crafted(Honest()).Open()); }

TEST(HostileManifestTest, ShapesAndDtypesAreChecked) {
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[0].dtype = 0; }), XH_CORRUPT, "dtype 0"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[0].dtype = 7; }), XH_INCOMPATIBLE, "dtype 7"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[0].shape = {-2}; }), XH_CORRUPT, "dimension 0 is -2"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[0].shape.assign(7, 1); }), XH_CORRUPT, "7 dimensions"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[0].shape = {3}; }), XH_CORRUPT, "its shape takes 12"));
  // 2^62 * 4 = 2^64 wraps to 0; so does the second with the size of a real tensor behind it.
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[0].shape = {1ll << 62}, m->tensors[0].bytes = 0; }),
                    XH_CORRUPT, "63 bits"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[0].shape = {(1ll << 62) + 2}; }), XH_CORRUPT, "63 bits"));
}

TEST(HostileManifestTest, PlacesAreChecked) {
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[1].shard = 1; }), XH_CORRUPT, "lies in shard 1 of 1"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[1].shard = UINT32_MAX; }), XH_CORRUPT, "lies in shard"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[1].offset = 8; }), XH_CORRUPT, "multiples of 4096"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[1].offset = 8192; }), XH_CORRUPT, "beyond the end"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[1].offset = UINT64_MAX - 4095; }), XH_CORRUPT, "beyond"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[1].offset = 0; }), XH_CORRUPT, "overlaps"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors.pop_back(); }), XH_CORRUPT, "that no tensor covers"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[0].shape = {1025}, m->tensors[0].bytes = 4100; }), XH_CORRUPT,
                    "overlaps"));
  // An empty tensor takes no room, but may not lie inside another.
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) {
                      m->tensors[0].shape = {1026}, m->tensors[0].bytes = 4104;
                      m->tensors[1].shape = {0}, m->tensors[1].bytes = 0;
                    }),
                    XH_CORRUPT, "overlaps"));
}

TEST(HostileManifestTest, ShardsAreChecked) {
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->shards[0].bytes = 4103; }), XH_CORRUPT, "beyond the end"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->shards[0].bytes = 4105; }), XH_CORRUPT, "has 4104 bytes"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->shards[0].bytes = 16384; }), XH_CORRUPT, "no tensor covers"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->shards[0].bytes = -1; }), XH_CORRUPT, "below 2^63"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->shards.push_back(m->shards[0]); }), XH_CORRUPT, "listed twice"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->shards[0].path = "t.bin"; }), XH_CORRUPT, "\"t.bin\" is missing"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->shards[0].path = "manifest.xhy"; }), XH_CORRUPT, "listed twice"));
  EXPECT_TRUE(
      Fails(OpenWith([](Manifest* m) { m->shards[0].digest_kind = DigestKind(9); }), XH_INCOMPATIBLE, "digest kind 9"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->shards[0].digest = {1}; }), XH_CORRUPT, "a digest of 1 bytes"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->shards[0].digest_kind = DigestKind::kSha256; }), XH_CORRUPT,
                    "a digest of 0 bytes"));
  for (const std::string& path : {std::string("../s.bin"), std::string("/etc/passwd"), std::string(".."),
                                  std::string("."), std::string(""), std::string("a/s.bin"), std::string("s\0.bin", 6),
                                  std::string(".s.bin"), std::string(256, 's'), std::string("\xff.bin")}) {
    EXPECT_TRUE(Fails(OpenWith([&](Manifest* m) { m->shards[0].path = path; }), XH_CORRUPT, "shard file name")) << path;
  }
}

TEST(HostileManifestTest, NamesAreChecked) {
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[1].name = "a"; }), XH_CORRUPT, "sorted and unique"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[0].name = ""; }), XH_CORRUPT, "tensor name is empty"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[0].name = std::string("a\0b", 3); }), XH_CORRUPT, "control"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[0].name = "\xed\xa0\x80"; }), XH_CORRUPT, "not UTF-8"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->tensors[0].name.assign(1024, 'a'); }), XH_CORRUPT, "1024 bytes"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->metadata[""] = "x"; }), XH_CORRUPT, "metadata key is empty"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) { m->layers.push_back({"", {}}); }), XH_CORRUPT, "layer kind is empty"));
  EXPECT_TRUE(Fails(OpenWith([](Manifest* m) {
                      m->layers.push_back({"mlstm", {{"\x01", ""}}});
                    }),
                    XH_CORRUPT, "layer setting key"));
}

TEST(HostileManifestTest, CrcOfAShardWithoutSha256IsVerified) {
  Manifest manifest = Honest();
  const std::string zeros(4104, '\0');
  const uint32_t crc = Crc32c(zeros.data(), zeros.size());
  manifest.shards[0].digest_kind = DigestKind::kCrc32c;
  manifest.shards[0].digest.resize(4);
  std::memcpy(manifest.shards[0].digest.data(), &crc, 4);
  Crafted right(manifest);
  auto reader = CheckpointReader::Open(right.path());
  ASSERT_OK(reader.status());
  EXPECT_OK((*reader)->Verify());
  manifest.shards[0].digest[2] ^= 1;
  Crafted wrong(manifest);
  reader = CheckpointReader::Open(wrong.path());
  ASSERT_OK(reader.status());
  EXPECT_TRUE(Fails((*reader)->Verify(), XH_CORRUPT, "digest differs"));
}

// What EncodeManifest never writes, built by hand.
struct Raw {
  uint16_t major = 1;
  uint16_t minor = 0;
  std::vector<std::string> features;
  std::vector<std::string> metadata_keys;
  std::vector<std::string> tensor_names;
};

std::vector<uint8_t> Encode(const Raw& raw) {
  flatbuffers::FlatBufferBuilder builder;
  std::vector<flatbuffers::Offset<fbs::Tensor>> tensors;
  for (const std::string& name : raw.tensor_names) {
    const auto text = builder.CreateString(name);
    const auto shape = builder.CreateVector(std::vector<int64_t>{0});
    tensors.push_back(fbs::CreateTensor(builder, text, fbs::DType::F32, shape));
  }
  std::vector<flatbuffers::Offset<fbs::Pair>> pairs;
  for (const std::string& key : raw.metadata_keys) pairs.push_back(fbs::CreatePair(builder, builder.CreateString(key)));
  const auto path = builder.CreateString("s.bin");
  std::vector<flatbuffers::Offset<fbs::Shard>> shards = {fbs::CreateShard(builder, path, 0)};
  const auto shard_vector = builder.CreateVector(shards);
  const auto tensor_vector = builder.CreateVector(tensors);
  const auto pair_vector = builder.CreateVector(pairs);
  const auto features = builder.CreateVectorOfStrings(raw.features);
  fbs::FinishManifestBuffer(builder, fbs::CreateManifest(builder, raw.major, raw.minor, 0, 0, shard_vector,
                                                         tensor_vector, pair_vector, features));
  return WithManifestHeader(builder.GetBufferPointer(), builder.GetSize());
}

TEST(VersionTest, AnotherMajorOrAnUnknownFeatureIsIncompatibleAndAMinorIsNot) {
  Raw raw;
  raw.major = 2, raw.minor = 3;
  EXPECT_TRUE(
      Fails(DecodeManifest(Encode(raw), "m").status(), XH_INCOMPATIBLE, "format 2.3; this release supports 1.x"));
  raw.major = 0;
  EXPECT_TRUE(Fails(DecodeManifest(Encode(raw), "m").status(), XH_INCOMPATIBLE, "format 0.3"));
  raw.major = 1;
  EXPECT_OK(DecodeManifest(Encode(raw), "m").status());
  raw.features = {"sparse"};
  EXPECT_TRUE(Fails(DecodeManifest(Encode(raw), "m").status(), XH_INCOMPATIBLE, "needs the feature \"sparse\""));
}

TEST(VersionTest, AnotherHeaderVersionOrFlagIsIncompatible) {
  std::vector<uint8_t> file = Encode(Raw());
  file[8] = 2;
  EXPECT_TRUE(Fails(DecodeManifest(file, "m").status(), XH_INCOMPATIBLE, "header version 2; this release supports"));
  file[8] = 1, file[12] = 4;
  EXPECT_TRUE(Fails(DecodeManifest(file, "m").status(), XH_INCOMPATIBLE, "header flags 4"));
}

TEST(HostileManifestTest, UnsortedAndRepeatedKeysAreRefused) {
  Raw raw;
  raw.tensor_names = {"b", "a"};
  EXPECT_TRUE(Fails(DecodeManifest(Encode(raw), "m").status(), XH_CORRUPT, "tensor \"a\" after \"b\""));
  raw.tensor_names = {"a", "a"};
  EXPECT_TRUE(Fails(DecodeManifest(Encode(raw), "m").status(), XH_CORRUPT, "sorted and unique"));
  raw.tensor_names = {"a", "b"};
  raw.metadata_keys = {"x", "x"};
  EXPECT_TRUE(Fails(DecodeManifest(Encode(raw), "m").status(), XH_CORRUPT, "metadata key \"x\" after \"x\""));
  raw.metadata_keys = {"x", "y"};
  EXPECT_OK(DecodeManifest(Encode(raw), "m").status());
}

// 100,000 layers that share one kind of 1,000 bytes stand for 100 MB in a file of 500 kB.
TEST(HostileManifestTest, SharedTextIsNotMultipliedInMemory) {
  flatbuffers::FlatBufferBuilder builder;
  const auto kind = builder.CreateString(std::string(1000, 'k'));
  const auto layer = fbs::CreateLayer(builder, kind);
  const auto layers = builder.CreateVector(std::vector<flatbuffers::Offset<fbs::Layer>>(100000, layer));
  const auto shards = builder.CreateVector(std::vector<flatbuffers::Offset<fbs::Shard>>());
  const auto tensors = builder.CreateVector(std::vector<flatbuffers::Offset<fbs::Tensor>>());
  fbs::FinishManifestBuffer(builder, fbs::CreateManifest(builder, 1, 0, 0, layers, shards, tensors));
  const auto file = WithManifestHeader(builder.GetBufferPointer(), builder.GetSize());
  EXPECT_TRUE(Fails(DecodeManifest(file, "m").status(), XH_CORRUPT, "share more bytes"));
}

TEST(HostileManifestTest, BytesThatAreNoFlatBufferAreRefused) {
  for (size_t size : {0u, 1u, 7u, 8u, 64u}) {
    const std::vector<uint8_t> noise(size, 0xff);
    EXPECT_TRUE(Fails(DecodeManifest(WithManifestHeader(noise.data(), size), "m").status(), XH_CORRUPT, "malformed"));
  }
  flatbuffers::FlatBufferBuilder other;  // a root table without the required vectors
  other.Finish(flatbuffers::Offset<fbs::Manifest>(other.EndTable(other.StartTable())), "XHY1");
  EXPECT_TRUE(Fails(DecodeManifest(WithManifestHeader(other.GetBufferPointer(), other.GetSize()), "m").status(),
                    XH_CORRUPT, "malformed"));
}

// Whoever changes a byte can also change the digest. What is still accepted must keep the rules.
TEST(HostileManifestTest, NoByteWithARightDigestBreaksTheRules) {
  auto honest = EncodeManifest(Honest());
  ASSERT_OK(honest.status());
  std::vector<uint8_t> flatbuffer(honest->begin() + kManifestHeaderBytes, honest->end());
  int refused = 0;
  for (uint8_t& byte : flatbuffer) {
    const uint8_t right = byte;
    for (int value = 0; value < 256; ++value) {
      byte = static_cast<uint8_t>(value);
      auto manifest = DecodeManifest(WithManifestHeader(flatbuffer.data(), flatbuffer.size()), "m");
      refused += !manifest.ok();
      if (!manifest.ok()) continue;
      for (const TensorEntry& tensor : manifest->tensors) {
        ASSERT_LT(tensor.shard, manifest->shards.size());
        ASSERT_LE(tensor.offset + static_cast<uint64_t>(tensor.bytes),
                  static_cast<uint64_t>(manifest->shards[tensor.shard].bytes));
        ASSERT_LE(tensor.shape.size(), 6u);
      }
    }
    byte = right;
  }
  EXPECT_GT(refused, 256 * 50);
}

TEST(ForeignFileTest, IsNamedAsNotACheckpoint) {
  Scratch scratch;
  EXPECT_TRUE(Fails(CheckpointReader::Open(scratch / "absent.xhy").status(), XH_NOT_FOUND, "absent.xhy"));
  EXPECT_TRUE(Fails(CheckpointReader::Open(scratch.path()).status(), XH_NOT_FOUND, "has no manifest.xhy"));
  EXPECT_TRUE(Fails(CheckpointReader::Open("").status(), XH_NOT_FOUND, "cannot open"));
  WriteBytes(scratch / "file.xhy", "hello");
  EXPECT_TRUE(Fails(CheckpointReader::Open(scratch / "file.xhy").status(), XH_CORRUPT, "not an xhybrid checkpoint"));
  Crafted foreign(std::vector<uint8_t>(1000, 'G'));
  EXPECT_TRUE(Fails(foreign.Open(), XH_CORRUPT, "not an xhybrid checkpoint"));
}

TEST(ForeignFileTest, AnEnormousManifestIsRefusedBeforeItIsRead) {
  Crafted crafted(Honest());
  ASSERT_EQ(::truncate((crafted.path() + "/manifest.xhy").c_str(), (64ll << 20) + 65), 0);
  EXPECT_TRUE(Fails(crafted.Open(), XH_CORRUPT, "has 67108929 bytes; allowed: at most 67108928"));
}

TEST(ForeignFileTest, LinksPipesAndDirectoriesAreNotFollowedNorWaitedFor) {
  for (const std::string& name : {std::string("s.bin"), std::string("manifest.xhy")}) {
    Crafted crafted(Honest());
    const std::string path = crafted.path() + "/" + name;
    std::filesystem::rename(path, crafted.path() + "/kept");
    ASSERT_EQ(::symlink("kept", path.c_str()), 0);
    EXPECT_TRUE(Fails(crafted.Open(), XH_CORRUPT, name + " is a symbolic link"));
    ASSERT_EQ(::unlink(path.c_str()), 0);
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    EXPECT_TRUE(Fails(crafted.Open(), XH_CORRUPT, name + " is not a regular file"));
    ASSERT_EQ(::unlink(path.c_str()), 0);
    ASSERT_EQ(::mkdir(path.c_str(), 0700), 0);
    EXPECT_TRUE(Fails(crafted.Open(), XH_CORRUPT, name + " is not a regular file"));
  }
}

}  // namespace
}  // namespace xh
