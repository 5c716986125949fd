// Copies from the host's pageable memory that do not wait: the runtime would make those of more than 64 KiB wait for
// what the stream has queued before.
#ifndef XHYBRID_BACKENDS_CUDA_STAGING_H_
#define XHYBRID_BACKENDS_CUDA_STAGING_H_

#include <mutex>

#include "backends/cuda/plan.h"

namespace xh::gpu {

// Pinned memory of one stream through which such copies go. It is filled once between two waits for the stream: what
// does not fit is left to the runtime, as are the large copies of weights.
class Staging {
 public:
  Staging() = default;
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Queues a copy of any kind.
  gpuError_t Copy(gpuStream_t stream, void* to, const void* from, int64_t bytes);
  // How many copies went through: asked before the stream is waited for, and told afterwards, as other threads may copy
  // meanwhile.
  int64_t copies();
  void Done(int64_t copies_before);

 private:
  char* Place(int64_t bytes);

  std::mutex mutex_;
  char* memory_ = nullptr;
  int64_t used_ = 0, copies_ = 0;
  bool none_ = false;  // there was no memory for it
};

}  // namespace xh::gpu

#endif  // XHYBRID_BACKENDS_CUDA_STAGING_H_
