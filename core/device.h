// RAII over a backend: device, memory and plans. One stream a device, on which everything is ordered.
#ifndef XHYBRID_CORE_DEVICE_H_
#define XHYBRID_CORE_DEVICE_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "core/error.h"
#include "xhybrid_plugin.h"

namespace xh {

class Device;

// Device memory; frees itself and keeps its device alive.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::shared_ptr<Device> device, void* data, int64_t bytes);
  // A part of another buffer, which lives as long as its parts.
  Buffer(std::shared_ptr<const Buffer> whole, int64_t offset, int64_t bytes);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  const Buffer* whole() const { return whole_.get(); }  // of which it is a part; NULL when it is none

 private:
  std::shared_ptr<Device> device_;       // absent in a part
  std::shared_ptr<const Buffer> whole_;  // of a part
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

struct CaptureCloser {
  const xh_backend* backend = nullptr;
  void operator()(xh_capture* capture) const { backend->capture_close(capture); }
};
// Work of a device's stream, noted once, to be repeated. Plans and memory of it must outlive it.
using Capture = std::unique_ptr<xh_capture, CaptureCloser>;

struct PlanCloser {
  const xh_backend* backend;
  void operator()(xh_plan* plan) const { backend->plan_close(plan); }
};
struct OpenedPlan {
  std::unique_ptr<xh_plan, PlanCloser> plan;
  xh_plan_info info;
};

// Safe from any thread except where plans run: one thread at a time per Device object's stream.
class Device : public std::enable_shared_from_this<Device> {
 public:
  static StatusOr<std::shared_ptr<Device>> Open(const xh_backend* backend, const std::string& backend_name,
                                                int32_t index, const xh_option* options, int64_t option_count);
  // A device that only counts, to learn what work will need from the code that will do it: memory is an address that
  // nobody may touch, copies and runs do nothing, plans are those of `real`.
  static std::shared_ptr<Device> Rehearse(std::shared_ptr<Device> real);
  int64_t rehearsed_bytes() const { return rehearsed_bytes_; }  // held now
  ~Device();

  const std::string& backend_name() const { return backend_name_; }
  StatusOr<std::string> QueryText(const char* key) const;
  StatusOr<int64_t> QueryInt(const char* key) const;

  StatusOr<Buffer> Allocate(int64_t bytes);
  void Release(void* data, int64_t bytes);                 // what Allocate gave; Buffer calls it
  Status Copy(void* to, const void* from, int64_t bytes);  // host or device, in stream order
  Status Synchronize();
  // With XHYBRID_TRACE=plans every plan is logged with its implementation.
  StatusOr<OpenedPlan> OpenPlan(const xh_op_desc& desc);
  // Whether Record works; XHYBRID_CAPTURE=0 says no to every backend.
  bool captures() const { return captures_; }
  // Notes what `body` runs (plans and copies within the device) instead of doing it. Unsupported: it has to be run.
  StatusOr<Capture> Record(const std::function<Status()>& body);
  Status Replay(const Capture& capture);
  Status RunPlan(const OpenedPlan& plan, const xh_tensor* args, int32_t arg_count, void* workspace, void* saved);

 private:
  Device(const xh_backend* backend, std::string backend_name)
      : backend_(backend), backend_name_(std::move(backend_name)) {}
  const xh_backend* backend_;
  std::string backend_name_;
  xh_device* device_ = nullptr;
  xh_stream* stream_ = nullptr;
  bool captures_ = false;
  std::shared_ptr<Device> real_;  // of a rehearsal
  std::atomic<int64_t> rehearsed_bytes_{0};
  std::atomic<int64_t> next_address_{int64_t{1} << 20};
};

}  // namespace xh

#endif  // XHYBRID_CORE_DEVICE_H_
