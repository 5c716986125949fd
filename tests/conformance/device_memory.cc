#include "tests/conformance/device_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "tests/conformance/backend_fixture.h"

namespace xh::test {
namespace {

constexpr int64_t kGuard = 256;            // bytes before and after every piece of memory
constexpr unsigned char kUnwritten = 255;  // every float of it is NaN

}  // namespace

bool HasHostMemory(xh_device* device) {
  xh_option fact = {};
  const Outcome outcome = TakeError(Backend().device_query(device, "host_memory", &fact));
  EXPECT_EQ(outcome.code, 0) << outcome.message;
  return fact.integer != 0;
}

DeviceMemory::DeviceMemory(int64_t bytes, int64_t alignment)
    : bytes_(bytes),
      guard_(std::max(kGuard, alignment)),
      all_(static_cast<size_t>(bytes + 2 * guard_ + alignment), kUnwritten) {
  const uintptr_t step = static_cast<uintptr_t>(alignment);
  const uintptr_t at = reinterpret_cast<uintptr_t>(all_.data()) + static_cast<uintptr_t>(guard_);
  first_ = static_cast<int64_t>((at + step - 1) / step * step - at) + guard_;
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : bytes_(other.bytes_),
      guard_(other.guard_),
      first_(other.first_),
      all_(std::move(other.all_)),
      before_(std::move(other.before_)),
      owner_(other.owner_),
      stream_(other.stream_),
      allocated_(std::exchange(other.allocated_, nullptr)),
      device_first_(other.device_first_) {}

DeviceMemory::~DeviceMemory() {
  if (allocated_ != nullptr) Backend().release(owner_, allocated_);
}

void DeviceMemory::Upload(xh_device* device, xh_stream* stream) {
  owner_ = device;
  stream_ = stream;
  before_ = all_;
  if (HasHostMemory(device)) {
    device_first_ = host();
    return;
  }
  const int64_t all = bytes_ + 2 * guard_;
  const Outcome made = TakeError(Backend().allocate(device, all, guard_, &allocated_));
  ASSERT_EQ(made.code, 0) << made.message;
  device_first_ = static_cast<char*>(allocated_) + guard_;
  EXPECT_EQ(TakeError(Backend().copy(stream, allocated_, host() - guard_, all)).message, "");
  EXPECT_EQ(TakeError(Backend().synchronize(stream)).message, "");
}

void DeviceMemory::Download() {
  if (allocated_ == nullptr) return;
  EXPECT_EQ(TakeError(Backend().copy(stream_, host() - guard_, allocated_, bytes_ + 2 * guard_)).message, "");
  EXPECT_EQ(TakeError(Backend().synchronize(stream_)).message, "");
}

bool DeviceMemory::GuardsIntact() const { return Unchanged(std::vector<bool>(static_cast<size_t>(bytes_), true)); }

bool DeviceMemory::Unchanged(const std::vector<bool>& written) const {
  for (int64_t i = 0; i < static_cast<int64_t>(all_.size()); ++i) {
    const int64_t at = i - first_;
    const bool mine = at >= 0 && at < bytes_ && written[static_cast<size_t>(at)];
    if (!mine && all_[static_cast<size_t>(i)] != before_[static_cast<size_t>(i)]) return false;
  }
  return true;
}

}  // namespace xh::test
