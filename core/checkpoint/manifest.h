// The manifest of a checkpoint: what manifest.xhy says, and its rules (abi/checkpoint.fbs is the schema).
//
// manifest.xhy is a 64-byte header and a FlatBuffer:
//   8 bytes   "XHYBRID\0"
//   u32       header version, 1
//   u32       flags, 0
//   u64       bytes of the FlatBuffer: the file ends with it
//   32 bytes  sha256 of the FlatBuffer
//   8 bytes   zero
// All numbers are little-endian.
#ifndef XHYBRID_CORE_CHECKPOINT_MANIFEST_H_
#define XHYBRID_CORE_CHECKPOINT_MANIFEST_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"
#include "xhybrid.h"

namespace xh {

inline constexpr char kManifestFile[] = "manifest.xhy";
inline constexpr int64_t kManifestHeaderBytes = 64;
inline constexpr int64_t kManifestCap = 64ll << 20;  // bytes of the FlatBuffer
inline constexpr int64_t kTensorAlignment = 4096;    // of every tensor's offset in its shard

struct TensorEntry {
  std::string name;
  xh_dtype dtype = 0;
  std::vector<int64_t> shape;
  int64_t bytes = 0;
  uint32_t shard = 0;   // index into Manifest::shards
  uint64_t offset = 0;  // in that file, a multiple of kTensorAlignment
  uint32_t crc32c = 0;  // of the tensor's bytes
};

// One block's mixer, "hybrid", "attention", "window" or "mlstm", with its settings.
struct LayerEntry {
  std::string kind;
  std::map<std::string, std::string> settings;
};

enum class DigestKind { kNone, kCrc32c, kSha256 };

struct ShardEntry {
  std::string path;  // bare file name
  int64_t bytes = 0;
  DigestKind digest_kind = DigestKind::kNone;
  std::vector<uint8_t> digest;  // crc32c: 4 bytes, little-endian; sha256: 32 bytes
};

struct Manifest {
  std::string producer;
  std::vector<LayerEntry> layers;
  std::vector<ShardEntry> shards;
  std::vector<TensorEntry> tensors;  // sorted by name
  std::map<std::string, std::string> metadata;
};

// The tensors by shard and offset. Tensors of 0 bytes come before what shares their offset.
std::vector<const TensorEntry*> InStorageOrder(const Manifest& manifest);

// The file for `manifest`, which must keep the rules of DecodeManifest except that tensors are sorted here.
// InvalidArgument when it would be larger than kManifestCap. The same manifest gives the same bytes.
StatusOr<std::vector<uint8_t>> EncodeManifest(const Manifest& manifest);

// `flatbuffer` behind the header that belongs to it.
std::vector<uint8_t> WithManifestHeader(const uint8_t* flatbuffer, size_t bytes);

// Reads a whole manifest file; `where` stands in messages. Nothing in `file` is believed before it is checked: header,
// size, digest, FlatBuffers verifier (depth 32, 1,000,000 tables), then names, shapes, ranges, overlaps and gaps.
// Memory is bounded by a multiple of the file's size. Corrupt for damage and malformed content, Incompatible for
// another version.
StatusOr<Manifest> DecodeManifest(const std::vector<uint8_t>& file, const std::string& where);

}  // namespace xh

#endif  // XHYBRID_CORE_CHECKPOINT_MANIFEST_H_
