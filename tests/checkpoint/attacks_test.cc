// Attacks by name: what somebody hands in as a checkpoint or as a Hugging Face directory, each refused with its own
// message, and with no more memory than the size of its files allows. The rules one by one: hostile_test.cc.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>

#include "core/checkpoint/digest.h"
#include "core/checkpoint/manifest.h"
#include "core/checkpoint/safetensors.h"
#include "core/json_fields.h"
#include "core/model/source.h"
#include "tests/checkpoint/sample.h"
#include "tests/checkpoint/scratch.h"
#include "tests/fuzz/memory.h"

namespace xh {
namespace {

using namespace test;  // NOLINT: the helpers of this directory
namespace fs = std::filesystem;

// What reading may hold: a fixed part (the chunk of a digest among it) and a multiple of the files' bytes (a JSON
// value takes 16 bytes for one of text, and a list that grows is held twice).
constexpr size_t kFixedBytes = 2 << 20, kBytesPerByte = 80;

struct Attack {
  const char* name;
  void (*prepare)(const std::string& directory);
  Status (*open)(const std::string& directory);
  xh_code code;
  const char* part;  // of the message
};
void PrintTo(const Attack& attack, std::ostream* out) { *out << attack.name; }

size_t BytesIn(const std::string& directory) {
  size_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(directory)) {
    std::error_code ignored;
    if (!entry.is_symlink(ignored) && entry.is_regular_file(ignored)) bytes += entry.file_size(ignored);
  }
  return bytes;
}

class AttackTest : public ::testing::TestWithParam<Attack> {};

TEST_P(AttackTest, IsRefusedByNameInBoundedMemory) {
  Scratch scratch;
  GetParam().prepare(scratch.path());
  const size_t allowed = kFixedBytes + kBytesPerByte * BytesIn(scratch.path());
  fuzz::ResetPeak();
  const Status status = GetParam().open(scratch.path());
  EXPECT_LE(fuzz::PeakBytes(), allowed);
  EXPECT_TRUE(Fails(status, GetParam().code, GetParam().part));
}

std::string Repeated(const std::string& text, size_t count) {
  std::string out;
  for (size_t i = 0; i < count; ++i) out += text;
  return out;
}

std::string NameOf(const ::testing::TestParamInfo<Attack>& info) { return info.param.name; }

// ---- checkpoints ----

TensorEntry FourBytes(const std::string& name, uint64_t offset) {
  TensorEntry tensor;
  tensor.name = name;
  tensor.dtype = XH_U8;
  tensor.shape = {4};
  tensor.bytes = 4;
  tensor.offset = offset;
  tensor.crc32c = Crc32c("\0\0\0\0", 4);
  return tensor;
}

// A checkpoint of two tensors in one shard of zeros, changed before it is written.
void Place(
    const std::string& directory, const std::function<void(Manifest*)>& change = [](Manifest*) {}) {
  Manifest manifest;
  manifest.shards.push_back({"s.bin", 4100, DigestKind::kNone, {}});
  manifest.tensors = {FourBytes("a", 0), FourBytes("b", 4096)};
  change(&manifest);
  const auto file = EncodeManifest(manifest);
  ASSERT_OK(file.status());
  WriteBytes(directory + "/manifest.xhy", std::string(file->begin(), file->end()));
  WriteBytes(directory + "/s.bin", std::string(4100, '\0'));
}

Status OpenCheckpoint(const std::string& directory) {
  XH_ASSIGN_OR_RETURN(const std::shared_ptr<CheckpointReader> reader, CheckpointReader::Open(directory));
  for (const TensorEntry& tensor : reader->tensors()) XH_RETURN_IF_ERROR(reader->Data(tensor.name).status());
  return reader->Verify();
}

void ReplaceBy(const std::string& path, int (*make)(const char* path)) {
  fs::remove_all(path);
  ASSERT_EQ(make(path.c_str()), 0) << path;
}

TEST(AttackTest, TheCheckpointThatIsAttackedIsRight) {
  Scratch scratch;
  Place(scratch.path());
  EXPECT_OK(OpenCheckpoint(scratch.path()));
}

const Attack kCheckpointAttacks[] = {
    {"OverlappingTensors", [](const std::string& at) { Place(at, [](Manifest* m) { m->tensors[1].offset = 0; }); },
     OpenCheckpoint, XH_CORRUPT, "tensor \"b\" overlaps the one before it"},
    {"AnOffsetPastTheEnd", [](const std::string& at) { Place(at, [](Manifest* m) { m->tensors[1].offset = 8192; }); },
     OpenCheckpoint, XH_CORRUPT, "takes 4 bytes at 8192, beyond the end of its shard of 4100 bytes"},
    {"AnOffsetThatOverflows",
     [](const std::string& at) { Place(at, [](Manifest* m) { m->tensors[1].offset = UINT64_MAX - 4095; }); },
     OpenCheckpoint, XH_CORRUPT, "at 18446744073709547520, beyond the end of its shard"},
    {"AShapeWhoseProductOverflows",
     [](const std::string& at) { Place(at, [](Manifest* m) {
                                   m->tensors[0].shape = {1ll << 33, 1ll << 33};
                                 }); },
     OpenCheckpoint, XH_CORRUPT, "63 bits"},
    {"AShardOfExabytes",
     [](const std::string& at) {
       Place(at, [](Manifest* m) {
         m->shards[0].bytes = 1ll << 60;
         m->tensors[1].shape = {(1ll << 60) - 4096}, m->tensors[1].bytes = (1ll << 60) - 4096;
       });
     },
     OpenCheckpoint, XH_CORRUPT, "has 4100 bytes; the manifest says 1152921504606846976"},
    {"AShardInTheDirectoryAbove",
     [](const std::string& at) { Place(at, [](Manifest* m) { m->shards[0].path = "../s.bin"; }); }, OpenCheckpoint,
     XH_CORRUPT, "file name \"../s.bin\" is not allowed: a bare name is needed"},
    {"AShardOfTheSystem",
     [](const std::string& at) { Place(at, [](Manifest* m) { m->shards[0].path = "/etc/passwd"; }); }, OpenCheckpoint,
     XH_CORRUPT, "file name \"/etc/passwd\" is not allowed: a bare name is needed"},
    {"AShardThatIsALink",
     [](const std::string& at) {
       Place(at);
       ReplaceBy(at + "/s.bin", [](const char* path) { return ::symlink("/etc/passwd", path); });
     },
     OpenCheckpoint, XH_CORRUPT, "s.bin is a symbolic link; allowed: a regular file"},
    {"AManifestThatIsALink",
     [](const std::string& at) {
       Place(at);
       ReplaceBy(at + "/manifest.xhy", [](const char* path) { return ::symlink("s.bin", path); });
     },
     OpenCheckpoint, XH_CORRUPT, "manifest.xhy is a symbolic link; allowed: a regular file"},
    {"AShardThatIsAPipe",
     [](const std::string& at) {
       Place(at);
       ReplaceBy(at + "/s.bin", [](const char* path) { return ::mkfifo(path, 0600); });
     },
     OpenCheckpoint, XH_CORRUPT, "s.bin is not a regular file"},
    {"AShardThatIsADirectory",
     [](const std::string& at) {
       Place(at);
       ReplaceBy(at + "/s.bin", [](const char* path) { return ::mkdir(path, 0700); });
     },
     OpenCheckpoint, XH_CORRUPT, "s.bin is not a regular file"},
    {"ATensorTwice", [](const std::string& at) { Place(at, [](Manifest* m) { m->tensors[1].name = "a"; }); },
     OpenCheckpoint, XH_CORRUPT, "tensor \"a\" after \"a\"; names must be sorted and unique"},
    {"AShardTwice", [](const std::string& at) { Place(at, [](Manifest* m) { m->shards.push_back(m->shards[0]); }); },
     OpenCheckpoint, XH_CORRUPT, "shard \"s.bin\" is listed twice"},
    {"ANameOfSeveralLines",
     [](const std::string& at) { Place(at, [](Manifest* m) { m->tensors[1].name = "b\nerror: c"; }); }, OpenCheckpoint,
     XH_CORRUPT, "tensor name \"b?error: c\" holds a control character"},
    {"AnEmptyManifest",
     [](const std::string& at) {
       Place(at);
       WriteBytes(at + "/manifest.xhy", "");
     },
     OpenCheckpoint, XH_CORRUPT, "is not an xhybrid checkpoint: it does not begin with the mark XHYBRID"},
    {"AnEmptyShard",
     [](const std::string& at) {
       Place(at);
       WriteBytes(at + "/s.bin", "");
     },
     OpenCheckpoint, XH_CORRUPT, "s.bin has 0 bytes; the manifest says 4100"},
    {"AManifestOfManyMegabytes",
     [](const std::string& at) {
       Place(at);
       ASSERT_EQ(::truncate((at + "/manifest.xhy").c_str(), 100 << 20), 0);
     },
     OpenCheckpoint, XH_CORRUPT, "manifest.xhy has 104857600 bytes; allowed: at most"},
    {"AManifestThatClaimsMore",
     [](const std::string& at) {
       Place(at);
       std::string bytes = ReadBytes(at + "/manifest.xhy");
       bytes[21] = 1;  // 2^40 bytes more
       WriteBytes(at + "/manifest.xhy", bytes);
     },
     OpenCheckpoint, XH_CORRUPT, "is truncated or extended: its header announces"},
    {"AConfigOfMixersThatAskForMemory",
     [](const std::string& at) {
       Place(at, [](Manifest* m) {
         std::string& config = m->metadata["config"];
         config = R"({"family":"llama","vocab_size":8,"hidden_size":8,"layer_count":1,"heads":16384,"kv_heads":16384,)"
                  R"("head_dim":2,"intermediate_size":8,"context":8,"norm_eps":0.1,"tied_embeddings":false,)"
                  R"("qkv_bias":false,"output_bias":false,"mlp_bias":false,"eos_ids":[],"bos_id":-1,)"
                  R"("rope":{"type":"default","theta":10000},"mixers":[{"kind":"attention"})";
         config += Repeated(R"(,{"kind":"attention"})", 9999) + "]}";
       });
     },
     [](const std::string& at) { return OpenModelSource(at).status(); }, XH_CORRUPT,
     "\"mixers\" has 10000 entries; allowed: one a layer (1)"},
    {"AConfigNestedDeeply",
     [](const std::string& at) { Place(at, [](Manifest* m) { m->metadata["config"] = std::string(1 << 20, '['); }); },
     [](const std::string& at) { return OpenModelSource(at).status(); }, XH_CORRUPT, "nested more than 64 levels"},
};
INSTANTIATE_TEST_SUITE_P(Checkpoint, AttackTest, ::testing::ValuesIn(kCheckpointAttacks), NameOf);

// ---- Hugging Face directories ----

std::string WithLength(uint64_t length, const std::string& rest) {
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + rest;
}

void PlaceHeader(const std::string& directory, const std::string& header, size_t data_bytes = 8) {
  WriteBytes(directory + "/model.safetensors", WithLength(header.size(), header + std::string(data_bytes, '\0')));
}

// Two tensors of four bytes with these places.
std::string TwoTensors(const std::string& a, const std::string& b, const std::string& second = "b") {
  const std::string entry = R"({"dtype":"U8","shape":[4],"data_offsets":)";
  return R"({"a":)" + entry + a + R"(},")" + second + R"(":)" + entry + b + "}}";
}

Status OpenSafetensors(const std::string& directory) { return SafetensorsReader::Open(directory).status(); }
Status OpenModel(const std::string& directory) { return OpenModelSource(directory).status(); }

TEST(AttackTest, TheFileThatIsAttackedIsRight) {
  Scratch scratch;
  PlaceHeader(scratch.path(), TwoTensors("[0,4]", "[4,8]"));
  EXPECT_OK(OpenSafetensors(scratch.path()));
}

const Attack kHuggingFaceAttacks[] = {
    {"OverlappingTensors", [](const std::string& at) { PlaceHeader(at, TwoTensors("[0,4]", "[2,6]")); },
     OpenSafetensors, XH_CORRUPT, "tensor \"b\" begins at byte 2 of the data; 4 is expected (no holes, no overlaps)"},
    {"AnOffsetPastTheEnd", [](const std::string& at) { PlaceHeader(at, TwoTensors("[0,4]", "[4,8]"), 7); },
     OpenSafetensors, XH_CORRUPT, "model.safetensors is truncated"},
    {"AnOffsetThatOverflows",
     [](const std::string& at) { PlaceHeader(at, TwoTensors("[0,4]", "[18446744073709551614,2]")); }, OpenSafetensors,
     XH_CORRUPT, "data_offsets, holds \"18446744073709551614\"; allowed: integers from 0 to 9007199254740992"},
    {"AShapeWhoseProductOverflows",
     [](const std::string& at) {
       PlaceHeader(at, R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})");
     },
     OpenSafetensors, XH_CORRUPT, "63 bits"},
    {"ATensorTwice", [](const std::string& at) { PlaceHeader(at, TwoTensors("[0,4]", "[4,8]", "a")); }, OpenSafetensors,
     XH_CORRUPT, "duplicate key \"a\""},
    {"AHeaderOf100MegabytesInAFewBytes",
     [](const std::string& at) { WriteBytes(at + "/model.safetensors", WithLength(100000000, "{}")); }, OpenSafetensors,
     XH_CORRUPT, "is truncated: it has 10 bytes, its header ends at 100000008"},
    {"AHeaderOfExabytes",
     [](const std::string& at) { WriteBytes(at + "/model.safetensors", WithLength(1ull << 60, "{}")); },
     OpenSafetensors, XH_CORRUPT, "its header has 1152921504606846976 bytes; allowed: at most 100000000"},
    {"AHeaderOf100MegabytesOfZeros",
     [](const std::string& at) {
       WriteBytes(at + "/model.safetensors", WithLength(100000000, "{"));
       ASSERT_EQ(::truncate((at + "/model.safetensors").c_str(), 100000008), 0);
     },
     OpenSafetensors, XH_CORRUPT, "(header) is not valid JSON at line 1, column 2: NUL character"},
    {"AHeaderOfMillionsOfLists",
     [](const std::string& at) { PlaceHeader(at, "{\"a\":[[]" + Repeated(",[]", 1 << 20) + "]}"); }, OpenSafetensors,
     XH_CORRUPT, "tensor \"a\" is an array; allowed: an object"},
    {"AHeaderNestedDeeply", [](const std::string& at) { PlaceHeader(at, Repeated("{\"a\":", 1 << 20)); },
     OpenSafetensors, XH_CORRUPT, "nested more than 64 levels"},
    {"AnEmptyFile", [](const std::string& at) { WriteBytes(at + "/model.safetensors", ""); }, OpenSafetensors,
     XH_CORRUPT, "is not a safetensors file: it has 0 bytes"},
    {"AnIndexThatLeavesTheDirectory",
     [](const std::string& at) {
       WriteBytes(at + "/model.safetensors.index.json", R"({"weight_map":{"a":"../../etc/passwd"}})");
     },
     OpenSafetensors, XH_CORRUPT, "file name \"../../etc/passwd\" is not allowed: a bare name is needed"},
    {"AnIndexOfTheSystem",
     [](const std::string& at) {
       WriteBytes(at + "/model.safetensors.index.json", R"({"weight_map":{"a":"/dev/zero"}})");
     },
     OpenSafetensors, XH_CORRUPT, "file name \"/dev/zero\" is not allowed: a bare name is needed"},
    {"ALinkToADevice",
     [](const std::string& at) { ASSERT_EQ(::symlink("/dev/zero", (at + "/model.safetensors").c_str()), 0); },
     OpenSafetensors, XH_CORRUPT, "model.safetensors is not a regular file"},
    {"AWeightsFileThatIsAPipe",
     [](const std::string& at) { ASSERT_EQ(::mkfifo((at + "/model.safetensors").c_str(), 0600), 0); }, OpenSafetensors,
     XH_CORRUPT, "model.safetensors is not a regular file"},
    {"ATokenizerFileThatIsAPipe",
     [](const std::string& at) { ASSERT_EQ(::mkfifo((at + "/tokenizer.json").c_str(), 0600), 0); },
     [](const std::string& at) { return ReadTokenizerFiles(at).status(); }, XH_CORRUPT,
     "tokenizer.json is not a regular file"},
    {"AnEmptyConfig", [](const std::string& at) { WriteBytes(at + "/config.json", ""); }, OpenModel, XH_CORRUPT,
     "config.json is not valid JSON at line 1, column 1"},
    {"AConfigNestedDeeply", [](const std::string& at) { WriteBytes(at + "/config.json", std::string(1 << 20, '[')); },
     OpenModel, XH_CORRUPT, "nested more than 64 levels"},
    {"AConfigWithAKeyTwice",
     [](const std::string& at) { WriteBytes(at + "/config.json", R"({"model_type":"llama","model_type":"qwen2"})"); },
     OpenModel, XH_CORRUPT, "duplicate key \"model_type\""},
    {"AConfigThatAsksForMemory",
     [](const std::string& at) {
       WriteBytes(at + "/config.json",
                  R"({"model_type":"llama","vocab_size":8,"hidden_size":32768,"num_hidden_layers":4096,)"
                  R"("num_attention_heads":16384,"intermediate_size":8,"max_position_embeddings":8})");
     },
     OpenModel, XH_INVALID_ARGUMENT, "the layers have 67108864 key/value heads together; allowed: at most 262144"},
};
INSTANTIATE_TEST_SUITE_P(HuggingFace, AttackTest, ::testing::ValuesIn(kHuggingFaceAttacks), NameOf);

