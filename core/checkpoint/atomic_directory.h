// A directory that appears under its name complete or not at all.
#ifndef XHYBRID_CORE_CHECKPOINT_ATOMIC_DIRECTORY_H_
#define XHYBRID_CORE_CHECKPOINT_ATOMIC_DIRECTORY_H_

#include <memory>
#include <string>

#include "core/checkpoint/file.h"
#include "core/error.h"

namespace xh {

// Where the old directory lies while it is being replaced on a file system that cannot exchange two names: ".NAME.old"
// beside it. If the process ends in that moment, readers find it there and the next writer puts it back.
std::string SetAsidePath(const std::string& target);

// Collects files in the sibling ".NAME.tmp-<pid>" and renames it. One thread at a time.
class AtomicDirectory {
 public:
  // Makes the temporary directory; those that dead processes left for the same target are removed first. An existing
  // target is InvalidState unless `replace`, and then it must be empty or hold a file `marker`: nothing else is ever
  // removed. The parent must exist.
  static StatusOr<std::unique_ptr<AtomicDirectory>> Open(const std::string& target, bool replace,
                                                         const std::string& marker);
  ~AtomicDirectory();  // abandons what is not committed

  const File& directory() const { return directory_; }

  // The files must be synchronised already. Synchronises the directory, renames it and synchronises its parent. An
  // error that comes before the rename leaves the target as it was; the one after it says that the target is in place.
  Status Commit();
  // Removes the temporary directory. Commit is not possible afterwards.
  void Abandon();

 private:
  AtomicDirectory() = default;
  Status CheckTarget(const std::string& marker) const;
  Status PutBack();
  void RemoveStale() const;
  Status Create();
  Status Rename();
  Status MoveIntoPlace();
  Status Replace(std::string* old_name);
  bool Exists(const std::string& name) const;
  void Remove(const std::string& name) const noexcept;
  std::string Path(const std::string& name) const { return parent_.path() + "/" + name; }

  bool replace_ = false;
  File parent_;
  File directory_;         // holds a lock (flock) as the sign that its writer lives
  std::string name_;       // of the target in parent_
  std::string temporary_;  // in parent_; empty when there is none
};

}  // namespace xh

#endif  // XHYBRID_CORE_CHECKPOINT_ATOMIC_DIRECTORY_H_
