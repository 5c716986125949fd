// The op tables of every instruction set in this build: op files are compiled once for each (CMakeLists.txt).
#ifndef XHYBRID_BACKENDS_CPU_OP_TABLE_H_
#define XHYBRID_BACKENDS_CPU_OP_TABLE_H_

#include "backends/cpu/plan.h"

namespace xh::cpu {

namespace v2 {
const OpTable& Ops();
}
namespace v3 {
const OpTable& Ops();
}
namespace v4 {
const OpTable& Ops();
}
namespace base {
const OpTable& Ops();
}

}  // namespace xh::cpu

#endif  // XHYBRID_BACKENDS_CPU_OP_TABLE_H_
