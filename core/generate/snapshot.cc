// A session's state as bytes:
//   8 bytes  "XHSTATE\0"        u32  version        u32  bytes of a cache value
//   32 bytes digest of the model's shape            i64  position
//   i32[8]   last tokens        f32[V] logits, where the position is not 0
//   state tensors, layer by layer in the order of MixerState: S, z, m whole, caches as far as they are used
//   u32      crc32c of everything before
// All numbers are little-endian.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/checkpoint/digest.h"
#include "core/checkpoint/dtype.h"
#include "core/generate/session.h"

namespace xh {
namespace {

constexpr char kMagic[8] = "XHSTATE";
constexpr uint32_t kVersion = 1;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t cache_bytes;
  char digest[32];
  int64_t position;
  int32_t tail[8];
};
static_assert(sizeof(Header) == 88, "the header has no padding");

}  // namespace

// Everything that decides what a state tensor means: sizes, rotary embedding and mixers, but no weights.
std::string Session::ShapeDigest() const {
  nlohmann::json config = ConfigToJson(model_->config);
  config.erase("eos_ids");
  config.erase("bos_id");
  const std::string text = config.dump();
  Sha256 sha;
  sha.Update(text.data(), text.size());
  const Sha256::Digest digest = sha.Finish();
  return std::string(digest.begin(), digest.end());
}

StatusOr<std::string> Session::Snapshot() const {
  XH_RETURN_IF_ERROR(CheckUsable());
  XH_RETURN_IF_ERROR(ReadLogits());
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.cache_bytes = static_cast<uint32_t>(DTypeBytes(model_->activation_dtype()));
  std::memcpy(header.digest, ShapeDigest().data(), sizeof(header.digest));
  header.position = position_;
  std::copy(writer_.tail().begin(), writer_.tail().end(), header.tail);

  std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  bytes.append(reinterpret_cast<const char*>(logits_.data()), logits_.size() * sizeof(float));
  for (const DecodeState::UsedPart& part : state_.UsedParts(0, position_)) {
    const size_t at = bytes.size();
    bytes.resize(at + static_cast<size_t>(part.bytes));
    XH_RETURN_IF_ERROR(model_->device->Copy(bytes.data() + at, part.data, part.bytes));
    XH_RETURN_IF_ERROR(model_->device->Synchronize());  // before the string grows and moves
  }
  const uint32_t checksum = Crc32c(bytes.data(), bytes.size());
  bytes.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
  return bytes;
}

Status Session::Restore(const void* bytes, int64_t size) {
  const char* data = static_cast<const char*>(bytes);
  Header header;
  uint32_t checksum = 0;
  const int64_t least = sizeof(header) + sizeof(checksum);
  if (data == nullptr || size < least) {
    return Corrupt("the snapshot has ", size, " bytes; allowed: at least ", least);
  }
  std::memcpy(&header, data, sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) return Corrupt("the bytes are no snapshot of a session");
  if (header.version != kVersion) {
    return Incompatible("the snapshot has version ", header.version, "; allowed: ", kVersion);
  }
  const int64_t end = size - static_cast<int64_t>(sizeof(checksum));
  std::memcpy(&checksum, data + end, sizeof(checksum));
  if (checksum != Crc32c(data, static_cast<size_t>(end))) return Corrupt("the snapshot is damaged or cut off");
  if (std::memcmp(header.digest, ShapeDigest().data(), sizeof(header.digest)) != 0) {
    return Incompatible("the snapshot belongs to a model of another shape");
  }
  if (header.cache_bytes != static_cast<uint32_t>(DTypeBytes(model_->activation_dtype()))) {
    return Incompatible("the snapshot belongs to a model of another dtype: its cache values have ", header.cache_bytes,
                        " bytes");
  }
  if (header.position < 0 || header.position > capacity()) {
    return InvalidArgument("position ", header.position, " of the snapshot exceeds capacity ", capacity());
  }

  const std::vector<DecodeState::UsedPart> parts = state_.UsedParts(0, header.position);
  const int64_t vocab_size = header.position > 0 ? model_->config.vocab_size : 0;
  int64_t expected = least + vocab_size * static_cast<int64_t>(sizeof(float));
  for (const DecodeState::UsedPart& part : parts) expected += part.bytes;
  if (size != expected) return Corrupt("the snapshot has ", size, " bytes; its position needs ", expected);
  std::vector<float> logits(static_cast<size_t>(vocab_size));
  const char* at = data + sizeof(header);
  if (vocab_size > 0) std::memcpy(logits.data(), at, logits.size() * sizeof(float));
  for (float logit : logits) {
    if (!std::isfinite(logit)) return Corrupt("the snapshot holds logits that are not finite");
  }

  XH_RETURN_IF_ERROR(Reset());
  lost_ = "a restore did not finish";  // until it has
  at += logits.size() * sizeof(float);
  for (const DecodeState::UsedPart& part : parts) {
    XH_RETURN_IF_ERROR(model_->device->Copy(part.data, at, part.bytes));
    at += part.bytes;
  }
  XH_RETURN_IF_ERROR(model_->device->Synchronize());
  if (!logits.empty()) {
    answer_.best[0] = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  logits_ = std::move(logits);
  answered_ = nullptr;
  position_ = header.position;
  Writer::Tail tail;
  std::copy(std::begin(header.tail), std::end(header.tail), tail.begin());
  writer_.Restart(tail);
  lost_.clear();
  return absl::OkStatus();
}

StatusOr<std::unique_ptr<Session>> Session::Fork() const {
  XH_ASSIGN_OR_RETURN(const std::string bytes, Snapshot());
  XH_ASSIGN_OR_RETURN(std::unique_ptr<Session> fork, Open(model_, capacity()));
  XH_RETURN_IF_ERROR(fork->Restore(bytes.data(), static_cast<int64_t>(bytes.size())));
  fork->writer_ = writer_;
  return fork;
}

}  // namespace xh
