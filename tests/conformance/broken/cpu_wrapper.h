// The cpu backend with one fault. A file of this directory defines Spoil; the rest is passed on to xhybrid_cpu.so.
#ifndef XHYBRID_TESTS_CONFORMANCE_BROKEN_CPU_WRAPPER_H_
#define XHYBRID_TESTS_CONFORMANCE_BROKEN_CPU_WRAPPER_H_

#include "xhybrid_plugin.h"

namespace xh::broken {

struct Run {
  xh_op op;
  xh_pass pass;
  const xh_tensor* args;
  char* workspace;
  int64_t workspace_bytes;
};

struct Wrapper {
  xh_plugin plugin;
  xh_backend table;
  const xh_host* host;
  // Called around the cpu backend's functions; NULL: nothing.
  xh_error* (*before_open)(const xh_op_desc& desc);  // an error refuses the plan
  void (*before_run)(const Run& run);
  void (*after_run)(const Run& run);
  void (*after_close)();
};

Wrapper& TheWrapper();
// The fault. The wrapper holds what xhybrid_cpu.so gave.
void Spoil(Wrapper* wrapper);

// Data of argument `i`, f32.
inline float* Floats(const Run& run, int i) { return static_cast<float*>(run.args[i].data); }
inline int64_t Count(const xh_tensor& tensor) {
  int64_t count = 1;
  for (int32_t i = 0; i < tensor.rank; ++i) count *= tensor.shape[i];
  return count;
}

}  // namespace xh::broken

#endif  // XHYBRID_TESTS_CONFORMANCE_BROKEN_CPU_WRAPPER_H_
