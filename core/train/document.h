// One row of a data file as tokens.
#ifndef XHYBRID_CORE_TRAIN_DOCUMENT_H_
#define XHYBRID_CORE_TRAIN_DOCUMENT_H_

#include <string>
#include <vector>

#include "core/train/dataset.h"

namespace xh {

// The tokens of one JSONL row, as Documents holds them. `kind` is that of the source. Errors do not name the place. Any
// thread.
StatusOr<std::vector<int32_t>> ReadDocument(const std::string& line, const std::string& kind,
                                            const DocumentOptions& options);

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_DOCUMENT_H_
