#include "backends/cuda/staging.h"

#include <cstring>

namespace xh::gpu {
namespace {

constexpr int64_t kAtOnce = 64 << 10;  // up to here the runtime itself copies and returns
constexpr int64_t kLargest =
    1 << 20;  // ids and targets of a micro-batch are less, weights are not waited for in a step
constexpr int64_t kCapacity = 8 << 20;

bool IsOf(cudaMemoryType type, const void* memory) {
  cudaPointerAttributes attributes = {};
  if (cudaPointerGetAttributes(&attributes, memory) == cudaSuccess) return attributes.type == type;
  cudaGetLastError();
  return false;
}

// A recording takes no copy from the host, and says so.
bool IsRecording(gpuStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) != cudaSuccess || status != cudaStreamCaptureStatusNone;
}

}  // namespace

Staging::~Staging() {
  cudaFreeHost(memory_);
  cudaGetLastError();  // of a lost device it fails, and there is nothing to be done
}

gpuError_t Staging::Copy(gpuStream_t stream, void* to, const void* from, int64_t bytes) {
  const auto queue = [&](const void* source) {
    return cudaMemcpyAsync(to, source, static_cast<size_t>(bytes), cudaMemcpyDefault, stream);
  };
  if (bytes <= kAtOnce || bytes > kLargest || IsRecording(stream)) return queue(from);
  if (!IsOf(cudaMemoryTypeUnregistered, from) || !IsOf(cudaMemoryTypeDevice, to)) return queue(from);
  const std::lock_guard<std::mutex> guard(mutex_);
  char* const place = Place(bytes);
  if (place == nullptr) return queue(from);
  std::memcpy(place, from, static_cast<size_t>(bytes));
  return queue(place);
}

// NULL: there is no room.
char* Staging::Place(int64_t bytes) {
  if (memory_ == nullptr && !none_) {
    none_ = cudaHostAlloc(reinterpret_cast<void**>(&memory_), kCapacity, cudaHostAllocPortable) != cudaSuccess;
    if (none_) cudaGetLastError();
  }
  if (none_ || used_ + bytes > kCapacity) return nullptr;
  char* const place = memory_ + used_;
  ++copies_;
  used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return place;
}

int64_t Staging::copies() {
  const std::lock_guard<std::mutex> guard(mutex_);
  return copies_;
}

void Staging::Done(int64_t copies_before) {
  const std::lock_guard<std::mutex> guard(mutex_);
  if (copies_ == copies_before) used_ = 0;
}

}  // namespace xh::gpu
