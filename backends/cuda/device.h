// The device, its memory, streams and events, over the CUDA runtime. Every call makes the device current and puts back
// what was current before: the process may have other work on other devices.
#ifndef XHYBRID_BACKENDS_CUDA_DEVICE_H_
#define XHYBRID_BACKENDS_CUDA_DEVICE_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends/cuda/plan.h"
#include "backends/cuda/staging.h"

struct xh_device {
  int index;
  std::string name;
  std::string isa;  // "sm_90a"
  int64_t memory_bytes;
  xh::gpu::Facts facts;
  std::atomic<bool> lost{false};  // a fatal error happened: every call fails from then on
};

namespace xh::gpu {

// Where kernels report bad data. What was recorded on a stream writes to that stream's cell wherever it is replayed, so
// that captures hold on to it.
class FaultCell {
 public:
  static gpuError_t Make(const xh_device* device, std::shared_ptr<FaultCell>* out);
  ~FaultCell();
  FaultCell(const FaultCell&) = delete;
  FaultCell& operator=(const FaultCell&) = delete;

  FaultSink sink(int32_t op) const { return {fault_, lock_, op}; }
  // What was reported, kind kNone for nothing; the next report is queued behind what `stream` has. Any thread, when
  // what may report is done.
  gpuError_t Take(gpuStream_t stream, Fault* out);

 private:
  explicit FaultCell(const xh_device* device) : device_(device) {}
  const xh_device* device_;
  Fault* fault_ = nullptr;   // pinned, seen by both sides
  int32_t* lock_ = nullptr;  // device memory
  std::mutex mutex_;
};

}  // namespace xh::gpu

struct xh_stream {
  xh_device* device;
  xh::gpu::gpuStream_t native;
  bool owned;
  std::shared_ptr<xh::gpu::FaultCell> faults;
  std::vector<std::shared_ptr<xh::gpu::FaultCell>>
      replayed;  // those of captures of other streams, since it was waited for
  xh::gpu::Staging staging;
};

namespace xh::gpu {

// The device of `device` is current while this lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(const xh_device* device);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = -1, wanted_;
};

// NULL for success; else an error with `what` and the runtime's words. One that leaves the device unusable marks it
// lost (XH_DEVICE_LOST).
xh_error* Check(xh_device* device, gpuError_t error, const std::string& what);
// The error of a device that is lost, or NULL.
xh_error* CheckAlive(const xh_device* device);

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
xh_error* CaptureBegin(xh_stream* stream);
xh_error* CaptureEnd(xh_stream* stream, xh_capture** out);
xh_error* CaptureReplay(const xh_capture* capture, xh_stream* stream);
void CaptureClose(xh_capture* capture);

}  // namespace xh::gpu

#endif  // XHYBRID_BACKENDS_CUDA_DEVICE_H_
