#include "core/generate/stop_filter.h"

#include <algorithm>
#include <utility>

namespace xh {

std::string StopFilter::Push(const std::string& piece, bool* stopped) {
  held_ += piece;
  size_t first = std::string::npos;
  size_t longest = 0;  // end of the text that begins a stop text
  for (const std::string& stop : stop_) {
    first = std::min(first, held_.find(stop));
    for (size_t n = std::min(stop.size(), held_.size()); n > longest; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) longest = n;
    }
  }
  *stopped = first != std::string::npos;
  std::string shown = held_.substr(0, *stopped ? first : held_.size() - longest);
  held_ = *stopped ? "" : held_.substr(shown.size());
  return shown;
}

std::string StopFilter::Flush() { return std::exchange(held_, ""); }

}  // namespace xh
