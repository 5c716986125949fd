// Lines of a text file, with what std::getline keeps quiet about.
#ifndef XHYBRID_CORE_LINES_H_
#define XHYBRID_CORE_LINES_H_

#include <istream>
#include <string>

#include "core/error.h"

namespace xh {

// Reads the next line of `file`, which was opened from `path`; false at its end. A disk or a memory that failed on the
// way is no end: IoError, or std::bad_alloc.
StatusOr<bool> NextLine(std::istream& file, const std::string& path, std::string* line);

}  // namespace xh

#endif  // XHYBRID_CORE_LINES_H_
