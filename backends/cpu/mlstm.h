// What the passes of the MLSTM op share: sizes, argument slots and the memory between FORWARD and BACKWARD.
#ifndef XHYBRID_BACKENDS_CPU_MLSTM_H_
#define XHYBRID_BACKENDS_CPU_MLSTM_H_

#include <algorithm>
#include <memory>

#include "backends/cpu/parallel.h"
#include "backends/cpu/tile_gemm.h"

namespace xh::cpu::XH_ISA {

namespace mlstm {

inline constexpr int64_t kLargestChunk = 256;

// Arguments in order; the gradients that are not named here are absent.
enum Slot { kQ, kK, kV, kI, kF, kS, kZ, kM, kStart, kH, kSOut, kZOut, kMOut, kDh, kDq = 17, kDk, kDv, kDi, kDf };

struct Shape {
  int64_t batch, heads, kv_heads, tokens;
  int64_t features;  // n: columns of q and k, rows of the state
  int64_t columns;   // d: columns of v and h, columns of the state
  int64_t chunk;     // tokens of a chunk, at most `tokens`
  float scale;
  bool floored;  // XH_NORMALIZER_MAX
  int threads;

  int64_t pairs() const { return batch * heads; }
  int64_t chunks() const { return (tokens + chunk - 1) / chunk; }
  int64_t group() const { return heads / kv_heads; }
  int64_t stride() const { return PaddedColumns(columns); }     // of a state matrix [n, d]
  int64_t state_floats() const { return features * stride(); }  // of a state matrix with its padding
  int64_t ChunkTokens(int64_t c) const { return std::min(chunk, tokens - c * chunk); }
};

// State matrices and vectors, one slot a chunk: the state before the chunk, or the gradient of the state after it. In
// chunks of 64 they take n (d + 1) / 64 floats a token and head: for n = d = 64 as much as q.
struct StateSlots {
  float* matrix;  // [pair, slot, n, stride]
  float* vector;  // [pair, slot, PaddedColumns(n)]
  int64_t slots;

  float* Matrix(const Shape& s, int64_t pair, int64_t slot) const {
    return matrix + (pair * slots + slot) * s.state_floats();
  }
  float* Vector(const Shape& s, int64_t pair, int64_t slot) const {
    return vector + (pair * slots + slot) * PaddedColumns(s.features);
  }
};

// What FORWARD saves: the state before every chunk and the signed denominator q.z of every token in units of its
// stabiliser, [pair, tokens]. Gates are computed again.
struct Saved {
  int64_t matrix, vector, denominator, bytes;

  explicit Saved(const Shape& s) : bytes(0) {
    matrix = Reserve(&bytes, s.pairs() * s.chunks() * s.state_floats() * 4);
    vector = Reserve(&bytes, s.pairs() * s.chunks() * PaddedColumns(s.features) * 4);
    denominator = Reserve(&bytes, s.pairs() * s.tokens * 4);
  }
  StateSlots Slots(const Shape& s, void* saved) const {
    return {At<float>(saved, matrix), At<float>(saved, vector), s.chunks()};
  }
};

// What h is divided by: `denominator` is q.z and `floor` 1, both in units of the stabiliser. NaN stays.
inline float Divisor(const Shape& s, float denominator, float floor) {
  if (!s.floored) return denominator;
  const float size = denominator < 0.0f ? -denominator : denominator;
  return size < floor ? floor : size;
}

// Copies between the state tensors of an argument list (slots `first`, first + 1, first + 2) and packed memory.
void ReadState(const Shape& s, const xh_tensor* args, int first, int64_t pair, float* matrix, float* vector, double* m);
void WriteState(const Shape& s, const float* matrix, const float* vector, double m, const xh_tensor* args, int first,
                int64_t pair);

// Zeroes every input gradient that is not added to what is there: h has no gradient.
void ZeroGradients(const xh_tensor* args);

std::unique_ptr<Plan> MakeStep(const Shape& shape, const Request& request);
std::unique_ptr<Plan> MakeForward(const Shape& shape, const Request& request);
std::unique_ptr<Plan> MakeBackward(const Shape& shape, const Request& request);

}  // namespace mlstm
}  // namespace xh::cpu::XH_ISA

#endif  // XHYBRID_BACKENDS_CPU_MLSTM_H_
