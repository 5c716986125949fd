// The two branches that mixers are made of, and the mixers themselves (SPEC.md 1).
#ifndef XHYBRID_CORE_MODEL_MIXERS_BRANCHES_H_
#define XHYBRID_CORE_MODEL_MIXERS_BRANCHES_H_

#include "core/model/mixer.h"

namespace xh {

// Global branch: the mLSTM over the whole sequence -> [B,H,T,d] (SPEC.md 1, step 5).
Value MlstmBranch(Graph& graph, const MixerContext& context);
// Local branch: softmax attention within the mixer's windows and sinks -> [B,H,T,d] (SPEC.md 1, step 4).
Value LocalBranch(Graph& graph, const MixerContext& context);
// h = o mlstm + (1 - o) local (SPEC.md 1, steps 2 and 6).
Value HybridMixer(Graph& graph, const MixerContext& context);

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_MIXERS_BRANCHES_H_
