// Gzip'd bytes, inflated a piece at a time.
#ifndef XHYBRID_CORE_GZIP_H_
#define XHYBRID_CORE_GZIP_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "core/error.h"

namespace xh {

// One thread at a time.
class Gunzip {
 public:
  // Whether a file that begins so is gzip'd (RFC 1952).
  static bool Recognizes(std::string_view beginning) { return beginning.substr(0, 2) == "\x1F\x8B"; }

  explicit Gunzip(std::string path);  // of the file, for errors
  Gunzip(Gunzip&&) noexcept;
  Gunzip& operator=(Gunzip&&) noexcept;
  ~Gunzip();

  // Appends at most `most` bytes of what the bytes given so far inflate to to *out, and takes off `in` what was used.
  // True when it stopped at `most`: call it again, with what is left of `in`, before more is given. Members that follow
  // each other are one text. Corrupt where it is no gzip.
  StatusOr<bool> Inflate(std::string_view* in, int64_t most, std::string* out);
  // Corrupt unless the last member is whole.
  Status Finish() const;

 private:
  struct Stream;  // zlib keeps the address of its state
  std::unique_ptr<Stream> stream_;
  std::string path_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_GZIP_H_
