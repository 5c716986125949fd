// Where the weights of a model lie. Those that read the same input (q, k and v; the gates of the mLSTM; gate and up of
// the MLP) lie one behind the other, so that a forward makes one product of them: MatMuls in core/ops.h.
#ifndef XHYBRID_CORE_MODEL_WEIGHT_MEMORY_H_
#define XHYBRID_CORE_MODEL_WEIGHT_MEMORY_H_

#include <map>
#include <string>

#include "core/model/model.h"

namespace xh {

// Gives memory, not yet written, to every weight that has dtype and shape but no buffer.
Status AllocateWeights(Device& device, std::map<std::string, Weight>* weights);

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_WEIGHT_MEMORY_H_