// ---- every byte ----

// Calls `check` with the sample checkpoint, one of its files at a time changed by `change` at each of its bytes.
void AtEveryByte(const std::function<bool(std::string* bytes, size_t at)>& change,
                 const std::function<void(const std::string& directory, const std::string& place)>& check) {
  Scratch scratch;
  const std::string directory = scratch / "c.xhy";
  ASSERT_OK(WriteSample(directory, 1));
  for (const std::string& name : List(directory)) {
    const std::string whole = ReadBytes(directory + "/" + name);
    for (size_t at = 0; at < whole.size(); ++at) {
      std::string bytes = whole;
      if (!change(&bytes, at)) continue;
      WriteBytes(directory + "/" + name, bytes);
      check(directory, name + " at byte " + std::to_string(at));
      if (::testing::Test::HasFailure()) return;
    }
    WriteBytes(directory + "/" + name, whole);
  }
}

TEST(EveryByteTest, ACheckpointThatIsCutOffAnywhereIsRefused) {
  AtEveryByte([](std::string* bytes, size_t at) { return bytes->resize(at), true; },
              [](const std::string& directory, const std::string& place) {
                for (LoadMode mode : {LoadMode::kMap, LoadMode::kCopy}) {
                  EXPECT_TRUE(Fails(CheckpointReader::Open(directory, mode).status(), XH_CORRUPT, "c.xhy/")) << place;
                }
              });
}

