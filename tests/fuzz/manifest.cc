// manifest.xhy: the input as the file, and behind a header that fits, so that mutations reach beyond the digest.
#include "core/checkpoint/manifest.h"

#include <algorithm>

#include "tests/fuzz/support.h"

namespace xh::fuzz {
namespace {

void CheckManifest(const StatusOr<Manifest>& manifest) {
  if (!Accepted(manifest)) return;
  uint32_t shard = 0;
  uint64_t end = 0;
  for (const TensorEntry* tensor : InStorageOrder(*manifest)) {
    if (tensor->shard != shard) end = 0;
    shard = tensor->shard;
    Require(shard < manifest->shards.size(), "a tensor lies in no shard");
    Require(tensor->offset >= end, "tensors overlap");
    end = tensor->offset + static_cast<uint64_t>(tensor->bytes);
    Require(end <= static_cast<uint64_t>(manifest->shards[shard].bytes), "a tensor reaches beyond its shard");
  }
  const auto again = EncodeManifest(*manifest);
  Require(again.ok() && DecodeManifest(*again, "again").ok(), "what was read cannot be written and read again");
}

}  // namespace
}  // namespace xh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace xh;  // NOLINT: the library under test
  const fuzz::MemoryBound bound(1 << 20, 128, size);
  fuzz::CheckManifest(DecodeManifest({data, data + size}, "manifest"));
  const size_t header = std::min<size_t>(size, kManifestHeaderBytes);
  fuzz::CheckManifest(DecodeManifest(WithManifestHeader(data + header, size - header), "manifest"));
  return 0;
}
