#include "charsmap.h"

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace xh::text {
namespace {

// Fields of ModelProto and NormalizerSpec (sentencepiece_model.proto).
constexpr uint64_t kNormalizer = 3, kDenormalizer = 5, kCharsmap = 2;

// Walks the fields of a protobuf message.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : rest_(bytes) {}

  // The next field: its number, and its bytes where it has a length. False at the end and at what is no field.
  bool Next(uint64_t* number, std::string_view* bytes) {
    uint64_t key = 0, value = 0;
    if (!Varint(&key)) return false;
    *number = key >> 3;
    *bytes = {};
    switch (key & 7) {
      case 0:
        return Varint(&value);
      case 1:
        return Take(8, bytes);
      case 2:
        return Varint(&value) && Take(value, bytes);
      case 5:
        return Take(4, bytes);
      default:
        return false;
    }
  }

 private:
  bool Varint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }

  bool Take(uint64_t count, std::string_view* bytes) {
    if (count > rest_.size()) return false;
    *bytes = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return true;
  }

  std::string_view rest_;
};

// A double-array trie as the Darts library lays it out: units of 32 bits.
class Trie {
 public:
  explicit Trie(std::string_view bytes) : units_(bytes.size() / sizeof(uint32_t)) {
    if (!units_.empty()) std::memcpy(units_.data(), bytes.data(), units_.size() * sizeof(uint32_t));
  }

  // Every unit that a text can lead to has its children within the trie, and its value, an index into `texts`, within
  // that.
  bool IsSound(std::string_view texts) const {
    if (units_.empty()) return false;
    std::vector<bool> seen(units_.size());
    std::vector<size_t> open = {0};
    while (!open.empty()) {
      const size_t at = open.back();
      open.pop_back();
      if (seen[at]) continue;
      seen[at] = true;
      const size_t children = at ^ Offset(units_[at]);
      if ((children | 0xff) >= units_.size()) return false;  // a byte of the text chooses one of 256
      if (HasValue(units_[at]) && (units_[children] & ~(1u << 31)) >= texts.size()) return false;
      for (size_t byte = 1; byte < 256; ++byte) {
        const size_t child = children ^ byte;
        if (Label(units_[child]) == byte) open.push_back(child);
      }
    }
    return true;
  }

 private:
  static size_t Offset(uint32_t unit) { return static_cast<size_t>(unit >> 10) << ((unit & (1u << 9)) >> 6); }
  static bool HasValue(uint32_t unit) { return (unit >> 8 & 1) != 0; }
  static uint32_t Label(uint32_t unit) { return unit & (1u << 31 | 0xff); }

  std::vector<uint32_t> units_;
};

// The size of the trie, the trie, and texts that each end with a NUL.
bool IsSound(std::string_view charsmap) {
  if (charsmap.empty()) return true;
  uint32_t trie_bytes = 0;
  if (charsmap.size() <= sizeof(trie_bytes)) return false;
  std::memcpy(&trie_bytes, charsmap.data(), sizeof(trie_bytes));
  charsmap.remove_prefix(sizeof(trie_bytes));
  if (trie_bytes >= charsmap.size() || charsmap.back() != '\0') return false;
  return Trie(charsmap.substr(0, trie_bytes)).IsSound(charsmap.substr(trie_bytes));
}

}  // namespace

bool CharsmapsAreSound(const std::string& model) {
  uint64_t field = 0, inner = 0;
  std::string_view bytes, charsmap;
  for (Fields fields(model); fields.Next(&field, &bytes);) {
    if (field != kNormalizer && field != kDenormalizer) continue;
    for (Fields specification(bytes); specification.Next(&inner, &charsmap);) {
      if (inner == kCharsmap && !IsSound(charsmap)) return false;
    }
  }
  return true;
}

}  // namespace xh::text
