#include "core/checkpoint/entries.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "core/checkpoint/file.h"

namespace xh {
namespace {

using Directory = std::unique_ptr<DIR, int (*)(DIR*)>;

// The next name; NULL at the end, or with errno set.
const char* NextName(DIR* directory) noexcept {
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(directory);
    if (entry == nullptr) return nullptr;
    if (::strcmp(entry->d_name, ".") != 0 && ::strcmp(entry->d_name, "..") != 0) return entry->d_name;
  }
}

Directory OpenAt(int parent, const char* name) noexcept {
  const int descriptor = ::openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  Directory directory(descriptor >= 0 ? ::fdopendir(descriptor) : nullptr, ::closedir);
  if (directory == nullptr && descriptor >= 0) {
    const int reason = errno;
    ::close(descriptor);
    errno = reason;
  }
  return directory;
}

// All that a directory holds; what cannot be removed does not keep the rest.
bool EmptyOut(DIR* directory) noexcept {
  int reason = 0;
  while (const char* name = NextName(directory)) {
    if (!RemoveAt(::dirfd(directory), name) && reason == 0) reason = errno;
  }
  if (reason == 0) reason = errno;
  errno = reason;
  return reason == 0;
}

}  // namespace

StatusOr<std::vector<std::string>> EntriesOf(const std::string& directory) {
  const Directory opened(::opendir(directory.c_str()), ::closedir);
  if (opened == nullptr && errno == ENOMEM) return OutOfMemory("cannot list ", directory, ": out of memory");
  if (opened == nullptr) return SystemError("list", directory);
  std::vector<std::string> names;
  while (const char* name = NextName(opened.get())) names.emplace_back(name);
  if (errno != 0) return SystemError("list", directory);
  return names;
}

bool RemoveAt(int parent, const char* name) noexcept {
  if (::unlinkat(parent, name, 0) == 0 || errno == ENOENT) return true;
  if (errno != EISDIR && errno != EPERM) return false;  // EPERM: what some systems say of a directory
  const Directory directory = OpenAt(parent, name);
  return directory != nullptr && EmptyOut(directory.get()) && ::unlinkat(parent, name, AT_REMOVEDIR) == 0;
}

Status Remove(const std::string& path) {
  if (RemoveAt(AT_FDCWD, path.c_str())) return absl::OkStatus();
  if (errno == ENOMEM) return OutOfMemory("cannot remove ", path, ": out of memory");
  return SystemError("remove", path);
}

}  // namespace xh
