#include "core/gzip.h"

#include <zlib.h>

#include <new>
#include <utility>

namespace xh {

struct Gunzip::Stream {
  z_stream z = {};
  bool inside = false;  // a member has begun and has not ended

  Stream() {
    constexpr int kGzipOnly = 16 + MAX_WBITS;
    if (inflateInit2(&z, kGzipOnly) != Z_OK) throw std::bad_alloc();
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { inflateEnd(&z); }
};

Gunzip::Gunzip(std::string path) : stream_(std::make_unique<Stream>()), path_(std::move(path)) {}
Gunzip::Gunzip(Gunzip&&) noexcept = default;
Gunzip& Gunzip::operator=(Gunzip&&) noexcept = default;
Gunzip::~Gunzip() = default;

StatusOr<bool> Gunzip::Inflate(std::string_view* in, int64_t most, std::string* out) {
  z_stream& z = stream_->z;
  out->resize(out->size() + static_cast<size_t>(most));
  z.next_out = reinterpret_cast<Bytef*>(out->data() + out->size() - most);
  z.avail_out = static_cast<uInt>(most);
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in->data()));  // it only reads: the interface is that old
  z.avail_in = static_cast<uInt>(in->size());
  int result = Z_OK;
  // Without input a member may still hold output back.
  while (result == Z_OK && z.avail_out > 0 && (z.avail_in > 0 || stream_->inside)) {
    stream_->inside = true;
    result = inflate(&z, Z_NO_FLUSH);
    if (result != Z_STREAM_END) continue;
    stream_->inside = false;
    result = inflateReset(&z);
  }
  out->resize(out->size() - z.avail_out);
  in->remove_prefix(in->size() - z.avail_in);
  if (result == Z_MEM_ERROR) throw std::bad_alloc();
  if (result == Z_OK || result == Z_BUF_ERROR) return z.avail_out == 0;  // the latter: it waits for input
  return Corrupt(path_, ": its gzip'd data are damaged", z.msg == nullptr ? "" : ": ", z.msg == nullptr ? "" : z.msg);
}

Status Gunzip::Finish() const {
  if (!stream_->inside) return absl::OkStatus();
  return Corrupt(path_, " ends within its gzip'd data: the file is not whole");
}

}  // namespace xh
