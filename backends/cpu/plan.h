// What an op of the CPU backend is: a function that checks a request and makes an immutable plan that runs it.
#ifndef XHYBRID_BACKENDS_CPU_PLAN_H_
#define XHYBRID_BACKENDS_CPU_PLAN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backends/common/host.h"
#include "backends/common/requests.h"

namespace xh::cpu {

using backend::Accumulates;
using backend::Dims;
using backend::ElementBytes;
using backend::Present;
using backend::Refusal;
using backend::RunError;

struct Request : backend::Request {
  int threads;
};

// Immutable after opening; Run may be called from several threads at once with different workspaces.
class Plan {
 public:
  virtual ~Plan() = default;
  virtual void Run(const xh_tensor* args, void* workspace, void* saved) const = 0;
  int64_t workspace_bytes = 0;
  int64_t saved_bytes = 0;
  const char* implementation = "";
};

// Opens a plan, or says why not. Never throws anything but std::bad_alloc.
using OpenFn = Refusal (*)(const Request& request, std::unique_ptr<Plan>* out);

// The ops of one instruction set. The op files are compiled once for each; plugin.cc chooses at run time.
struct OpEntry {
  xh_op op;
  OpenFn open;
};
struct OpTable {
  const char* isa;
  const OpEntry* entries;
  int count;
};

}  // namespace xh::cpu

#endif  // XHYBRID_BACKENDS_CPU_PLAN_H_
