// What a checkpoint holds, as JSON: for `inspect` and the SDKs.
#ifndef XHYBRID_CORE_CHECKPOINT_DESCRIBE_H_
#define XHYBRID_CORE_CHECKPOINT_DESCRIBE_H_

#include "core/checkpoint/reader.h"
#include "nlohmann/json_fwd.hpp"

namespace xh {

// {"path", "producer", "config", "layers", "history", "tensors": [{name, dtype, shape, bytes}], "files", "parameters",
// "bytes"}: `files` are the tokenizer and other files that travel inside, by size.
nlohmann::json DescribeCheckpoint(const CheckpointReader& reader);

}  // namespace xh

#endif  // XHYBRID_CORE_CHECKPOINT_DESCRIBE_H_
