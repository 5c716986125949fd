#include "backends/cuda/device.h"

#include <algorithm>
#include <new>

#include "backends/common/host.h"

struct xh_event {
  xh_device* device;
  cudaEvent_t native;
};

struct xh_capture {
  xh_device* device;
  cudaGraphExec_t graph;
  std::shared_ptr<xh::gpu::FaultCell> faults;
};

namespace xh::gpu {

using backend::Fail;
using backend::Guard;

namespace {

constexpr int64_t kMostAlignment = 256;  // what every allocation of the runtime has

// Errors after which nothing runs in this process's context any more.
bool IsFatal(gpuError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
    case cudaErrorLaunchTimeout:
    case cudaErrorECCUncorrectable:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

// What this host, driver or GPU does not let the process do; nothing is broken.
bool IsRefusal(gpuError_t error) {
  switch (error) {
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorDevicesUnavailable:  // another process has it for itself
    case cudaErrorSystemNotReady:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
      return true;
    default:
      return false;
  }
}

// What a stream that notes work cannot do.
bool IsOfCapture(gpuError_t error) {
  return error >= cudaErrorStreamCaptureUnsupported && error <= cudaErrorStreamCaptureWrongThread;
}

xh_error* FaultError(const Fault& fault) {
  static constexpr const char* kNames[] = {"", "ids", "position", "start", "targets", "teacher_ids"};
  const backend::OpSlots* op = backend::FindOpSlots(fault.plan);
  std::string text = op != nullptr ? op->name : "?";
  text += std::string(": ") + kNames[static_cast<int>(fault.kind)] + "[" + std::to_string(fault.first);
  if (fault.second >= 0) text += "," + std::to_string(fault.second);
  text += "] is " + std::to_string(fault.value) + ", allowed is " + std::to_string(fault.low) + " to " +
          std::to_string(fault.high);
  return Fail(XH_INVALID_ARGUMENT, text);
}

xh_error* CheckOptions(const xh_option* options, int64_t count) {
  if (count < 0 || (count > 0 && options == nullptr)) {
    return Fail(XH_INVALID_ARGUMENT, "device_open: option count is " + std::to_string(count) + " with " +
                                         (options == nullptr ? "no options" : "options"));
  }
  for (int64_t i = 0; i < count; ++i) {
    const std::string key = options[i].key == nullptr ? "" : options[i].key;
    if (key == "threads") continue;  // of the host's processors: nothing here uses them
    return Fail(XH_INVALID_ARGUMENT, "device_open: there is no option '" + key + "', allowed is threads");
  }
  return nullptr;
}

}  // namespace

CurrentDevice::CurrentDevice(const xh_device* device) : wanted_(device->index) {
  if (cudaGetDevice(&before_) != cudaSuccess) before_ = -1;
  if (before_ != wanted_) cudaSetDevice(wanted_);
}

CurrentDevice::~CurrentDevice() {
  if (before_ >= 0 && before_ != wanted_) cudaSetDevice(before_);
}

xh_error* Check(xh_device* device, gpuError_t error, const std::string& what) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // an error that does not last would else be met again at the next launch
  const std::string text = what + ": " + cudaGetErrorString(error);
  if (error == cudaErrorMemoryAllocation) return Fail(XH_OUT_OF_MEMORY, text);
  if (IsOfCapture(error)) return Fail(XH_INVALID_STATE, text);
  if (IsRefusal(error)) return Fail(XH_UNSUPPORTED, text);
  if (!IsFatal(error)) return Fail(XH_INTERNAL, text);
  device->lost = true;
  return Fail(XH_DEVICE_LOST, text + "; the device is lost to this process (XHYBRID_SYNC=1 names the op)");
}

xh_error* CheckAlive(const xh_device* device) {
  if (!device->lost) return nullptr;
  return Fail(XH_DEVICE_LOST, "the device failed earlier and is lost to this process");
}

gpuError_t FaultCell::Make(const xh_device* device, std::shared_ptr<FaultCell>* out) {
  std::shared_ptr<FaultCell> cell(new FaultCell(device));
  gpuError_t made = cudaHostAlloc(reinterpret_cast<void**>(&cell->fault_), sizeof(Fault),
                                  cudaHostAllocMapped | cudaHostAllocPortable);
  if (made == cudaSuccess) *cell->fault_ = Fault{};
  if (made == cudaSuccess) made = cudaMalloc(reinterpret_cast<void**>(&cell->lock_), sizeof(int32_t));
  if (made == cudaSuccess) made = cudaMemset(cell->lock_, 0, sizeof(int32_t));
  if (made == cudaSuccess) *out = std::move(cell);
  return made;
}

FaultCell::~FaultCell() {
  const CurrentDevice current(device_);
  cudaFreeHost(fault_);
  cudaFree(lock_);
  cudaGetLastError();  // of a lost device it fails, and there is nothing to be done
}

gpuError_t FaultCell::Take(gpuStream_t stream, Fault* out) {
  const std::lock_guard<std::mutex> guard(mutex_);
  *out = *fault_;
  if (out->kind == FaultKind::kNone) return cudaSuccess;
  *fault_ = Fault{};
  return cudaMemsetAsync(lock_, 0, sizeof(int32_t), stream);
}

xh_error* DeviceCount(int32_t* out) {
  if (out == nullptr) return Fail(XH_INVALID_ARGUMENT, "device_count: out is NULL");
  int count = 0;
  const gpuError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return Fail(XH_UNSUPPORTED, std::string("device_count: ") + cudaGetErrorString(error));
  }
  *out = count;
  return nullptr;
}

