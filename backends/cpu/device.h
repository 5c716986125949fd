// The device, its memory and its streams. Work is done when a call returns, so streams and events carry no state.
#ifndef XHYBRID_BACKENDS_CPU_DEVICE_H_
#define XHYBRID_BACKENDS_CPU_DEVICE_H_

#include <string>

#include "backends/cpu/plan.h"

struct xh_device {
  int threads;
  int64_t memory_bytes;  // of the machine
  std::string name;
  const xh::cpu::OpTable* ops;
};

struct xh_stream {
  xh_device* device;
};

namespace xh::cpu {

// The table's functions of these names (xhybrid_plugin.h).
xh_error* DeviceCount(int32_t* out);
xh_error* DeviceOpen(int32_t index, const xh_option* options, int64_t count, xh_device** out);
void DeviceClose(xh_device* device);
xh_error* DeviceQuery(xh_device* device, const char* key, xh_option* out);
xh_error* Allocate(xh_device* device, int64_t bytes, int64_t alignment, void** out);
void Release(xh_device* device, void* memory);
xh_error* StreamOpen(xh_device* device, void* native, xh_stream** out);
void StreamClose(xh_stream* stream);
xh_error* Record(xh_stream* stream, xh_event** out);
xh_error* Wait(xh_stream* stream, xh_event* event);
void EventClose(xh_event* event);
xh_error* Synchronize(xh_stream* stream);
xh_error* Copy(xh_stream* stream, void* to, const void* from, int64_t bytes);

// The op table of the best instruction set this machine runs; XHYBRID_CPU_ISA=v2|v3|v4 asks for a lower one.
const OpTable& ChooseOps();

}  // namespace xh::cpu

#endif  // XHYBRID_BACKENDS_CPU_DEVICE_H_
