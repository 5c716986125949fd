// The largest sizes that a config may name: far above any model there is, small enough that no product of a tensor's
// extents overflows.
#ifndef XHYBRID_CORE_MODEL_LIMITS_H_
#define XHYBRID_CORE_MODEL_LIMITS_H_

#include <cstdint>

namespace xh {

inline constexpr int64_t kMostVocabulary = 1 << 24;
inline constexpr int64_t kMostWidth = 1 << 20;  // hidden_size, intermediate_size, heads * head_dim
inline constexpr int64_t kMostLayers = 4096;
inline constexpr int64_t kMostHeads = 1 << 14;
inline constexpr int64_t kMostHeadsOfAll = 1 << 18;  // key/value heads of all layers: a config lists their windows
inline constexpr int64_t kMostHeadDim = 1 << 12;
inline constexpr int64_t kMostPositions = 1 << 30;  // also of a window
inline constexpr int64_t kMostFeatures = 1 << 14;
inline constexpr int64_t kMostSinks = 1 << 16;
inline constexpr double kMostTheta = 1e12;
inline constexpr double kMostRopeFactor = 1e6;
inline constexpr double kLeastRopeBeta = 1e-6;

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_LIMITS_H_