xh_error* DeviceOpen(int32_t index, const xh_option* options, int64_t count, xh_device** out) {
  return Guard([&]() -> xh_error* {
    if (out == nullptr) return Fail(XH_INVALID_ARGUMENT, "device_open: out is NULL");
    int32_t devices = 0;
    if (xh_error* error = DeviceCount(&devices)) return error;
    if (index < 0 || index >= devices) {
      return Fail(XH_NOT_FOUND, "device_open: index is " + std::to_string(index) + ", there are " +
                                    std::to_string(devices) + " devices");
    }
    if (xh_error* error = CheckOptions(options, count)) return error;
    cudaDeviceProp properties;
    const gpuError_t asked = cudaGetDeviceProperties(&properties, index);
    if (asked != cudaSuccess) {
      cudaGetLastError();
      return Fail(XH_INTERNAL, std::string("device_open: ") + cudaGetErrorString(asked));
    }
    const int capability = properties.major * 10 + properties.minor;
    if (capability < 80) {
      return Fail(XH_UNSUPPORTED, std::string("device_open: ") + properties.name + " has compute capability " +
                                      std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                                      ", 8.0 or later is needed");
    }
#ifdef XH_SM90
    const bool wgmma = capability == 90;
#else
    const bool wgmma = false;
#endif
    auto device = std::make_unique<xh_device>();
    device->index = index;
    device->name = properties.name;
    device->isa = "sm_" + std::to_string(capability) + (wgmma ? "a" : "");
    device->memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
    device->facts = {properties.multiProcessorCount, capability, static_cast<int>(properties.sharedMemPerBlockOptin),
                     wgmma};
    const CurrentDevice current(device.get());
    if (xh_error* error = Check(device.get(), cudaFree(nullptr), "device_open: no context on " + device->name)) {
      return error;
    }
    *out = device.release();
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
      text("isa", device->isa.c_str());
    } else if (wanted == "memory_bytes") {
      number("memory_bytes", XH_OPTION_INT, device->memory_bytes);
    } else if (wanted == "free_bytes") {
      const CurrentDevice current(device);
      size_t free = 0, total = 0;
      if (xh_error* error = Check(device, cudaMemGetInfo(&free, &total), "device_query free_bytes")) return error;
      number("free_bytes", XH_OPTION_INT, static_cast<int64_t>(free));
    } else if (wanted == "prefill_tokens") {
      number("prefill_tokens", XH_OPTION_INT, 4096);
    } else if (wanted == "host_memory") {
      number("host_memory", XH_OPTION_BOOL, 0);
    } else {
      return Fail(XH_NOT_FOUND, "device_query: no fact '" + wanted +
                                    "', there are name, isa, memory_bytes, free_bytes, prefill_tokens and host_memory");
    }
    *out = fact;
    return nullptr;
  });
}

