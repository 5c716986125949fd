// No fault: the cpu backend as a device whose memory the host cannot touch. Device pointers carry a bit that makes
// them invalid on the host; every function takes it off.
#include <cstring>
#include <vector>

#include "tests/conformance/broken/cpu_wrapper.h"

namespace xh::broken {
namespace {

constexpr uintptr_t kDevice = uintptr_t{1} << 62;

xh_backend cpu;

void* OnDevice(void* host) { return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(host) | kDevice); }
void* OnHost(const void* any) { return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(any) & ~kDevice); }
bool IsDevice(const void* any) { return (reinterpret_cast<uintptr_t>(any) & kDevice) != 0; }

xh_error* Query(xh_device* device, const char* key, xh_option* out) {
  xh_error* error = cpu.device_query(device, key, out);
  if (error == nullptr && std::strcmp(key, "host_memory") == 0) out->integer = 0;
  return error;
}

xh_error* Allocate(xh_device* device, int64_t bytes, int64_t alignment, void** out) {
  void* memory = nullptr;
  if (xh_error* error = cpu.allocate(device, bytes, alignment, &memory)) return error;
  *out = OnDevice(memory);
  return nullptr;
}

void Release(xh_device* device, void* memory) { cpu.release(device, OnHost(memory)); }

xh_error* Copy(xh_stream* stream, void* to, const void* from, int64_t bytes) {
  return cpu.copy(stream, OnHost(to), OnHost(from), bytes);
}

xh_error* Refuse() { return TheWrapper().host->error_new(XH_INVALID_ARGUMENT, "other", "data is not on the device"); }

xh_error* RunPlan(const xh_plan* plan, xh_stream* stream, const xh_tensor* args, int32_t count, void* workspace,
                  void* saved) {
  std::vector<xh_tensor> here(args, args + count);
  for (xh_tensor& tensor : here) {
    if (tensor.data != nullptr && !IsDevice(tensor.data)) return Refuse();
    tensor.data = OnHost(tensor.data);
  }
  return cpu.plan_run(plan, stream, here.data(), count, OnHost(workspace), OnHost(saved));
}

}  // namespace

void Spoil(Wrapper* wrapper) {
  cpu = wrapper->table;
  wrapper->table.device_query = Query;
  wrapper->table.allocate = Allocate;
  wrapper->table.release = Release;
  wrapper->table.copy = Copy;
  wrapper->table.plan_run = RunPlan;
}

}  // namespace xh::broken
