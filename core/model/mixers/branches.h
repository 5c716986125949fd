// The two branches that mixers are made of, and the mixers themselves (SPEC.md 1).
#ifndef XHYBRID_CORE_MODEL_MIXERS_BRANCHES_H_
#define XHYBRID_CORE_MODEL_MIXERS_BRANCHES_H_

#include "core/model/mixer.h"

namespace xh {

// What the mLSTM of a mixer is made with, whoever computes it.
struct MlstmParts {
  xh_normalizer normalizer;
  double scale;              // of phi(q)
  xh_feature_map map;        // kind of both maps, where there are any
  Value query_map, key_map;  // [H,d,n], absent with the feature map "none"
  Value i, f;                // pre-activations of the gates, f32 [B,H,T]
};
MlstmParts MlstmPartsOf(Graph& graph, const MixerContext& context);

// Global branch: the mLSTM over the whole sequence -> [B,H,T,d] (SPEC.md 1, step 5).
Value MlstmBranch(Graph& graph, const MixerContext& context);
// Local branch: softmax attention within the mixer's windows and sinks -> [B,H,T,d] (SPEC.md 1, step 4).
Value LocalBranch(Graph& graph, const MixerContext& context);
double LocalScale(const MixerContext& context);
// h = o mlstm + (1 - o) local (SPEC.md 1, steps 2 and 6).
Value HybridMixer(Graph& graph, const MixerContext& context);

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_MIXERS_BRANCHES_H_
