#include "core/lines.h"

#include <cerrno>
#include <ios>

#include "core/checkpoint/file.h"

namespace xh {

StatusOr<bool> NextLine(std::istream& file, const std::string& path, std::string* line) {
  try {
    file.exceptions(std::ios::badbit);  // else getline swallows what is thrown below it
    return static_cast<bool>(std::getline(file, *line));
  } catch (const std::ios_base::failure&) {
    return SystemError("read", path);
  }
}

}  // namespace xh