xh_error* Allocate(xh_device* device, int64_t bytes, int64_t alignment, void** out) {
  return Guard([&]() -> xh_error* {
    if (device == nullptr || out == nullptr) return Fail(XH_INVALID_ARGUMENT, "allocate: an argument is NULL");
    if (bytes < 0) return Fail(XH_INVALID_ARGUMENT, "allocate: bytes is " + std::to_string(bytes));
    if (alignment < 0 || (alignment & (alignment - 1)) != 0 || alignment > kMostAlignment) {
      return Fail(XH_INVALID_ARGUMENT, "allocate: alignment is " + std::to_string(alignment) +
                                           ", allowed is a power of two up to " + std::to_string(kMostAlignment) +
                                           ", or 0");
    }
    if (xh_error* error = CheckAlive(device)) return error;
    const CurrentDevice current(device);
    void* memory = nullptr;
    const gpuError_t made = cudaMalloc(&memory, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
    if (made == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      return Fail(XH_OUT_OF_MEMORY, "cannot allocate " + std::to_string(bytes) + " bytes; " + device->name + " has " +
                                        std::to_string(free) + " free of " + std::to_string(total));
    }
    if (xh_error* error = Check(device, made, "allocate " + std::to_string(bytes) + " bytes")) return error;
    *out = memory;
    return nullptr;
  });
}

void Release(xh_device* device, void* memory) {
  if (device == nullptr || memory == nullptr) return;
  const CurrentDevice current(device);
  cudaFree(memory);  // of a lost device it fails, and there is nothing to be done
  cudaGetLastError();
}

xh_error* StreamOpen(xh_device* device, void* native, xh_stream** out) {
  return Guard([&]() -> xh_error* {
    if (device == nullptr || out == nullptr) return Fail(XH_INVALID_ARGUMENT, "stream_open: an argument is NULL");
    if (xh_error* error = CheckAlive(device)) return error;
    const CurrentDevice current(device);
    std::unique_ptr<xh_stream> stream(
        new xh_stream{device, static_cast<gpuStream_t>(native), native == nullptr, nullptr, {}, {}});
    gpuError_t made = cudaSuccess;
    if (stream->owned) made = cudaStreamCreateWithFlags(&stream->native, cudaStreamNonBlocking);
    if (made == cudaSuccess) made = FaultCell::Make(device, &stream->faults);
    if (xh_error* error = Check(device, made, "stream_open")) {
      StreamClose(stream.release());
      return error;
    }
    *out = stream.release();
    return nullptr;
  });
}

void StreamClose(xh_stream* stream) {
  if (stream == nullptr) return;
  const CurrentDevice current(stream->device);
  if (stream->native != nullptr || !stream->owned) cudaStreamSynchronize(stream->native);  // a fault may be written
  if (stream->owned && stream->native != nullptr) cudaStreamDestroy(stream->native);
  cudaGetLastError();
  delete stream;
}

xh_error* Record(xh_stream* stream, xh_event** out) {
  return Guard([&]() -> xh_error* {
    if (stream == nullptr || out == nullptr) return Fail(XH_INVALID_ARGUMENT, "record: an argument is NULL");
    if (xh_error* error = CheckAlive(stream->device)) return error;
    const CurrentDevice current(stream->device);
    auto event = std::make_unique<xh_event>(xh_event{stream->device, nullptr});
    gpuError_t made = cudaEventCreateWithFlags(&event->native, cudaEventDisableTiming);
    if (made == cudaSuccess) made = cudaEventRecord(event->native, stream->native);
    if (xh_error* error = Check(stream->device, made, "record")) {
      EventClose(event.release());
      return error;
    }
    *out = event.release();
    return nullptr;
  });
}

xh_error* Wait(xh_stream* stream, xh_event* event) {
  return Guard([&]() -> xh_error* {
    if (stream == nullptr || event == nullptr) return Fail(XH_INVALID_ARGUMENT, "wait: an argument is NULL");
    if (xh_error* error = CheckAlive(stream->device)) return error;
    const CurrentDevice current(stream->device);
    return Check(stream->device, cudaStreamWaitEvent(stream->native, event->native, 0), "wait");
  });
}

void EventClose(xh_event* event) {
  if (event == nullptr) return;
  const CurrentDevice current(event->device);
  if (event->native != nullptr) cudaEventDestroy(event->native);
  delete event;
}

// The first of what was reported since the stream was waited for; the rest is forgotten with it.
static gpuError_t TakeFaults(xh_stream* stream, Fault* first) {
  gpuError_t taken = stream->faults->Take(stream->native, first);
  for (const std::shared_ptr<FaultCell>& cell : stream->replayed) {
    Fault fault;
    const gpuError_t error = cell->Take(stream->native, &fault);
    if (taken == cudaSuccess) taken = error;
    if (first->kind == FaultKind::kNone) *first = fault;
  }
  stream->replayed.clear();
  return taken;
}

xh_error* Synchronize(xh_stream* stream) {
  return Guard([&]() -> xh_error* {
    if (stream == nullptr) return Fail(XH_INVALID_ARGUMENT, "synchronize: stream is NULL");
    if (xh_error* error = CheckAlive(stream->device)) return error;
    const CurrentDevice current(stream->device);
    const int64_t staged = stream->staging.copies();
    if (xh_error* error = Check(stream->device, cudaStreamSynchronize(stream->native), "synchronize")) return error;
    stream->staging.Done(staged);
    Fault first;
    if (xh_error* error = Check(stream->device, TakeFaults(stream, &first), "synchronize")) return error;
    return first.kind == FaultKind::kNone ? nullptr : FaultError(first);
  });
}

xh_error* Copy(xh_stream* stream, void* to, const void* from, int64_t bytes) {
  return Guard([&]() -> xh_error* {
    if (stream == nullptr) return Fail(XH_INVALID_ARGUMENT, "copy: stream is NULL");
    if (bytes < 0) return Fail(XH_INVALID_ARGUMENT, "copy: bytes is " + std::to_string(bytes));
    if (bytes == 0) return nullptr;
    if (to == nullptr || from == nullptr) return Fail(XH_INVALID_ARGUMENT, "copy: to or from is NULL");
    if (xh_error* error = CheckAlive(stream->device)) return error;
    const CurrentDevice current(stream->device);
    return Check(stream->device, stream->staging.Copy(stream->native, to, from, bytes),
                 "copy of " + std::to_string(bytes) + " bytes");
  });
}

// Thread-local mode: what other threads do with the device is no part of the work noted, and is allowed.
xh_error* CaptureBegin(xh_stream* stream) {
  return Guard([&]() -> xh_error* {
    if (stream == nullptr) return Fail(XH_INVALID_ARGUMENT, "capture_begin: stream is NULL");
    if (xh_error* error = CheckAlive(stream->device)) return error;
    const CurrentDevice current(stream->device);
    return Check(stream->device, cudaStreamBeginCapture(stream->native, cudaStreamCaptureModeThreadLocal),
                 "capture_begin");
  });
}

xh_error* CaptureEnd(xh_stream* stream, xh_capture** out) {
  return Guard([&]() -> xh_error* {
    if (stream == nullptr || out == nullptr) return Fail(XH_INVALID_ARGUMENT, "capture_end: an argument is NULL");
    const CurrentDevice current(stream->device);
    auto capture = std::make_unique<xh_capture>(xh_capture{stream->device, nullptr, stream->faults});
    cudaGraph_t graph = nullptr;
    gpuError_t made = cudaStreamEndCapture(stream->native, &graph);
    if (made == cudaSuccess) made = cudaGraphInstantiate(&capture->graph, graph, 0);
    if (graph != nullptr) cudaGraphDestroy(graph);
    if (xh_error* error = Check(stream->device, made, "capture_end")) return error;
    *out = capture.release();
    return nullptr;
  });
}

xh_error* CaptureReplay(const xh_capture* capture, xh_stream* stream) {
  return Guard([&]() -> xh_error* {
    if (capture == nullptr || stream == nullptr) {
      return Fail(XH_INVALID_ARGUMENT, "capture_replay: an argument is NULL");
    }
    if (xh_error* error = CheckAlive(stream->device)) return error;
    const CurrentDevice current(stream->device);
    if (capture->faults != stream->faults &&
        std::find(stream->replayed.begin(), stream->replayed.end(), capture->faults) == stream->replayed.end()) {
      stream->replayed.push_back(capture->faults);
    }
    return Check(stream->device, cudaGraphLaunch(capture->graph, stream->native), "capture_replay");
  });
}

void CaptureClose(xh_capture* capture) {
  if (capture == nullptr) return;
  const CurrentDevice current(capture->device);
  if (capture->graph != nullptr) cudaGraphExecDestroy(capture->graph);
  delete capture;
}

}  // namespace xh::gpu
