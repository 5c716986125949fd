#include "tests/fuzz/memory.h"

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<size_t> held{0}, peak{0}, start{0};

void* Counted(void* data) {
  if (data == nullptr) return nullptr;
  const size_t now = held += malloc_usable_size(data);
  size_t before = peak;
  while (now > before && !peak.compare_exchange_weak(before, now)) {
  }
  return data;
}

void* Taken(size_t bytes) { return Counted(std::malloc(bytes > 0 ? bytes : 1)); }

void* Taken(size_t bytes, std::align_val_t alignment) {
  const size_t unit = std::max(static_cast<size_t>(alignment), sizeof(void*));
  void* data = nullptr;
  return ::posix_memalign(&data, unit, bytes > 0 ? bytes : 1) == 0 ? Counted(data) : nullptr;
}

void* OrThrow(void* data) {
  if (data == nullptr) throw std::bad_alloc();
  return data;
}

void Given(void* data) noexcept {
  if (data != nullptr) held -= malloc_usable_size(data);
  std::free(data);
}

}  // namespace

void* operator new(size_t bytes) { return OrThrow(Taken(bytes)); }
void* operator new[](size_t bytes) { return OrThrow(Taken(bytes)); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return Taken(bytes); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept { return Taken(bytes); }
void* operator new(size_t bytes, std::align_val_t alignment) { return OrThrow(Taken(bytes, alignment)); }
void* operator new[](size_t bytes, std::align_val_t alignment) { return OrThrow(Taken(bytes, alignment)); }
void operator delete(void* data) noexcept { Given(data); }
void operator delete[](void* data) noexcept { Given(data); }
void operator delete(void* data, size_t) noexcept { Given(data); }
void operator delete[](void* data, size_t) noexcept { Given(data); }
void operator delete(void* data, const std::nothrow_t&) noexcept { Given(data); }
void operator delete[](void* data, const std::nothrow_t&) noexcept { Given(data); }
void operator delete(void* data, std::align_val_t) noexcept { Given(data); }
void operator delete[](void* data, std::align_val_t) noexcept { Given(data); }
void operator delete(void* data, size_t, std::align_val_t) noexcept { Given(data); }
void operator delete[](void* data, size_t, std::align_val_t) noexcept { Given(data); }

namespace xh::fuzz {

void ResetPeak() {
  start = held.load();
  peak = held.load();
}

size_t PeakBytes() { return peak > start ? peak - start : 0; }

}  // namespace xh::fuzz
