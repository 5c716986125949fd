// Text by a format that is checked when it is compiled: absl::StrFormat for a library that lives on when memory ends.
// (absl's own appends to its string where nothing may be thrown.)
#ifndef XHYBRID_CORE_FORMAT_H_
#define XHYBRID_CORE_FORMAT_H_

#include <string>

#include "absl/strings/str_format.h"

namespace xh {

template <typename... Args>
std::string Format(const absl::FormatSpec<Args...>& format, const Args&... args) {
  const int size = absl::SNPrintF(nullptr, 0, format, args...);
  std::string text(static_cast<size_t>(size) + 1, '\0');  // and the zero that ends it
  absl::SNPrintF(text.data(), text.size(), format, args...);
  text.resize(static_cast<size_t>(size));
  return text;
}

}  // namespace xh

#endif  // XHYBRID_CORE_FORMAT_H_
