// A model with the sizes of a config.json and made-up weights: speed at a size of which nobody has to hold the weights.
#ifndef XHYBRID_CORE_BENCH_MADE_UP_MODEL_H_
#define XHYBRID_CORE_BENCH_MADE_UP_MODEL_H_

#include <memory>
#include <string>
#include <vector>

#include "core/model/model.h"

namespace xh {

// `directory` holds a teacher's config.json; anything else in it is not read. Vectors (norms) are 1, matrices hold
// small numbers, the same in every run. No tokenizer.
StatusOr<std::shared_ptr<Model>> MakeUpModel(const std::shared_ptr<Runtime>& runtime, const std::string& directory,
                                             xh_dtype dtype);

// A fixed stream of token ids.
std::vector<int32_t> MakeUpTokens(int64_t count, int64_t vocabulary);

}  // namespace xh

#endif  // XHYBRID_CORE_BENCH_MADE_UP_MODEL_H_
