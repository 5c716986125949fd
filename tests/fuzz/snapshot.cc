// A session's snapshot: the input as it is, and with the right mark, model and checksum, so that the rest is read.
#include <cstdlib>
#include <cstring>

#include "core/checkpoint/digest.h"
#include "core/generate/session.h"
#include "core/model/source.h"
#include "core/model/student.h"
#include "tests/fuzz/support.h"

namespace xh::fuzz {
namespace {

constexpr size_t kModelBytes = 48;  // mark, version, bytes of a cache value, digest of the model's shape
constexpr int64_t kCapacity = 8;

// Memory of the host and nothing else: restoring computes nothing.
xh_backend HostMemory() {
  xh_backend backend{};
  backend.device_count = [](int32_t* out) -> xh_error* { return *out = 1, nullptr; };
  backend.device_open = [](int32_t, const xh_option*, int64_t, xh_device**) -> xh_error* { return nullptr; };
  backend.device_query = [](xh_device*, const char*, xh_option*) {
    return NewError(XH_NOT_FOUND, "memory", "it knows no facts");
  };
  backend.stream_open = [](xh_device*, void*, xh_stream**) -> xh_error* { return nullptr; };
  backend.synchronize = [](xh_stream*) -> xh_error* { return nullptr; };
  backend.allocate = [](xh_device*, int64_t bytes, int64_t, void** out) -> xh_error* {
    return *out = std::malloc(static_cast<size_t>(bytes)), nullptr;
  };
  backend.release = [](xh_device*, void* memory) { std::free(memory); };
  backend.copy = [](xh_stream*, void* to, const void* from, int64_t bytes) -> xh_error* {
    return std::memmove(to, from, static_cast<size_t>(bytes)), nullptr;
  };
  return backend;
}

std::unique_ptr<Session> OpenSession() {
  static const xh_backend backend = HostMemory();
  const std::string path = std::string(XH_TEST_DATA) + "/teachers/hf_llama/config.json";
  auto model = std::make_shared<Model>();
  model->config = *StudentConfig(*ReadHuggingFaceConfig({{"config.json", ReadAll(path)}}, "teacher"),
                                 {{"window", 3}, {"sinks", 1}, {"layers", {{{"layer", 0}, {"kind", "attention"}}}}});
  model->device = *Device::Open(&backend, "memory", 0, nullptr, 0);
  model->path = "model";
  return *Session::Open(model, kCapacity);
}

void Restore(Session& session, const std::string& bytes) {
  const Status restored = session.Restore(bytes.data(), static_cast<int64_t>(bytes.size()));
  CheckMessage(restored);
  if (!restored.ok()) return;
  Require(session.position() >= 0 && session.position() <= kCapacity, "the position is beyond the capacity");
  const auto again = session.Snapshot();
  Require(again.ok() && *again == bytes, "a snapshot changes when it is restored");
}

}  // namespace
}  // namespace xh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace xh;  // NOLINT: the library under test
  static const std::unique_ptr<Session> session = fuzz::OpenSession();
  static const std::string empty = *session->Snapshot();
  const fuzz::MemoryBound bound(1 << 20, 64, size);
  std::string bytes(reinterpret_cast<const char*>(data), size);
  fuzz::Restore(*session, bytes);
  uint32_t checksum = 0;
  if (size < fuzz::kModelBytes + sizeof(checksum)) return 0;
  bytes.replace(0, fuzz::kModelBytes, empty, 0, fuzz::kModelBytes);
  checksum = Crc32c(bytes.data(), size - sizeof(checksum));
  std::memcpy(bytes.data() + size - sizeof(checksum), &checksum, sizeof(checksum));
  fuzz::Restore(*session, bytes);
  return 0;
}
