// What an op of the CPU backend is: a function that checks a request and makes an immutable plan that runs it.
#ifndef XHYBRID_BACKENDS_CPU_PLAN_H_
#define XHYBRID_BACKENDS_CPU_PLAN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "xhybrid_plugin.h"

namespace xh::cpu {

// A request as the op sees it. Arguments keep the order of xhybrid_plugin.h: inputs, outputs, then for BACKWARD output
// gradients and input gradients.
struct Request {
  xh_pass pass;
  std::vector<xh_tensor> args;
  const void* params;  // checked by the op through Params()
  uint32_t params_size;
  int threads;
};

// Bad data that only a run can see (an id out of the vocabulary). Run throws it before it writes anything; the plugin
// turns it into an error. It never leaves the plugin.
struct RunError {
  xh_code code;
  std::string text;
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

// Why a plan was refused: code 0 means it was not.
struct Refusal {
  xh_code code = 0;
  std::string text;
};

// Opens a plan, or says why not. Never throws anything but std::bad_alloc.
using OpenFn = Refusal (*)(const Request& request, std::unique_ptr<Plan>* out);

// The ops of one instruction set. The op files are compiled once for each; plugin.cc chooses at run time.
struct OpEntry {
  xh_op op;
  const char* name;
  int input_count;
  int output_count;
  OpenFn open;
};
struct OpTable {
  const char* isa;
  const OpEntry* entries;
  int count;
};

}  // namespace xh::cpu

#endif  // XHYBRID_BACKENDS_CPU_PLAN_H_
