#include "backends/cpu/device.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "backends/common/host.h"
#include "backends/cpu/op_table.h"

struct xh_event {};

namespace xh::cpu {
namespace {

using backend::Fail;
using backend::Guard;

constexpr int64_t kLeastAlignment = 64;  // a cache line, and the widest vector
constexpr int64_t kMostThreads = 1024;

// Events mark moments that have already passed: one serves all.
xh_event g_event;

std::string ProcessorName() {
  std::ifstream file("/proc/cpuinfo");
  file.exceptions(std::ios::badbit);  // no memory is no end of the file
  std::string line;
  while (std::getline(file, line)) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "cpu";
}

int64_t MachineMemory() {
  const int64_t pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && bytes > 0 ? pages * bytes : 0;
}

xh_error* ReadThreads(const xh_option* options, int64_t count, int* threads) {
  *threads = omp_get_num_procs();
  for (int64_t i = 0; i < count; ++i) {
    const xh_option& option = options[i];
    if (option.key == nullptr) return Fail(XH_INVALID_ARGUMENT, "device option " + std::to_string(i) + " has no key");
    if (std::strcmp(option.key, "threads") != 0) {
      return Fail(XH_INVALID_ARGUMENT, "unknown device option '" + std::string(option.key) + "', allowed is 'threads'");
    }
    if (option.kind != XH_OPTION_INT || option.integer < 0 || option.integer > kMostThreads) {
      return Fail(XH_INVALID_ARGUMENT,
                  "device option 'threads' is " +
                      (option.kind == XH_OPTION_INT ? std::to_string(option.integer) : std::string("not an int")) +
                      ", allowed is 0 (all cores) to " + std::to_string(kMostThreads));
    }
    if (option.integer > 0) *threads = static_cast<int>(option.integer);
  }
  return nullptr;
}

}  // namespace

xh_error* DeviceCount(int32_t* out) {
  if (out == nullptr) return Fail(XH_INVALID_ARGUMENT, "device_count: out is NULL");
  *out = 1;
  return nullptr;
}

xh_error* DeviceOpen(int32_t index, const xh_option* options, int64_t count, xh_device** out) {
  return Guard([&]() -> xh_error* {
    if (out == nullptr) return Fail(XH_INVALID_ARGUMENT, "device_open: out is NULL");
    if (index != 0) {
      return Fail(XH_NOT_FOUND, "device_open: index is " + std::to_string(index) + ", the cpu backend has device 0");
    }
    if (count < 0 || (count > 0 && options == nullptr)) {
      return Fail(XH_INVALID_ARGUMENT, "device_open: option count is " + std::to_string(count) + " with " +
                                           (options == nullptr ? "no options" : "options"));
    }
    int threads = 1;
    if (xh_error* error = ReadThreads(options, count, &threads)) return error;
    *out = new xh_device{threads, MachineMemory(), ProcessorName(), &ChooseOps()};
    return nullptr;
  });
}

void DeviceClose(xh_device* device) { delete device; }

xh_error* DeviceQuery(xh_device* device, const char* key, xh_option* out) {
  return Guard([&]() -> xh_error* {
    if (device == nullptr || key == nullptr || out == nullptr) {
      return Fail(XH_INVALID_ARGUMENT, "device_query: an argument is NULL");
    }
    xh_option fact = {};
    const auto text = [&](const char* name, const char* value) {
      fact.key = name;
      fact.kind = XH_OPTION_TEXT;
      fact.text = value;
    };
    const auto number = [&](const char* name, xh_option_kind kind, int64_t value) {
      fact.key = name;
      fact.kind = kind;
      fact.integer = value;
    };
    const std::string wanted = key;
    if (wanted == "name") {
      text("name", device->name.c_str());
    } else if (wanted == "isa") {
      text("isa", device->ops->isa);
    } else if (wanted == "memory_bytes") {
      number("memory_bytes", XH_OPTION_INT, device->memory_bytes);
    } else if (wanted == "threads") {
      number("threads", XH_OPTION_INT, device->threads);
    } else if (wanted == "host_memory") {
      number("host_memory", XH_OPTION_BOOL, 1);
    } else {
      return Fail(XH_NOT_FOUND,
                  "device_query: no fact '" + wanted + "', there are name, isa, memory_bytes, threads and host_memory");
    }
    *out = fact;
    return nullptr;
  });
}

xh_error* Allocate(xh_device* device, int64_t bytes, int64_t alignment, void** out) {
  return Guard([&]() -> xh_error* {
    if (device == nullptr || out == nullptr) return Fail(XH_INVALID_ARGUMENT, "allocate: an argument is NULL");
    if (bytes < 0) return Fail(XH_INVALID_ARGUMENT, "allocate: bytes is " + std::to_string(bytes));
    if (alignment < 0 || (alignment & (alignment - 1)) != 0 || alignment > (int64_t{1} << 30)) {
      return Fail(XH_INVALID_ARGUMENT, "allocate: alignment is " + std::to_string(alignment) +
                                           ", allowed is a power of two up to 2^30, or 0");
    }
    // The kernel promises more memory than there is and kills the process later: refuse what cannot fit now.
    const auto exhausted = [&] {
      return Fail(XH_OUT_OF_MEMORY, "cannot allocate " + std::to_string(bytes) + " bytes; the machine has " +
                                        std::to_string(device->memory_bytes) + " in all");
    };
    if (device->memory_bytes > 0 && bytes > device->memory_bytes) return exhausted();
    const int64_t aligned = std::max(alignment, kLeastAlignment);
    const int64_t rounded = (std::max<int64_t>(bytes, 1) + aligned - 1) / aligned * aligned;
    void* memory = std::aligned_alloc(static_cast<size_t>(aligned), static_cast<size_t>(rounded));
    if (memory == nullptr) return exhausted();
    *out = memory;
    return nullptr;
  });
}

void Release(xh_device*, void* memory) { std::free(memory); }

xh_error* StreamOpen(xh_device* device, void* native, xh_stream** out) {
  return Guard([&]() -> xh_error* {
    if (device == nullptr || out == nullptr) return Fail(XH_INVALID_ARGUMENT, "stream_open: an argument is NULL");
    if (native != nullptr) return Fail(XH_UNSUPPORTED, "stream_open: the cpu backend has no foreign streams to adopt");
    *out = new xh_stream{device};
    return nullptr;
  });
}

void StreamClose(xh_stream* stream) { delete stream; }

xh_error* Record(xh_stream* stream, xh_event** out) {
  if (stream == nullptr || out == nullptr) return Fail(XH_INVALID_ARGUMENT, "record: an argument is NULL");
  *out = &g_event;
  return nullptr;
}

xh_error* Wait(xh_stream* stream, xh_event* event) {
  if (stream == nullptr || event == nullptr) return Fail(XH_INVALID_ARGUMENT, "wait: an argument is NULL");
  return nullptr;
}

void EventClose(xh_event*) {}

xh_error* Synchronize(xh_stream* stream) {
  if (stream == nullptr) return Fail(XH_INVALID_ARGUMENT, "synchronize: stream is NULL");
  return nullptr;
}

xh_error* Copy(xh_stream* stream, void* to, const void* from, int64_t bytes) {
  if (stream == nullptr) return Fail(XH_INVALID_ARGUMENT, "copy: stream is NULL");
  if (bytes < 0) return Fail(XH_INVALID_ARGUMENT, "copy: bytes is negative");
  if (bytes == 0) return nullptr;
  if (to == nullptr || from == nullptr) return Fail(XH_INVALID_ARGUMENT, "copy: to or from is NULL");
  constexpr int64_t kWorthThreads = int64_t{1} << 20;
  char* const target = static_cast<char*>(to);
  const char* const source = static_cast<const char*>(from);
  const bool overlap = target < source + bytes && source < target + bytes;
  if (overlap || bytes < kWorthThreads || stream->device->threads == 1) {  // libgomp ends the process without memory
    std::memmove(to, from, static_cast<size_t>(bytes));
    return nullptr;
  }
  constexpr int64_t kPiece = int64_t{256} << 10;
  const int64_t pieces = (bytes + kPiece - 1) / kPiece;
#pragma omp parallel for num_threads(stream->device->threads) schedule(static)
  for (int64_t i = 0; i < pieces; ++i) {
    const int64_t first = i * kPiece;
    std::memcpy(target + first, source + first, static_cast<size_t>(std::min(kPiece, bytes - first)));
  }
  return nullptr;
}

const OpTable& ChooseOps() {
#ifdef XH_SINGLE_ISA
  return base::Ops();
#else
  const char* wanted = std::getenv("XHYBRID_CPU_ISA");
  const std::string most = wanted == nullptr ? "v4" : wanted;
  if (most != "v2" && most != "v3" && __builtin_cpu_supports("x86-64-v4")) return v4::Ops();
  if (most != "v2" && __builtin_cpu_supports("x86-64-v3")) return v3::Ops();
  return v2::Ops();
#endif
}

}  // namespace xh::cpu
