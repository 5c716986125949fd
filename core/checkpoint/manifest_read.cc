#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <tuple>

#include "checkpoint_generated.h"
#include "core/checkpoint/digest.h"
#include "core/checkpoint/dtype.h"
#include "core/checkpoint/manifest.h"
#include "core/checkpoint/names.h"

namespace xh {
namespace {

namespace fbs = xhybrid::checkpoint;

constexpr int kVerifierDepth = 32;
constexpr int kVerifierTables = 1000000;
// Strings of a FlatBuffer may share bytes. An honest writer shares a few; without a bound, a small file could stand for
// gigabytes of text.
constexpr size_t kTextFactor = 16;

template <typename T>
T Load(const std::vector<uint8_t>& file, size_t offset) {
  T value;
  std::memcpy(&value, file.data() + offset, sizeof(T));
  return value;
}

Status CheckHeader(const std::vector<uint8_t>& file, const std::string& where) {
  if (file.size() < 8 || std::memcmp(file.data(), "XHYBRID", 8) != 0) {
    return Corrupt(where, " is not an xhybrid checkpoint: it does not begin with the mark XHYBRID");
  }
  const size_t header = kManifestHeaderBytes;
  if (file.size() < header) {
    return Corrupt(where, " is truncated: it has ", file.size(), " bytes, its header ", header);
  }
  if (Load<uint32_t>(file, 8) != 1) {
    return Incompatible(where, " has header version ", Load<uint32_t>(file, 8), "; this release supports version 1");
  }
  if (Load<uint32_t>(file, 12) != 0) {
    return Incompatible(where, " has header flags ", Load<uint32_t>(file, 12), "; this release supports 0");
  }
  if (Load<uint64_t>(file, 16) != file.size() - header) {
    return Corrupt(where, " is truncated or extended: its header announces ", Load<uint64_t>(file, 16),
                   " bytes of manifest, ", file.size() - header, " are there");
  }
  if (Load<uint64_t>(file, 56) != 0) return Corrupt(where, " is damaged: the end of its header is not zero");
  Sha256 sha;
  sha.Update(file.data() + header, file.size() - header);
  if (std::memcmp(sha.Finish().data(), file.data() + 24, 32) != 0) {
    return Corrupt(where, " is damaged: its sha256 differs from the one in its header");
  }
  return absl::OkStatus();
}

// Decodes one verified FlatBuffer. Every error names `where_`.
class Decoder {
 public:
  Decoder(const fbs::Manifest& source, size_t bytes, const std::string& where)
      : source_(source), where_(where), text_left_(bytes * kTextFactor) {}

  StatusOr<Manifest> Decode() {
    XH_RETURN_IF_ERROR(CheckVersion());
    XH_RETURN_IF_ERROR(Text(source_.producer(), &result_.producer));
    XH_RETURN_IF_ERROR(DecodeShards());
    XH_RETURN_IF_ERROR(DecodeTensors());
    XH_RETURN_IF_ERROR(CheckLayout());
    XH_RETURN_IF_ERROR(DecodeLayers());
    XH_RETURN_IF_ERROR(DecodePairs(source_.metadata(), "metadata", &result_.metadata));
    return std::move(result_);
  }

 private:
  template <typename... Args>
  Status Malformed(const Args&... args) const {
    return Corrupt(where_, ": ", args...);
  }

  Status CheckVersion() const {
    if (source_.format_major() != 1) {
      return Incompatible(where_, " has format ", source_.format_major(), ".", source_.format_minor(),
                          "; this release supports 1.x");
    }
    if (source_.required_features() != nullptr && source_.required_features()->size() > 0) {
      const flatbuffers::String* name = source_.required_features()->Get(0);
      return Incompatible(where_, " needs the feature ", Quoted(name->str().substr(0, 200)),
                          ", which this release does not know; a newer libxhybrid is needed");
    }
    return absl::OkStatus();
  }

  Status Text(const flatbuffers::String* text, std::string* out) {
    if (text == nullptr) return absl::OkStatus();
    if (text->size() > text_left_) return Malformed("strings share more bytes than a manifest of this size may hold");
    text_left_ -= text->size();
    out->assign(text->c_str(), text->size());
    return absl::OkStatus();
  }

  Status Name(const std::string& what, const flatbuffers::String* text, std::string* out) {
    XH_RETURN_IF_ERROR(Text(text, out));
    Status named = CheckName(what, *out);
    return named.ok() ? named : Malformed(std::string(named.message()));
  }

