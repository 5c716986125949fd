// Rows of the decay matrix inside a chunk: weight[u, w] = exp(x_w - M_u) for w <= u of u's document, 0 elsewhere.
#ifndef XHYBRID_BACKENDS_CPU_MLSTM_DECAY_H_
#define XHYBRID_BACKENDS_CPU_MLSTM_DECAY_H_

#include "backends/cpu/mlstm_gates.h"

namespace xh::cpu::XH_ISA::mlstm {

// Token rows of a chunk are worked on in strips of this height: products below the diagonal stop at the strip's end.
inline constexpr int64_t kStrip = 16;

// Gate rows of one pair, at one chunk's first token.
struct ChunkView {
  const float *input_high, *input_low, *max_high, *max_low, *carry, *keep, *floor, *slope;

  ChunkView(const Gates& gates, int64_t pair, int64_t at)
      : input_high(gates.Row(pair, kInputHigh) + at),
        input_low(gates.Row(pair, kInputLow) + at),
        max_high(gates.Row(pair, kMaxHigh) + at),
        max_low(gates.Row(pair, kMaxLow) + at),
        carry(gates.Row(pair, kCarry) + at),
        keep(gates.Row(pair, kKeep) + at),
        floor(gates.Row(pair, kFloor) + at),
        slope(gates.Row(pair, kSlope) + at) {}
};

// Calls body(w, weights of inputs w .. w + kLanes - 1 in output u) over [0, columns). Inputs before `first` belong to
// other documents.
template <class Body>
inline void ForWeights(const ChunkView& gates, int64_t first, int64_t u, int64_t columns, Body body) {
  const Vec high = Set(gates.max_high[u]), low = Set(gates.max_low[u]);
  int64_t w = 0;
  const auto weights = [&] { return Exp((Load(gates.input_high + w) - high) + (Load(gates.input_low + w) - low)); };
  const auto seen = [&] {
    IVec lane;
    for (int j = 0; j < kLanes; ++j) lane[j] = j;
    return (lane >= static_cast<int32_t>(first - w)) & (lane <= static_cast<int32_t>(u - w));
  };
  for (; w + kLanes <= first; w += kLanes) body(w, Vec{});
  if (w < first) {
    body(w, seen() ? weights() : Vec{});
    w += kLanes;
  }
  for (; w + kLanes <= u + 1; w += kLanes) body(w, weights());
  if (w <= u) {
    body(w, seen() ? weights() : Vec{});
    w += kLanes;
  }
  for (; w < columns; w += kLanes) body(w, Vec{});
}

}  // namespace xh::cpu::XH_ISA::mlstm

#endif  // XHYBRID_BACKENDS_CPU_MLSTM_DECAY_H_