TEST(EveryByteTest, ACheckpointWithOneBitChangedIsRefused) {
  const auto flip = [](std::string* bytes, size_t at) {
    (*bytes)[at] = static_cast<char>((*bytes)[at] ^ (1 << (at % 8)));
    return true;
  };
  AtEveryByte(flip, [](const std::string& directory, const std::string& place) {
    const Status status = OpenCheckpoint(directory);
    EXPECT_FALSE(status.ok()) << place;
    EXPECT_TRUE(CodeOf(status) == XH_CORRUPT || CodeOf(status) == XH_INCOMPATIBLE) << place << ": " << status;
  });
}

// ---- files that shrink while they are open ----

// Cut off between opening and the first use, a tensor is refused in either mode. What is in use by then stays readable
// when it was copied; a mapping of it would raise SIGBUS, which is why load_mode "copy" is there.
TEST(ShrinkingFileTest, ATensorThatIsCutOffBeforeItsFirstUseIsRefused) {
  for (LoadMode mode : {LoadMode::kMap, LoadMode::kCopy}) {
    Scratch scratch;
    Place(scratch.path());
    auto reader = CheckpointReader::Open(scratch.path(), mode);
    ASSERT_OK(reader.status());
    ASSERT_EQ(::truncate((scratch / "s.bin").c_str(), 0), 0);
    EXPECT_TRUE(Fails((*reader)->Data("a").status(), XH_CORRUPT, "s.bin"));
    EXPECT_TRUE(Fails((*reader)->Verify(), XH_CORRUPT, "s.bin has 0 bytes; the manifest says 4100"));
  }
}

