// The lines of a text file, gzip'd or not, from its first to its last.
#ifndef XHYBRID_CORE_LINE_READER_H_
#define XHYBRID_CORE_LINE_READER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/checkpoint/digest.h"
#include "core/checkpoint/file.h"
#include "core/error.h"
#include "core/gzip.h"

namespace xh {

// Reads a megabyte at a time, and digests all that it reads. One thread at a time.
class LineReader {
 public:
  // A regular file, or a link to one: no pipe and no device, which may never end.
  static StatusOr<LineReader> Open(const std::string& path);

  // Replaces *lines by the next ones, without their ends; none left: empty. `first` is the number of the first, from 1.
  // A line longer than 64 MiB is InvalidArgument.
  Status NextBlock(std::vector<std::string>* lines, int64_t* first);

  int64_t bytes() const { return size_; }         // of the file as it lies there
  int64_t bytes_read() const { return offset_; }  // so far
  std::string Digest();                           // SHA-256 of those, hexadecimal; once, at the end

 private:
  LineReader(File file, int64_t size) : file_(std::move(file)), size_(size) {}

  Status ReadFile(std::string* block);
  Status ReadText();
  Status Unpack();
  Status ReadMore(std::vector<std::string>* lines);
  bool AtEnd() const { return offset_ >= size_ && packed_.empty() && !more_; }

  File file_;
  int64_t size_;
  int64_t offset_ = 0;
  int64_t next_line_ = 1;
  std::optional<Gunzip> gunzip_;
  bool more_ = false;                 // to inflate of what was read
  std::string packed_, text_, rest_;  // what is not inflated yet; what is; the line that is not whole yet
  Sha256 sha_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_LINE_READER_H_
