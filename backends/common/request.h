// What every backend of this project starts from: a request, and the answer when it is refused.
#ifndef XHYBRID_BACKENDS_COMMON_REQUEST_H_
#define XHYBRID_BACKENDS_COMMON_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "xhybrid_plugin.h"

namespace xh::backend {

// A request as the op sees it. Arguments keep the order of xhybrid_plugin.h: inputs, outputs, then for BACKWARD output
// gradients and input gradients.
struct Request {
  xh_pass pass;
  std::vector<xh_tensor> args;
  const void* params;  // checked by the op through Params()
  uint32_t params_size;
};

// Why a plan was refused: code 0 means it was not.
struct Refusal {
  xh_code code = 0;
  std::string text;
};

}  // namespace xh::backend

#endif  // XHYBRID_BACKENDS_COMMON_REQUEST_H_