  Status DecodePairs(const flatbuffers::Vector<flatbuffers::Offset<fbs::Pair>>* pairs, const std::string& what,
                     std::map<std::string, std::string>* out) {
    if (pairs == nullptr) return absl::OkStatus();
    std::string key, before, value;
    for (const fbs::Pair* pair : *pairs) {
      XH_RETURN_IF_ERROR(Name(what + " key", pair->key(), &key));
      if (!before.empty() && key <= before) {
        return Malformed(what, " key ", Quoted(key), " after ", Quoted(before), "; keys must be sorted and unique");
      }
      value.clear();
      XH_RETURN_IF_ERROR(Text(pair->value(), &value));
      before = key;
      out->emplace_hint(out->end(), key, value);
    }
    return absl::OkStatus();
  }

  Status DecodeLayers() {
    if (source_.layers() == nullptr) return absl::OkStatus();
    for (const fbs::Layer* layer : *source_.layers()) {
      LayerEntry entry;
      XH_RETURN_IF_ERROR(Name("layer kind", layer->kind(), &entry.kind));
      XH_RETURN_IF_ERROR(DecodePairs(layer->settings(), "layer setting", &entry.settings));
      result_.layers.push_back(std::move(entry));
    }
    return absl::OkStatus();
  }

  Status DecodeDigest(const fbs::Shard& shard, ShardEntry* entry) const {
    const size_t have = shard.digest() != nullptr ? shard.digest()->size() : 0;
    size_t need = 0;
    switch (shard.digest_kind()) {
      case fbs::Digest::None:
        entry->digest_kind = DigestKind::kNone;
        break;
      case fbs::Digest::Crc32c:
        entry->digest_kind = DigestKind::kCrc32c, need = 4;
        break;
      case fbs::Digest::Sha256:
        entry->digest_kind = DigestKind::kSha256, need = 32;
        break;
      default:
        return Incompatible(where_, ": shard ", Quoted(entry->path), " has digest kind ",
                            static_cast<int>(shard.digest_kind()), "; this release supports 0 to 2");
    }
    if (have != need) {
      return Malformed("shard ", Quoted(entry->path), " has a digest of ", have, " bytes; its kind takes ", need);
    }
    if (have > 0) entry->digest.assign(shard.digest()->begin(), shard.digest()->end());
    return absl::OkStatus();
  }

  Status DecodeShards() {
    std::set<std::string> paths = {kManifestFile};
    for (const fbs::Shard* shard : *source_.shards()) {
      ShardEntry entry;
      XH_RETURN_IF_ERROR(Text(shard->path(), &entry.path));
      Status bare = CheckBareFileName(entry.path);
      if (!bare.ok()) return Malformed("shard ", std::string(bare.message()));
      if (!paths.insert(entry.path).second) return Malformed("shard ", Quoted(entry.path), " is listed twice");
      if (shard->bytes() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Malformed("shard ", Quoted(entry.path), " has ", shard->bytes(), " bytes; allowed: below 2^63");
      }
      entry.bytes = static_cast<int64_t>(shard->bytes());
      XH_RETURN_IF_ERROR(DecodeDigest(*shard, &entry));
      result_.shards.push_back(std::move(entry));
    }
    return absl::OkStatus();
  }

  Status DecodeTensors() {
    for (const fbs::Tensor* tensor : *source_.tensors()) {
      TensorEntry entry;
      XH_RETURN_IF_ERROR(Name("tensor name", tensor->name(), &entry.name));
      if (!result_.tensors.empty() && entry.name <= result_.tensors.back().name) {
        return Malformed("tensor ", Quoted(entry.name), " after ", Quoted(result_.tensors.back().name),
                         "; names must be sorted and unique");
      }
      XH_RETURN_IF_ERROR(DecodeShape(*tensor, &entry));
      XH_RETURN_IF_ERROR(DecodePlace(*tensor, &entry));
      entry.crc32c = tensor->crc32c();
      result_.tensors.push_back(std::move(entry));
    }
    return absl::OkStatus();
  }