TEST(ShrinkingFileTest, ACopiedTensorOutlivesItsFile) {
  Scratch scratch;
  Place(scratch.path());
  auto reader = CheckpointReader::Open(scratch.path(), LoadMode::kCopy);
  ASSERT_OK(reader.status());
  auto before = (*reader)->Data("a");
  ASSERT_OK(before.status());
  ASSERT_EQ(::truncate((scratch / "s.bin").c_str(), 0), 0);
  EXPECT_EQ(std::string(static_cast<const char*>(*before), 4), std::string(4, '\0'));
}

TEST(ShrinkingFileTest, AViewOfASafetensorsFileThatWasCutOffIsRefused) {
  Scratch scratch;
  PlaceHeader(scratch.path(), TwoTensors("[0,4]", "[4,8]"));
  auto reader = SafetensorsReader::Open(scratch.path());
  ASSERT_OK(reader.status());
  ASSERT_OK((*reader)->View("a").status());
  ASSERT_EQ(::truncate((scratch / "model.safetensors").c_str(), 20), 0);
  EXPECT_TRUE(Fails((*reader)->View("b").status(), XH_CORRUPT, "has 20 bytes; it had"));
  char bytes[4];
  EXPECT_TRUE(Fails((*reader)->Read("b", bytes, 4), XH_CORRUPT, "4 more bytes are expected"));
}

// ---- messages ----

TEST(MessageTest, IsOneLineOfBoundedLengthWhateverItQuotes) {
  EXPECT_EQ(NotFound("cannot open a\nb\tc").message(), "cannot open a b c");
  EXPECT_EQ(Annotate(Corrupt("x"), "a\r\nb").message(), "a  b: x");
  const std::string cut(Corrupt(std::string(3999, 'a'), "\xC3\xB6 and more").message());
  EXPECT_EQ(cut, std::string(3999, 'a') + "...");  // not within the character
}

TEST(MessageTest, ShowsAValueCutShort) {
  EXPECT_EQ(ShownJson({1, "\xC3\xB6\n"}), R"([1,"\u00f6\n"])");
  EXPECT_EQ(ShownJson(std::string(500, 'a')), "\"" + std::string(199, 'a') + "...");
  EXPECT_EQ(ShownJson("\xff"), R"("\ufffd")");
}

}  // namespace
}  // namespace xh
