// Files and directories as owned descriptors. A failure of the operating system becomes NotFound (it does not exist) or
// IoError, naming the path and the system's reason.
#ifndef XHYBRID_CORE_CHECKPOINT_FILE_H_
#define XHYBRID_CORE_CHECKPOINT_FILE_H_

#include <cstdint>
#include <string>

#include "core/error.h"

namespace xh {

// The error of `call` on `path` from the current errno: "cannot open /a/b: Permission denied".
Status SystemError(const char* call, const std::string& path);

// Whether a symbolic link as the last part of a path is followed. Checkpoints refuse them; a Hugging Face cache
// consists of them.
enum class Links { kRefuse, kFollow };

// Called before each system call that changes storage, with the call's name: "mkdir", "create", "write", "fsync",
// "rename", "exchange", "remove". A result other than 0 is taken as the errno of that call, which is then not made. For
// tests that stop the process, or fail a call, at every step. Set it while no other thread writes.
using StorageHook = int (*)(const char* call);
void SetStorageHook(StorageHook hook);  // nullptr: none
// True when the hook refuses `call`; errno is then set.
bool StorageRefused(const char* call);

// An open file or directory, closed with the object. Reading is safe from any thread; writing belongs to one.
class File {
 public:
  File() = default;
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  // A regular file for reading; anything else (directory, pipe, device) is Corrupt, as is a link that is refused.
  static StatusOr<File> OpenRead(const std::string& path, Links links);
  static StatusOr<File> OpenReadAt(const File& directory, const std::string& name, Links links);
  static StatusOr<File> OpenDirectory(const std::string& path);
  static StatusOr<File> OpenDirectoryAt(const File& directory, const std::string& name);  // links refused
  // A new, empty file for writing; IoError when the name exists.
  static StatusOr<File> CreateAt(const File& directory, const std::string& name);

  StatusOr<int64_t> Size() const;
  // Fills `out` with exactly `bytes` bytes; Corrupt when the file ends before.
  Status ReadAt(int64_t offset, void* out, int64_t bytes) const;
  Status Write(const void* data, int64_t bytes);
  Status Sync();   // contents, or a directory's names, are on the medium when it returns
  Status Close();  // reports what the destructor cannot

  const std::string& path() const { return path_; }
  int descriptor() const { return descriptor_; }

 private:
  File(int descriptor, std::string path) : descriptor_(descriptor), path_(std::move(path)) {}
  static StatusOr<File> OpenRegular(int directory, const std::string& name, std::string path, Links links);

  int descriptor_ = -1;
  std::string path_;
};

// Read-only bytes of a file, mapped or copied. Moving it does not move the bytes.
class Region {
 public:
  Region() = default;
  Region(Region&& other) noexcept;
  Region& operator=(Region&& other) noexcept;
  ~Region();

  // A private mapping. `offset` must be a multiple of the page size. Reading it raises SIGBUS when somebody truncates
  // the file meanwhile. It outlives `file`.
  static StatusOr<Region> Map(const File& file, int64_t offset, int64_t bytes);
  // A copy, aligned to 4,096.
  static StatusOr<Region> Copy(const File& file, int64_t offset, int64_t bytes);
  // The mapping, or a copy where the system refuses to map.
  static StatusOr<Region> MapOrCopy(const File& file, int64_t offset, int64_t bytes);

  // Never NULL for a region made by the functions above, even of 0 bytes; NULL for a default one.
  const uint8_t* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  enum class Kind { kNone, kMapped, kCopied };
  Region(Kind kind, const uint8_t* data, int64_t bytes) : kind_(kind), data_(data), bytes_(bytes) {}

  Kind kind_ = Kind::kNone;
  const uint8_t* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace xh

#endif  // XHYBRID_CORE_CHECKPOINT_FILE_H_