  Status DecodeShape(const fbs::Tensor& tensor, TensorEntry* entry) const {
    entry->dtype = static_cast<xh_dtype>(tensor.dtype());
    if (entry->dtype > XH_U8) {
      return Incompatible(where_, ": tensor ", Quoted(entry->name), " has dtype ", entry->dtype,
                          "; this release supports ", XH_F32, " to ", XH_U8);
    }
    if (tensor.shape()->size() > XH_MAX_RANK) {  // before anything is copied
      return Malformed("tensor ", Quoted(entry->name), " has ", tensor.shape()->size(),
                       " dimensions; allowed: at most ", XH_MAX_RANK);
    }
    // The verifier does not check that 8-byte elements of a vector are aligned.
    entry->shape.resize(tensor.shape()->size());
    if (!entry->shape.empty()) {
      std::memcpy(entry->shape.data(), tensor.shape()->Data(), entry->shape.size() * sizeof(int64_t));
    }
    StatusOr<int64_t> bytes = TensorBytes(entry->dtype, entry->shape);
    if (!bytes.ok()) return Malformed("tensor ", Quoted(entry->name), ": ", std::string(bytes.status().message()));
    entry->bytes = *bytes;
    if (tensor.bytes() != static_cast<uint64_t>(*bytes)) {
      return Malformed("tensor ", Quoted(entry->name), " is given ", tensor.bytes(), " bytes; its shape takes ",
                       *bytes);
    }
    return absl::OkStatus();
  }

  Status DecodePlace(const fbs::Tensor& tensor, TensorEntry* entry) const {
    entry->shard = tensor.shard();
    entry->offset = tensor.offset();
    if (entry->shard >= result_.shards.size()) {
      return Malformed("tensor ", Quoted(entry->name), " lies in shard ", entry->shard, " of ", result_.shards.size());
    }
    if (entry->offset % kTensorAlignment != 0) {
      return Malformed("tensor ", Quoted(entry->name), " begins at ", entry->offset, "; allowed: multiples of ",
                       kTensorAlignment);
    }
    const uint64_t shard_bytes = static_cast<uint64_t>(result_.shards[entry->shard].bytes);
    const uint64_t bytes = static_cast<uint64_t>(entry->bytes);
    if (bytes > shard_bytes || entry->offset > shard_bytes - bytes) {
      return Malformed("tensor ", Quoted(entry->name), " takes ", bytes, " bytes at ", entry->offset,
                       ", beyond the end of its shard of ", shard_bytes, " bytes");
    }
    return absl::OkStatus();
  }

  // No byte of a shard belongs to two tensors, and none that is not padding belongs to nobody.
  Status CheckLayout() const {
    const std::vector<const TensorEntry*> order = InStorageOrder(result_);
    auto next = order.begin();
    for (size_t shard = 0; shard < result_.shards.size(); ++shard) {
      uint64_t end = 0;
      for (; next != order.end() && (*next)->shard == shard; ++next) {
        const TensorEntry& tensor = **next;
        if (tensor.offset < end) return Malformed("tensor ", Quoted(tensor.name), " overlaps the one before it");
        XH_RETURN_IF_ERROR(CheckGap(shard, end, tensor.offset));
        end = tensor.offset + static_cast<uint64_t>(tensor.bytes);
      }
      XH_RETURN_IF_ERROR(CheckGap(shard, end, static_cast<uint64_t>(result_.shards[shard].bytes)));
    }
    return absl::OkStatus();
  }

  Status CheckGap(size_t shard, uint64_t from, uint64_t to) const {
    if (to - from < static_cast<uint64_t>(kTensorAlignment)) return absl::OkStatus();
    return Malformed("shard ", Quoted(result_.shards[shard].path), " has ", to - from,
                     " bytes that no tensor covers, at ", from, "; allowed: padding below ", kTensorAlignment);
  }

  const fbs::Manifest& source_;
  const std::string& where_;
  size_t text_left_;
  Manifest result_;
};

}  // namespace

std::vector<const TensorEntry*> InStorageOrder(const Manifest& manifest) {
  std::vector<const TensorEntry*> order;
  for (const TensorEntry& tensor : manifest.tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const TensorEntry* a, const TensorEntry* b) {
    return std::tie(a->shard, a->offset, a->bytes) < std::tie(b->shard, b->offset, b->bytes);
  });
  return order;
}

StatusOr<Manifest> DecodeManifest(const std::vector<uint8_t>& file, const std::string& where) {
  XH_RETURN_IF_ERROR(CheckHeader(file, where));
  const uint8_t* flatbuffer = file.data() + kManifestHeaderBytes;
  const size_t bytes = file.size() - kManifestHeaderBytes;
  if (bytes > static_cast<size_t>(kManifestCap)) {
    return Corrupt(where, " has ", bytes, " bytes of manifest; allowed: at most ", kManifestCap);
  }
  flatbuffers::Verifier verifier(flatbuffer, bytes, kVerifierDepth, kVerifierTables);
  if (!fbs::VerifyManifestBuffer(verifier)) return Corrupt(where, " is malformed: it does not hold a manifest");
  return Decoder(*fbs::GetManifest(flatbuffer), bytes, where).Decode();
}

}  // namespace xh
