// Ends a text that comes in pieces at the first of some stop texts, which are never shown.
#ifndef XHYBRID_CORE_GENERATE_STOP_FILTER_H_
#define XHYBRID_CORE_GENERATE_STOP_FILTER_H_

#include <string>
#include <vector>

namespace xh {

// One thread at a time.
class StopFilter {
 public:
  StopFilter() = default;
  explicit StopFilter(std::vector<std::string> stop) : stop_(std::move(stop)) {}

  // The text that can be shown after `piece`: what could begin a stop text is held back. When a stop text is complete,
  // *stopped is set and the result is what came before it. Pieces of whole characters give whole characters.
  std::string Push(const std::string& piece, bool* stopped);
  // What is held back, at the end of a text that no stop text ended.
  std::string Flush();

 private:
  std::vector<std::string> stop_;
  std::string held_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_GENERATE_STOP_FILTER_H_
