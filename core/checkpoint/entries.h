// Directories listed and removed. Not by std::filesystem, whose iterator needs memory in a noexcept function.
#ifndef XHYBRID_CORE_CHECKPOINT_ENTRIES_H_
#define XHYBRID_CORE_CHECKPOINT_ENTRIES_H_

#include <string>
#include <vector>

#include "core/error.h"

namespace xh {

// The names in a directory, in no order, without "." and "..".
StatusOr<std::vector<std::string>> EntriesOf(const std::string& directory);

// Removes what bears the name in an open directory: a file, a link, or a directory with all it holds. False, with
// errno, when something stays. A name that is not there is removed already. Needs no memory that it could not do
// without.
bool RemoveAt(int directory, const char* name) noexcept;
Status Remove(const std::string& path);

}  // namespace xh

#endif  // XHYBRID_CORE_CHECKPOINT_ENTRIES_H_
