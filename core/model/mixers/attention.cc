// Softmax attention: the kinds "attention" (every window unlimited) and "window", and the local branch of "hybrid".
#include <cmath>

#include "core/model/mixers/branches.h"

namespace xh {

double LocalScale(const MixerContext& context) { return 1.0 / std::sqrt(static_cast<double>(context.config.head_dim)); }

Value LocalBranch(Graph& graph, const MixerContext& context) {
  const AttentionCache* cache = context.state != nullptr ? &context.state->cache : nullptr;
  return Attention(graph, context.q, context.k, context.v, context.mixer.windows, context.mixer.sinks,
                   LocalScale(context), cache, context.start);
}

}  // namespace xh
