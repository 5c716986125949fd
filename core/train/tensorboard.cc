#include "core/train/tensorboard.h"

#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "core/checkpoint/digest.h"

namespace xh {
namespace {

// The few protocol-buffer fields that an event with scalars has. Wire types: 0 varint, 1 eight bytes, 2 bytes, 5 four
// bytes.
void AppendVarint(std::string* out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>(value | 0x80));
  out->push_back(static_cast<char>(value));
}

void AppendTag(std::string* out, int field, int wire_type) {
  AppendVarint(out, static_cast<uint64_t>(field << 3 | wire_type));
}

template <typename T>
void AppendFixed(std::string* out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out->append(bytes, sizeof(T));
}

void AppendBytes(std::string* out, int field, const std::string& bytes) {
  AppendTag(out, field, 2);
  AppendVarint(out, bytes.size());
  *out += bytes;
}

std::string EventAt(int64_t step) {
  const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  std::string event;
  AppendTag(&event, 1, 1);  // wall_time
  AppendFixed(&event, now);
  AppendTag(&event, 2, 0);  // step
  AppendVarint(&event, static_cast<uint64_t>(step));
  return event;
}

// Checksums of a record are rotated and offset, so that a checksum of data that holds checksums stays meaningful.
uint32_t MaskedCrc(const std::string& bytes) {
  const uint32_t crc = Crc32c(bytes.data(), bytes.size());
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

}  // namespace

StatusOr<std::unique_ptr<EventWriter>> EventWriter::Open(const std::string& directory) {
  std::error_code failed;
  std::filesystem::create_directories(directory, failed);
  if (failed) return IoError("cannot create ", directory, ": ", failed.message());
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t seconds = std::chrono::duration_cast<std::chrono::seconds>(now).count();
  const std::string path = absl::StrCat(directory, "/events.out.tfevents.", seconds, ".xhybrid.", getpid());
  std::FILE* file = std::fopen(path.c_str(), "ab");
  if (file == nullptr && errno == ENOMEM) return OutOfMemory(path, ": out of memory");
  if (file == nullptr) return IoError(path, " cannot be opened: ", std::strerror(errno));
  std::unique_ptr<EventWriter> writer(new EventWriter(path, file));
  std::string first = EventAt(0);
  AppendBytes(&first, 3, "brain.Event:2");  // file_version
  XH_RETURN_IF_ERROR(writer->WriteRecord(first));
  return writer;
}

Status EventWriter::Append(int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  std::string summary;
  for (const auto& [tag, scalar] : scalars) {
    std::string value;
    AppendBytes(&value, 1, tag);
    AppendTag(&value, 2, 5);  // simple_value
    AppendFixed(&value, static_cast<float>(scalar));
    AppendBytes(&summary, 1, value);
  }
  std::string event = EventAt(step);
  AppendBytes(&event, 5, summary);
  return WriteRecord(event);
}

Status EventWriter::WriteRecord(const std::string& event) {
  std::string length, record;
  AppendFixed(&length, static_cast<uint64_t>(event.size()));
  record = length;
  AppendFixed(&record, MaskedCrc(length));
  record += event;
  AppendFixed(&record, MaskedCrc(event));
  if (std::fwrite(record.data(), 1, record.size(), file_.get()) != record.size() || std::fflush(file_.get()) != 0) {
    return IoError(path_, " cannot be written: ", std::strerror(errno));
  }
  return absl::OkStatus();
}

}  // namespace xh
