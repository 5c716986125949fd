#include <algorithm>
#include <bit>
#include <cstring>

#include "checkpoint_generated.h"
#include "core/checkpoint/digest.h"
#include "core/checkpoint/manifest.h"

namespace xh {
namespace {

namespace fbs = xhybrid::checkpoint;
using flatbuffers::FlatBufferBuilder;
using flatbuffers::Offset;

static_assert(std::endian::native == std::endian::little, "stored numbers are little-endian");

using Pairs = flatbuffers::Vector<Offset<fbs::Pair>>;

Offset<Pairs> AddPairs(const std::map<std::string, std::string>& pairs, FlatBufferBuilder* builder) {
  std::vector<Offset<fbs::Pair>> entries;
  for (const auto& [key, value] : pairs) {
    const auto key_offset = builder->CreateString(key);
    entries.push_back(fbs::CreatePair(*builder, key_offset, builder->CreateString(value)));
  }
  return builder->CreateVector(entries);
}

Offset<fbs::Shard> AddShard(const ShardEntry& shard, FlatBufferBuilder* builder) {
  const auto path = builder->CreateString(shard.path);
  const auto digest = builder->CreateVector(shard.digest);
  return fbs::CreateShard(*builder, path, static_cast<uint64_t>(shard.bytes),
                          static_cast<fbs::Digest>(shard.digest_kind), digest);
}

Offset<fbs::Tensor> AddTensor(const TensorEntry& tensor, FlatBufferBuilder* builder) {
  const auto name = builder->CreateString(tensor.name);
  const auto shape = builder->CreateVector(tensor.shape);
  return fbs::CreateTensor(*builder, name, static_cast<fbs::DType>(tensor.dtype), shape, tensor.shard, tensor.offset,
                           static_cast<uint64_t>(tensor.bytes), tensor.crc32c);
}

// A lower bound of the encoded size, so that the builder (limited to 2 GiB) never meets an absurd amount.
int64_t TextBytes(const Manifest& manifest) {
  size_t bytes = 0;
  const auto add = [&](const std::map<std::string, std::string>& pairs) {
    for (const auto& [key, value] : pairs) bytes += key.size() + value.size();
  };
  add(manifest.metadata);
  for (const LayerEntry& layer : manifest.layers) add(layer.settings);
  for (const TensorEntry& tensor : manifest.tensors) bytes += tensor.name.size();
  return static_cast<int64_t>(bytes);
}

Status TooLarge(int64_t bytes) {
  return InvalidArgument("the checkpoint's manifest takes ", bytes, " bytes; allowed: at most ", kManifestCap,
                         " bytes of tensor table, settings and metadata");
}

Offset<fbs::Manifest> AddManifest(const Manifest& manifest, FlatBufferBuilder* builder) {
  std::vector<Offset<fbs::Layer>> layers;
  for (const LayerEntry& layer : manifest.layers) {
    const auto kind = builder->CreateString(layer.kind);
    layers.push_back(fbs::CreateLayer(*builder, kind, AddPairs(layer.settings, builder)));
  }
  std::vector<Offset<fbs::Shard>> shards;
  for (const ShardEntry& shard : manifest.shards) shards.push_back(AddShard(shard, builder));

  std::vector<const TensorEntry*> sorted;
  for (const TensorEntry& tensor : manifest.tensors) sorted.push_back(&tensor);
  std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) { return a->name < b->name; });
  std::vector<Offset<fbs::Tensor>> tensors;
  for (const TensorEntry* tensor : sorted) tensors.push_back(AddTensor(*tensor, builder));

  const auto producer = builder->CreateString(manifest.producer);
  const auto layer_vector = builder->CreateVector(layers);
  const auto shard_vector = builder->CreateVector(shards);
  const auto tensor_vector = builder->CreateVector(tensors);
  const auto metadata = AddPairs(manifest.metadata, builder);
  return fbs::CreateManifest(*builder, 1, 0, producer, layer_vector, shard_vector, tensor_vector, metadata);
}

}  // namespace

std::vector<uint8_t> WithManifestHeader(const uint8_t* flatbuffer, size_t bytes) {
  std::vector<uint8_t> file(kManifestHeaderBytes + bytes, 0);
  const uint32_t version = 1;
  const uint64_t size = bytes;
  Sha256 sha;
  sha.Update(flatbuffer, bytes);
  const Sha256::Digest digest = sha.Finish();
  std::memcpy(file.data(), "XHYBRID", 8);
  std::memcpy(file.data() + 8, &version, 4);
  std::memcpy(file.data() + 16, &size, 8);
  std::memcpy(file.data() + 24, digest.data(), digest.size());
  if (bytes > 0) std::memcpy(file.data() + kManifestHeaderBytes, flatbuffer, bytes);
  return file;
}

StatusOr<std::vector<uint8_t>> EncodeManifest(const Manifest& manifest) {
  if (TextBytes(manifest) > kManifestCap) return TooLarge(TextBytes(manifest));
  FlatBufferBuilder builder;
  fbs::FinishManifestBuffer(builder, AddManifest(manifest, &builder));
  if (builder.GetSize() > kManifestCap) return TooLarge(builder.GetSize());
  return WithManifestHeader(builder.GetBufferPointer(), builder.GetSize());
}

}  // namespace xh
