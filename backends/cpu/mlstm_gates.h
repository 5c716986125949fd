// The gates of the mLSTM in the units of its running maximum: the factors of the chunkwise form. Every weight is at
// most 1, and 0 across a border between documents.
#ifndef XHYBRID_BACKENDS_CPU_MLSTM_GATES_H_
#define XHYBRID_BACKENDS_CPU_MLSTM_GATES_H_

#include "backends/cpu/documents.h"
#include "backends/cpu/mlstm.h"

namespace xh::cpu::XH_ISA::mlstm {

// Rows of one (batch, head), one entry a token. With b_u the sum of log forget gates from the chunk's start to token u,
// x_u = i_u - b_u and M_u = max(m, max of x_w, w <= u): the stabiliser of token u is b_u + M_u, and the weight of input
// w in output u is exp(x_w - M_u). x and M come as sums of two floats, because their difference cancels. Where a
// document begins, sums begin anew with m = -inf: what came before has no weight, exactly.
enum GateRow {
  kInputHigh,
  kInputLow,
  kMaxHigh,
  kMaxLow,
  kCarry,  // exp(m - M_u): weight of the state before the chunk in output u
  kKeep,   // exp(b_L + x_u - m'): weight of input u in the state after the chunk; 0 of documents that end in it
  kFloor,  // exp(-b_u - M_u): 1 in units of the stabiliser
  kSlope,  // d log(forget) / d pre-activation
  kGateRows
};

// Rows and chunk decays of every pair for a stretch of chunks.
struct Gates {
  float* rows;   // [pair, kGateRows, stride]
  float* decay;  // [pair, chunks]: exp(b_L + m - m') of a chunk
  int64_t stride;
  int64_t chunks;

  // Tokens and kLanes more: vector loads run past the last.
  static int64_t Stride(int64_t tokens) { return PaddedColumns(tokens) + kLanes; }
  const float* Row(int64_t pair, GateRow row) const { return rows + (pair * kGateRows + row) * stride; }
  float* Row(int64_t pair, GateRow row) { return rows + (pair * kGateRows + row) * stride; }
  float Decay(int64_t pair, int64_t chunk) const { return decay[pair * chunks + chunk]; }
};

// Fills rows [at, at + tokens) of `gates` for one chunk, whose first token is `first` in the tensors i and f [B,H,T] of
// `args`, and its decay. *m is the maximum before the chunk (-inf: no state) and after.
void ChunkGates(const xh_tensor* args, int64_t b, int64_t head, int64_t first, int64_t tokens, int64_t pair,
                int64_t chunk, int64_t at, Gates* gates, double* m);

// One token's recurrence: decay of the old state, weight of the input, the new maximum and the floor exp(-m).
struct StepGates {
  float decay, keep, floor;
  double m;
};
StepGates TokenGates(float i, float f, double m);

}  // namespace xh::cpu::XH_ISA::mlstm

#endif  // XHYBRID_BACKENDS_CPU_MLSTM_GATES_H_
