// Softmax attention: the kinds "attention" (every window unlimited) and "window", and the local branch of "hybrid".
#include <cmath>

#include "core/model/mixers/branches.h"

namespace xh {

Value LocalBranch(Graph& graph, const MixerContext& context) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(context.config.head_dim));
  const AttentionCache* cache = context.state != nullptr ? &context.state->cache : nullptr;
  return Attention(graph, context.q, context.k, context.v, context.mixer.windows, context.mixer.sinks, scale, cache,
                   context.start);
}

}  // namespace xh
