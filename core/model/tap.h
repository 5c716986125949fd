// One full forward of a sequence, read at a named place: for scoring, tests and looking inside.
#ifndef XHYBRID_CORE_MODEL_TAP_H_
#define XHYBRID_CORE_MODEL_TAP_H_

#include <string>
#include <vector>

#include "core/model/model.h"

namespace xh {

// Taps: "logits" [count, V], "hidden.N" [count, D], "layers.N.mixer.out" [count, H * d], "layers.N.mixer.gate" [count,
// N]; see xh_model_forward.
StatusOr<std::vector<float>> ForwardTap(const Model& model, const int32_t* ids, int64_t count, const std::string& tap);
// Several places of one forward, in the order given.
StatusOr<std::vector<std::vector<float>>> ForwardTaps(const Model& model, const int32_t* ids, int64_t count,
                                                      const std::vector<std::string>& taps);
// log p(ids[t] | ids[0 .. t-1]) for t = 1 .. count - 1. Logits are taken in blocks of rows.
StatusOr<std::vector<float>> ScoreTokens(const Model& model, const int32_t* ids, int64_t count);
// Refuses an empty sequence, one longer than the model's context, and ids outside the vocabulary.
Status CheckTokens(const ModelConfig& config, const int32_t* ids, int64_t count);

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_TAP_H_
