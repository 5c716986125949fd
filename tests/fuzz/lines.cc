// Files of lines, gzip'd or not.
#include "core/line_reader.h"
#include "tests/fuzz/support.h"

namespace xh::fuzz {
namespace {

Status ReadLines(const std::string& path) {
  XH_ASSIGN_OR_RETURN(LineReader reader, LineReader::Open(path));
  std::vector<std::string> lines;
  int64_t first = 0, next = 1;
  do {
    XH_RETURN_IF_ERROR(reader.NextBlock(&lines, &first));
    Require(first == next, "lines are numbered one after the other");
    next += static_cast<int64_t>(lines.size());
    for (const std::string& line : lines) Require(line.find('\n') == std::string::npos, "a line has no end inside");
  } while (!lines.empty());
  Require(reader.bytes_read() == reader.bytes(), "a file is read to its end");
  return absl::OkStatus();
}

}  // namespace
}  // namespace xh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace xh;  // NOLINT: the library under test
  fuzz::FreshDirectory();
  fuzz::Put("lines", std::string(reinterpret_cast<const char*>(data), size));
  // A byte may stand for a thousand of a line, whose buffer doubles; beside it a megabyte of line ends as lines.
  const fuzz::MemoryBound bound(64 << 20, 3200, size);
  fuzz::CheckMessage(fuzz::ReadLines("lines"));
  return 0;
}
