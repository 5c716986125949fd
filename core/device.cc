#include "core/device.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace xh {
namespace {

constexpr int64_t kAlignment = 256;

// What an allocation takes of the memory.
int64_t Occupied(int64_t bytes) {
  return std::max<int64_t>(bytes + kAlignment - 1, kAlignment) / kAlignment * kAlignment;
}

bool TracesPlans() {
  static const bool traces = [] {
    const char* value = std::getenv("XHYBRID_TRACE");
    return value != nullptr && std::strcmp(value, "plans") == 0;
  }();
  return traces;
}

bool Captures(const xh_backend* backend) {
  const char* value = std::getenv("XHYBRID_CAPTURE");
  if (value != nullptr && std::strcmp(value, "0") == 0) return false;
  return XH_COVERS(xh_backend, backend, capture_close) && backend->capture_begin != nullptr;
}

}  // namespace

Buffer::Buffer(std::shared_ptr<Device> device, void* data, int64_t bytes)
    : device_(std::move(device)), data_(data), bytes_(bytes) {}

Buffer::Buffer(std::shared_ptr<const Buffer> whole, int64_t offset, int64_t bytes)
    : whole_(std::move(whole)), data_(static_cast<char*>(whole_->data()) + offset), bytes_(bytes) {}

Buffer::Buffer(Buffer&& other) noexcept { *this = std::move(other); }

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(whole_, other.whole_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Buffer::~Buffer() {
  if (device_ != nullptr && data_ != nullptr) device_->Release(data_, bytes_);
}

StatusOr<std::shared_ptr<Device>> Device::Open(const xh_backend* backend, const std::string& backend_name,
                                               int32_t index, const xh_option* options, int64_t option_count) {
  int32_t count = 0;
  XH_RETURN_IF_ERROR(FromError(backend->device_count(&count)));
  if (index < 0 || index >= count) {
    return NotFound("the ", backend_name, " backend has ", count, " devices; there is no device ", index);
  }
  std::shared_ptr<Device> device(new Device(backend, backend_name));
  XH_RETURN_IF_ERROR(FromError(backend->device_open(index, options, option_count, &device->device_)));
  XH_RETURN_IF_ERROR(FromError(backend->stream_open(device->device_, nullptr, &device->stream_)));
  device->captures_ = Captures(backend);
  return device;
}

std::shared_ptr<Device> Device::Rehearse(std::shared_ptr<Device> real) {
  std::shared_ptr<Device> device(new Device(real->backend_, real->backend_name_));
  device->device_ = real->device_;
  device->real_ = std::move(real);
  return device;
}

Device::~Device() {
  if (real_ != nullptr) return;  // whose handles these are
  if (stream_ != nullptr) backend_->stream_close(stream_);
  if (device_ != nullptr) backend_->device_close(device_);
}

StatusOr<std::string> Device::QueryText(const char* key) const {
  xh_option option{};
  XH_RETURN_IF_ERROR(FromError(backend_->device_query(device_, key, &option)));
  if (option.kind != XH_OPTION_TEXT || option.text == nullptr)
    return Internal("device fact \"", key, "\" is not a text");
  return std::string(option.text);
}

StatusOr<int64_t> Device::QueryInt(const char* key) const {
  xh_option option{};
  XH_RETURN_IF_ERROR(FromError(backend_->device_query(device_, key, &option)));
  if (option.kind != XH_OPTION_INT && option.kind != XH_OPTION_BOOL) {
    return Internal("device fact \"", key, "\" is not a number");
  }
  return option.integer;
}

StatusOr<Buffer> Device::Allocate(int64_t bytes) {
  if (bytes < 0) return Internal("an allocation of ", bytes, " bytes was asked for");
  void* data = nullptr;
  if (real_ != nullptr) {
    rehearsed_bytes_ += Occupied(bytes);
    data = reinterpret_cast<void*>(next_address_.fetch_add(Occupied(bytes)));
    return Buffer(shared_from_this(), data, bytes);
  }
  XH_RETURN_IF_ERROR(FromError(backend_->allocate(device_, bytes > 0 ? bytes : 1, kAlignment, &data)));
  return Buffer(shared_from_this(), data, bytes);
}

void Device::Release(void* data, int64_t bytes) {
  if (real_ == nullptr) return backend_->release(device_, data);
  rehearsed_bytes_ -= Occupied(bytes);
}

Status Device::Copy(void* to, const void* from, int64_t bytes) {
  if (bytes == 0 || real_ != nullptr) return absl::OkStatus();
  return FromError(backend_->copy(stream_, to, from, bytes));
}

Status Device::Synchronize() { return real_ != nullptr ? absl::OkStatus() : FromError(backend_->synchronize(stream_)); }

StatusOr<OpenedPlan> Device::OpenPlan(const xh_op_desc& desc) {
  xh_plan* plan = nullptr;
  xh_plan_info info{};
  info.struct_size = XH_SIZED(xh_plan_info);
  XH_RETURN_IF_ERROR(FromError(backend_->plan_open(device_, &desc, &plan, &info)));
  OpenedPlan opened{std::unique_ptr<xh_plan, PlanCloser>(plan, PlanCloser{backend_}), info};
  if (TracesPlans()) {
    std::fprintf(stderr, "xhybrid plan: op %d pass %d: %s, workspace %lld, saved %lld\n", desc.op, desc.pass,
                 info.implementation != nullptr ? info.implementation : "",
                 static_cast<long long>(info.workspace_bytes), static_cast<long long>(info.saved_bytes));
  }
  return opened;
}

StatusOr<Capture> Device::Record(const std::function<Status()>& body) {
  XH_RETURN_IF_ERROR(FromError(backend_->capture_begin(stream_)));
  Status noted = Internal("what was recorded did not return");
  xh_capture* raw = nullptr;
  // The stream records until its end, whatever happened.
  const auto end = [&] { return FromError(backend_->capture_end(stream_, &raw)); };
  try {
    noted = body();
  } catch (...) {
    if (end().ok()) backend_->capture_close(raw);
    throw;
  }
  const Status ended = end();
  Capture capture(raw, CaptureCloser{backend_});
  XH_RETURN_IF_ERROR(noted);
  XH_RETURN_IF_ERROR(ended);
  return capture;
}

Status Device::Replay(const Capture& capture) { return FromError(backend_->capture_replay(capture.get(), stream_)); }

Status Device::RunPlan(const OpenedPlan& plan, const xh_tensor* args, int32_t arg_count, void* workspace, void* saved) {
  if (real_ != nullptr) return absl::OkStatus();
  return FromError(backend_->plan_run(plan.plan.get(), stream_, args, arg_count, workspace, saved));
}

}  // namespace xh
