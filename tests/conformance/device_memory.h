// Memory that a backend computes on, with guards around it that must not change. It is filled and read through a copy
// on the host; where host and device pointers are the same there is no second copy.
#ifndef XHYBRID_TESTS_CONFORMANCE_DEVICE_MEMORY_H_
#define XHYBRID_TESTS_CONFORMANCE_DEVICE_MEMORY_H_

#include <cstdint>
#include <vector>

#include "xhybrid_plugin.h"

namespace xh::test {

class DeviceMemory {
 public:
  // Begins as bytes that are NaN in every dtype.
  explicit DeviceMemory(int64_t bytes, int64_t alignment = 64);
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory(const DeviceMemory&) = delete;

  char* host() { return reinterpret_cast<char*>(all_.data()) + first_; }
  int64_t bytes() const { return bytes_; }
  // Writes guards and contents to the device and remembers them.
  void Upload(xh_device* device, xh_stream* stream);
  void* device() const { return device_first_; }
  // Reads guards and contents back. The stream must be idle.
  void Download();

  bool GuardsIntact() const;
  // Whether every byte outside `written` (relative to host()) is as it was uploaded.
  bool Unchanged(const std::vector<bool>& written) const;

 private:
  int64_t bytes_, guard_, first_ = 0;
  std::vector<unsigned char> all_, before_;
  xh_device* owner_ = nullptr;
  xh_stream* stream_ = nullptr;
  void* allocated_ = nullptr;
  char* device_first_ = nullptr;
};

// The fact "host_memory" of a device.
bool HasHostMemory(xh_device* device);

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_DEVICE_MEMORY_H_
