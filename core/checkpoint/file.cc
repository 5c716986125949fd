#include "core/checkpoint/file.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <limits>

namespace xh {
namespace {

std::atomic<StorageHook> storage_hook{nullptr};

constexpr int64_t kLargestCall = 1ll << 30;  // Linux moves less than 2 GiB a call
constexpr size_t kCopyAlignment = 4096;
alignas(64) constexpr uint8_t kNoBytes[64] = {};

std::string Child(const File& directory, const std::string& name) { return directory.path() + "/" + name; }

}  // namespace

Status SystemError(const char* call, const std::string& path) {
  const int reason = errno;
  char buffer[128];
  const char* text = strerror_r(reason, buffer, sizeof(buffer));
  if (reason == ENOENT) return NotFound("cannot ", call, " ", path, ": ", text);
  return IoError("cannot ", call, " ", path, ": ", text);
}

void SetStorageHook(StorageHook hook) { storage_hook.store(hook); }

bool StorageRefused(const char* call) {
  StorageHook hook = storage_hook.load(std::memory_order_relaxed);
  const int reason = hook != nullptr ? hook(call) : 0;
  if (reason != 0) errno = reason;
  return reason != 0;
}

File::File(File&& other) noexcept : descriptor_(other.descriptor_), path_(std::move(other.path_)) {
  other.descriptor_ = -1;
}

File& File::operator=(File&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

StatusOr<File> File::OpenRegular(int directory, const std::string& name, std::string path, Links links) {
  // O_NONBLOCK: opening a pipe that nobody writes must not hang.
  const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | (links == Links::kRefuse ? O_NOFOLLOW : 0);
  File file(::openat(directory, name.c_str(), flags), std::move(path));
  if (file.descriptor_ < 0) {
    if (errno == ELOOP && links == Links::kRefuse) {
      return Corrupt(file.path_, " is a symbolic link; allowed: a regular file");
    }
    return SystemError("open", file.path_);
  }
  struct stat about;
  if (::fstat(file.descriptor_, &about) != 0) return SystemError("examine", file.path_);
  if (!S_ISREG(about.st_mode)) return Corrupt(file.path_, " is not a regular file");
  return file;
}

StatusOr<File> File::OpenRead(const std::string& path, Links links) { return OpenRegular(AT_FDCWD, path, path, links); }

StatusOr<File> File::OpenReadAt(const File& directory, const std::string& name, Links links) {
  return OpenRegular(directory.descriptor_, name, Child(directory, name), links);
}

StatusOr<File> File::OpenDirectory(const std::string& path) {
  File file(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), path);
  if (file.descriptor_ < 0) return SystemError("open directory", path);
  return file;
}

StatusOr<File> File::OpenDirectoryAt(const File& directory, const std::string& name) {
  const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  File file(::openat(directory.descriptor_, name.c_str(), flags), Child(directory, name));
  if (file.descriptor_ < 0) return SystemError("open directory", file.path_);
  return file;
}

StatusOr<File> File::CreateAt(const File& directory, const std::string& name) {
  const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  std::string path = Child(directory, name);
  if (StorageRefused("create")) return SystemError("create", path);
  File file(::openat(directory.descriptor_, name.c_str(), flags, 0666), std::move(path));
  if (file.descriptor_ < 0) return SystemError("create", file.path_);
  return file;
}

StatusOr<int64_t> File::Size() const {
  struct stat about;
  if (::fstat(descriptor_, &about) != 0) return SystemError("examine", path_);
  return static_cast<int64_t>(about.st_size);
}

Status File::ReadAt(int64_t offset, void* out, int64_t bytes) const {
  char* to = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t got = ::pread(descriptor_, to, static_cast<size_t>(std::min(bytes, kLargestCall)), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError("read", path_);
    if (got == 0) return Corrupt(path_, " ends at byte ", offset, "; ", bytes, " more bytes are expected");
    to += got;
    offset += got;
    bytes -= got;
  }
  return absl::OkStatus();
}

Status File::Write(const void* data, int64_t bytes) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    if (StorageRefused("write")) return SystemError("write", path_);
    const ssize_t put = ::write(descriptor_, from, static_cast<size_t>(std::min(bytes, kLargestCall)));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return SystemError("write", path_);
    from += put;
    bytes -= put;
  }
  return absl::OkStatus();
}

Status File::Sync() {
  const bool refused = StorageRefused("fsync");
  // EINVAL: some file systems cannot synchronise a directory; there is nothing more to do for it.
  if (refused || (::fsync(descriptor_) != 0 && errno != EINVAL)) return SystemError("synchronise", path_);
  return absl::OkStatus();
}

Status File::Close() {
  const int descriptor = std::exchange(descriptor_, -1);
  if (descriptor >= 0 && ::close(descriptor) != 0 && errno != EINTR) return SystemError("close", path_);
  return absl::OkStatus();
}

Region::Region(Region&& other) noexcept { *this = std::move(other); }

Region& Region::operator=(Region&& other) noexcept {
  std::swap(kind_, other.kind_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Region::~Region() {
  if (bytes_ == 0) return;  // points at kNoBytes
  void* data = const_cast<uint8_t*>(data_);
  if (kind_ == Kind::kMapped) ::munmap(data, static_cast<size_t>(bytes_));
  if (kind_ == Kind::kCopied) std::free(data);
}

StatusOr<Region> Region::Map(const File& file, int64_t offset, int64_t bytes) {
  if (bytes == 0) return Region(Kind::kMapped, kNoBytes, 0);
  void* data = ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ, MAP_PRIVATE, file.descriptor(), offset);
  if (data == MAP_FAILED) return SystemError("map", file.path());
  return Region(Kind::kMapped, static_cast<const uint8_t*>(data), bytes);
}

StatusOr<Region> Region::Copy(const File& file, int64_t offset, int64_t bytes) {
  if (bytes == 0) return Region(Kind::kCopied, kNoBytes, 0);
  if (bytes > std::numeric_limits<int64_t>::max() - static_cast<int64_t>(kCopyAlignment)) {
    return OutOfMemory("cannot hold ", bytes, " bytes of ", file.path());
  }
  const size_t rounded = (static_cast<size_t>(bytes) + kCopyAlignment - 1) / kCopyAlignment * kCopyAlignment;
  void* data = std::aligned_alloc(kCopyAlignment, rounded);
  if (data == nullptr) return OutOfMemory("cannot hold ", bytes, " bytes of ", file.path());
  Region region(Kind::kCopied, static_cast<const uint8_t*>(data), bytes);
  XH_RETURN_IF_ERROR(file.ReadAt(offset, data, bytes));
  return region;
}

StatusOr<Region> Region::MapOrCopy(const File& file, int64_t offset, int64_t bytes) {
  StatusOr<Region> mapped = Map(file, offset, bytes);
  if (mapped.ok()) return mapped;
  return Copy(file, offset, bytes);
}

}  // namespace xh
