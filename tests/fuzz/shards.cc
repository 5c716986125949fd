// A checkpoint directory: manifest.xhy, whose header is made to fit, and shards beside it.
#include <algorithm>

#include "core/checkpoint/reader.h"
#include "core/model/source.h"
#include "tests/fuzz/support.h"

namespace xh::fuzz {
namespace {

std::string WithRightHeader(const std::string& manifest) {
  const size_t header = std::min<size_t>(manifest.size(), kManifestHeaderBytes);
  const auto* bytes = reinterpret_cast<const uint8_t*>(manifest.data());
  const std::vector<uint8_t> file = WithManifestHeader(bytes + header, manifest.size() - header);
  return std::string(file.begin(), file.end());
}

// Opens the directory and reads every tensor to its last byte. Returns what is wrong with it.
Status ReadEverything(const std::string& directory, LoadMode mode) {
  XH_ASSIGN_OR_RETURN(const std::shared_ptr<CheckpointReader> reader, CheckpointReader::Open(directory, mode));
  for (const TensorEntry& tensor : reader->tensors()) {
    const StatusOr<const void*> data = reader->Data(tensor.name);
    if (!Accepted(data)) continue;
    const auto* bytes = static_cast<const volatile uint8_t*>(*data);
    for (int64_t i = 0; i < tensor.bytes; ++i) (void)bytes[i];
  }
  return reader->Verify();
}

}  // namespace
}  // namespace xh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace xh;  // NOLINT: the library under test
  const std::string directory = fuzz::FreshDirectory();
  const fuzz::MemoryBound bound(8 << 20, 128, size);
  for (const auto& [name, bytes] : fuzz::SplitFiles(data, size, kManifestFile)) {
    fuzz::Put(directory + "/" + name, name == kManifestFile ? fuzz::WithRightHeader(bytes) : bytes);
  }
  const Status mapped = fuzz::ReadEverything(directory, LoadMode::kMap);
  const Status copied = fuzz::ReadEverything(directory, LoadMode::kCopy);
  fuzz::CheckMessage(mapped);
  fuzz::Require(mapped == copied, "mapping and copying differ: " + mapped.ToString() + " / " + copied.ToString());
  fuzz::CheckMessage(OpenModelSource(directory).status());
  return 0;
}
