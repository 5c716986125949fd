// The safetensors format: an 8-byte header length, a JSON header, then raw little-endian tensors.
#ifndef XHYBRID_CORE_CHECKPOINT_SAFETENSORS_H_
#define XHYBRID_CORE_CHECKPOINT_SAFETENSORS_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/checkpoint/file.h"
#include "core/error.h"
#include "xhybrid.h"

namespace xh {

struct SafeTensor {
  std::string name;
  xh_dtype dtype = 0;
  std::vector<int64_t> shape;
  int64_t bytes = 0;
};

// Open safetensors files. Any thread.
class SafetensorsReader {
 public:
  // A .safetensors file, or a directory with model.safetensors or model.safetensors.index.json, whose weight_map must
  // agree with the files it names, all in that directory. Symbolic links are followed: Hugging Face caches consist of
  // them. The header is at most 100,000,000 bytes, and the tensors must cover the rest of the file without holes or
  // overlaps. Corrupt for what is malformed, Unsupported for other dtypes (the message names tensor and dtype).
  static StatusOr<std::shared_ptr<SafetensorsReader>> Open(const std::string& path);
  ~SafetensorsReader();

  const std::vector<SafeTensor>& tensors() const;         // of all files, sorted by name
  const SafeTensor* Find(const std::string& name) const;  // NULL when there is none
  // Copies the tensor into `out`; `bytes` must be its size.
  Status Read(const std::string& name, void* out, int64_t bytes) const;
  // The tensor's bytes as they lie in the mapped file: possibly unaligned. Valid while the reader lives.
  StatusOr<const void*> View(const std::string& name) const;
  const std::map<std::string, std::string>& file_metadata() const;  // "__metadata__"; of several files, the first wins

 private:
  struct State;
  explicit SafetensorsReader(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

// Writes one file tensor by tensor, so that no more than one is in memory. One thread at a time.
class SafetensorsWriter {
 public:
  // Creates `name` in `directory` (IoError when it exists) and writes the header of these tensors, whose `bytes` are
  // not read. The same arguments give the same bytes.
  static StatusOr<SafetensorsWriter> Create(const File& directory, const std::string& name,
                                            const std::vector<SafeTensor>& tensors,
                                            const std::map<std::string, std::string>& metadata = {});
  // The next tensor of the list: contiguous, row-major. InvalidState when all of them are written.
  Status Write(const void* data);
  // Puts the file on the medium. InvalidState unless every tensor is written.
  Status Close();

 private:
  SafetensorsWriter(File file, std::vector<int64_t> sizes) : file_(std::move(file)), sizes_(std::move(sizes)) {}

  File file_;
  std::vector<int64_t> sizes_;
  size_t next_ = 0;
};

// A tensor to be written: `data` is contiguous and borrowed for the call.
struct SafeTensorData {
  std::string name;
  xh_dtype dtype = 0;
  std::vector<int64_t> shape;
  const void* data = nullptr;
};

// Writes one file, tensors in the given order. It appears under its name complete or not at all, and replaces what was
// there. The same arguments give the same bytes.
Status WriteSafetensors(const std::string& path, const std::vector<SafeTensorData>& tensors,
                        const std::map<std::string, std::string>& metadata = {});

// "F32", "F16", "BF16", "I32", "I64", "U8": the format's names; NULL for an unknown dtype.
const char* SafetensorsDTypeName(xh_dtype dtype);

}  // namespace xh

#endif  // XHYBRID_CORE_CHECKPOINT_SAFETENSORS_H_
