// A .safetensors file, or a directory of several with their index.
#include "core/checkpoint/safetensors.h"

#include "tests/fuzz/support.h"

namespace xh::fuzz {
namespace {

void ReadEverything(const SafetensorsReader& reader) {
  for (const SafeTensor& tensor : reader.tensors()) {
    std::string bytes(static_cast<size_t>(tensor.bytes), '?');
    const Status read = reader.Read(tensor.name, bytes.data(), tensor.bytes);
    Require(read.ok(), "a tensor that was described cannot be read: " + read.ToString());
    const auto view = reader.View(tensor.name);
    Require(view.ok() && bytes.compare(0, bytes.size(), static_cast<const char*>(*view), bytes.size()) == 0,
            "a view differs from what is read");
  }
}

}  // namespace
}  // namespace xh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace xh;  // NOLINT: the library under test
  const std::string directory = fuzz::FreshDirectory();
  const fuzz::MemoryBound bound(1 << 20, 128, size);
  for (const auto& [name, bytes] : fuzz::SplitFiles(data, size, "model.safetensors")) {
    fuzz::Put(directory + "/" + name, bytes);
  }
  const auto reader = SafetensorsReader::Open(directory);
  if (fuzz::Accepted(reader)) fuzz::ReadEverything(**reader);
  return 0;
}
