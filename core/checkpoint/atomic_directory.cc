#include "core/checkpoint/atomic_directory.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "core/checkpoint/entries.h"
#include "core/checkpoint/names.h"

namespace xh {
namespace {

struct Target {
  std::string parent;
  std::string name;
};

Target Split(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return {".", path};
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

std::string AsideName(const std::string& name) { return "." + name + ".old"; }
std::string TemporaryPrefix(const std::string& name) { return "." + name + ".tmp-"; }

// The process that made the directory `entry`, 0 when it is not one of ours.
pid_t OwnerOf(const std::string& entry, const std::string& prefix) {
  if (entry.size() <= prefix.size() || entry.size() > prefix.size() + 9 ||
      entry.compare(0, prefix.size(), prefix) != 0) {
    return 0;
  }
  pid_t owner = 0;
  for (size_t i = prefix.size(); i < entry.size(); ++i) {
    if (entry[i] < '0' || entry[i] > '9') return 0;
    owner = owner * 10 + (entry[i] - '0');
  }
  return owner;
}

// A live writer holds a lock on its directory. The process id alone does not tell: it may have been given again, and in
// a container it often is. Where the file system has no locks, it decides.
bool IsStale(const File& parent, const std::string& entry, pid_t owner) {
  const bool own = owner == ::getpid();
  if (!own && !(::kill(owner, 0) != 0 && errno == ESRCH)) return false;
  StatusOr<File> directory = File::OpenDirectoryAt(parent, entry);
  if (!directory.ok()) return false;
  if (::flock(directory->descriptor(), LOCK_EX | LOCK_NB) == 0) return true;
  return errno != EWOULDBLOCK && !own;
}

}  // namespace

std::string SetAsidePath(const std::string& target) {
  const Target split = Split(target);
  return split.parent + "/" + AsideName(split.name);
}

StatusOr<std::unique_ptr<AtomicDirectory>> AtomicDirectory::Open(const std::string& target, bool replace,
                                                                 const std::string& marker) {
  const Target split = Split(target);
  if (split.name.empty() || split.name == "/" || split.name == "." || split.name == "..") {
    return InvalidArgument("checkpoint path ", Quoted(target), " does not end with a name for the new directory");
  }
  std::unique_ptr<AtomicDirectory> result(new AtomicDirectory);
  result->name_ = split.name;
  result->replace_ = replace;
  XH_ASSIGN_OR_RETURN(result->parent_, File::OpenDirectory(split.parent));
  XH_RETURN_IF_ERROR(result->PutBack());
  XH_RETURN_IF_ERROR(result->CheckTarget(marker));
  result->RemoveStale();
  XH_RETURN_IF_ERROR(result->Create());
  return result;
}

AtomicDirectory::~AtomicDirectory() { Abandon(); }

bool AtomicDirectory::Exists(const std::string& name) const {
  struct stat about;
  return ::fstatat(parent_.descriptor(), name.c_str(), &about, AT_SYMLINK_NOFOLLOW) == 0;
}

// What stays has a dot-name and is removed by the next writer. Also called by the destructor: nothing may be thrown.
void AtomicDirectory::Remove(const std::string& name) const noexcept {
  if (StorageRefused("remove")) return;
  RemoveAt(parent_.descriptor(), name.c_str());
}

// Ends what an interrupted replacement left: the old directory returns, or goes when the new one is in place.
Status AtomicDirectory::PutBack() {
  const std::string aside = AsideName(name_);
  if (!Exists(aside)) return absl::OkStatus();
  if (Exists(name_)) {
    Remove(aside);
  } else if (::renameat(parent_.descriptor(), aside.c_str(), parent_.descriptor(), name_.c_str()) != 0) {
    return SystemError("rename", Path(aside));
  }
  return absl::OkStatus();
}

Status AtomicDirectory::CheckTarget(const std::string& marker) const {
  if (!Exists(name_)) return absl::OkStatus();
  if (!replace_) return InvalidState(Path(name_), " exists; pass replace to write a new checkpoint in its place");
  StatusOr<File> old = File::OpenDirectoryAt(parent_, name_);
  if (old.ok()) {
    struct stat about;
    const bool marked = ::fstatat(old->descriptor(), marker.c_str(), &about, AT_SYMLINK_NOFOLLOW) == 0;
    if (marked) return absl::OkStatus();
    XH_ASSIGN_OR_RETURN(const std::vector<std::string> entries, EntriesOf(Path(name_)));
    if (entries.empty()) return absl::OkStatus();
  }
  return InvalidState(Path(name_), " is not a checkpoint and is not replaced; remove it, or choose another name");
}

void AtomicDirectory::RemoveStale() const {
  const std::string prefix = TemporaryPrefix(name_);
  const StatusOr<std::vector<std::string>> entries = EntriesOf(parent_.path());
  if (!entries.ok()) return;  // a directory that may be written to and not listed
  for (const std::string& entry : *entries) {
    const pid_t owner = OwnerOf(entry, prefix);
    if (owner > 0 && IsStale(parent_, entry, owner)) Remove(entry);
  }
}

Status AtomicDirectory::Create() {
  std::string temporary = TemporaryPrefix(name_) + std::to_string(::getpid());
  if (StorageRefused("mkdir") || ::mkdirat(parent_.descriptor(), temporary.c_str(), 0777) != 0) {
    if (errno == EEXIST) return InvalidState(Path(name_), " is being written by another writer of this process");
    return SystemError("create directory", Path(temporary));
  }
  temporary_ = std::move(temporary);
  XH_ASSIGN_OR_RETURN(directory_, File::OpenDirectoryAt(parent_, temporary_));
  if (::flock(directory_.descriptor(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return SystemError("lock", directory_.path());
  }
  return absl::OkStatus();
}

Status AtomicDirectory::Commit() {
  if (temporary_.empty()) return InvalidState(Path(name_), " was committed or abandoned before");
  Status done = directory_.Sync();
  if (done.ok()) done = Rename();
  if (!done.ok()) Abandon();
  return done;
}

Status AtomicDirectory::Rename() {
  std::string old_name;
  if (replace_ && Exists(name_)) {
    XH_RETURN_IF_ERROR(Replace(&old_name));
  } else {
    XH_RETURN_IF_ERROR(MoveIntoPlace());
  }
  temporary_.clear();
  const Status synced = parent_.Sync();
  if (!synced.ok()) return Annotate(synced, absl::StrCat(Path(name_), " is in place, but may not survive a power cut"));
  if (!old_name.empty()) Remove(old_name);
  return absl::OkStatus();
}

Status AtomicDirectory::MoveIntoPlace() {
  const int parent = parent_.descriptor();
  // NOREPLACE: an empty directory that appeared meanwhile must not vanish silently.
  bool moved = !StorageRefused("rename") &&
               ::renameat2(parent, temporary_.c_str(), parent, name_.c_str(), RENAME_NOREPLACE) == 0;
  if (!moved && (errno == EINVAL || errno == ENOSYS)) {
    moved = ::renameat(parent, temporary_.c_str(), parent, name_.c_str()) == 0;
  }
  if (moved) return absl::OkStatus();
  if (errno == EEXIST || errno == ENOTEMPTY) {
    return InvalidState(Path(name_), " appeared while the checkpoint was written; it is not replaced");
  }
  return SystemError("rename to", Path(name_));
}

Status AtomicDirectory::Replace(std::string* old_name) {
  const int parent = parent_.descriptor();
  const bool exchanged = !StorageRefused("exchange") &&
                         ::renameat2(parent, temporary_.c_str(), parent, name_.c_str(), RENAME_EXCHANGE) == 0;
  if (exchanged) {
    *old_name = temporary_;
    return absl::OkStatus();
  }
  if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP) return SystemError("exchange", Path(name_));
  // Two renames instead. Between them SetAsidePath is where the old directory is found.
  const std::string aside = AsideName(name_);
  if (StorageRefused("rename") || ::renameat(parent, name_.c_str(), parent, aside.c_str()) != 0) {
    return SystemError("rename", Path(name_));
  }
  if (StorageRefused("rename") || ::renameat(parent, temporary_.c_str(), parent, name_.c_str()) != 0) {
    const Status failed = SystemError("rename to", Path(name_));
    if (::renameat(parent, aside.c_str(), parent, name_.c_str()) == 0) return failed;
    return Annotate(failed, absl::StrCat("the old checkpoint is in ", Path(aside)));
  }
  *old_name = aside;
  return absl::OkStatus();
}

void AtomicDirectory::Abandon() {
  if (!temporary_.empty()) Remove(temporary_);
  temporary_.clear();
}

}  // namespace xh
