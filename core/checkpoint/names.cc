#include "core/checkpoint/names.h"

#include <cstdint>

namespace xh {
namespace {

constexpr size_t kLongestName = 1023;
constexpr size_t kLongestFileName = 255;
constexpr size_t kLongestShown = 120;

bool IsControl(unsigned char byte) { return byte < 0x20 || byte == 0x7f; }

// Length of the UTF-8 sequence at `at`, 0 when it is malformed.
size_t SequenceLength(const std::string& text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() - at < length) return 0;
  uint32_t point = first & (0x7fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return 0;
    point = point << 6 | (byte(at + i) & 0x3fu);
  }
  const bool overlong = (length == 3 && point < 0x800) || (length == 4 && point < 0x10000);
  const bool surrogate = point >= 0xd800 && point < 0xe000;
  return overlong || surrogate || point > 0x10ffff ? 0 : length;
}

}  // namespace

bool IsUtf8(const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    const size_t length = SequenceLength(text, at);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

std::string Quoted(const std::string& text) {
  std::string shown = "\"";
  size_t at = 0;
  while (at < text.size() && at < kLongestShown) {
    const size_t length = SequenceLength(text, at);
    if (length == 0 || IsControl(static_cast<unsigned char>(text[at]))) {
      shown += '?';
      ++at;
    } else {
      shown.append(text, at, length);
      at += length;
    }
  }
  return shown + (at < text.size() ? "...\"" : "\"");
}

Status CheckName(const std::string& what, const std::string& name) {
  if (name.empty()) return InvalidArgument(what, " is empty; allowed: 1 to ", kLongestName, " bytes");
  if (name.size() > kLongestName) {
    return InvalidArgument(what, " ", Quoted(name), " has ", name.size(), " bytes; allowed: 1 to ", kLongestName);
  }
  for (char c : name) {
    if (IsControl(static_cast<unsigned char>(c))) {
      return InvalidArgument(what, " ", Quoted(name), " holds a control character; allowed: printable UTF-8");
    }
  }
  if (!IsUtf8(name)) return InvalidArgument(what, " ", Quoted(name), " is not UTF-8");
  return absl::OkStatus();
}

Status CheckBareFileName(const std::string& name) {
  XH_RETURN_IF_ERROR(CheckName("file name", name));
  if (name.size() > kLongestFileName || name[0] == '.' || name.find('/') != std::string::npos) {
    return InvalidArgument("file name ", Quoted(name),
                           " is not allowed: a bare name is needed, without directory, not ",
                           "beginning with a dot, of at most ", kLongestFileName, " bytes");
  }
  return absl::OkStatus();
}

}  // namespace xh
