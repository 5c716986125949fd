// Arguments and memory of the Hopper kernels of the mLSTM, and the plans that launch them.
#ifndef XHYBRID_BACKENDS_CUDA_MLSTM_PLANS_SM90_CUH_
#define XHYBRID_BACKENDS_CUDA_MLSTM_PLANS_SM90_CUH_

#include <algorithm>

#include "backends/cuda/mlstm_sm90.cuh"

namespace xh::gpu::mlstm {

// What FORWARD saves: the state before every chunk, as the tiles [d / 64][n][64] that stand in shared memory, z in f32,
// and the signed denominator q.z of every token in units of its stabiliser.
struct Saved {
  int64_t states, vectors, denominators;

  Saved(const Shape& s, int64_t* bytes)
      : states(Reserve(bytes, s.pairs() * s.chunks(), s.features * s.columns * 2)),
        vectors(Reserve(bytes, s.pairs() * s.chunks(), s.features * 4)),
        denominators(Reserve(bytes, s.pairs() * s.tokens, 4)) {}
  void Point(char* saved, char** to_states, float** to_vectors, float** to_denominators) const {
    *to_states = saved + states;
    *to_vectors = Part<float>(saved, vectors);
    *to_denominators = Part<float>(saved, denominators);
  }
};

// One state a pair and segment, f32 [n, d], then [n], then the decay over the segment. A pass writes what each segment
// adds to a state of 0; the scan makes the state before (or after, in BACKWARD) each segment of it.
struct SegmentStates {
  float* data;
  int64_t features, columns, segments;

  static int64_t Reserve(int64_t* bytes, const Shape& s, const Segments& segments) {
    const int64_t floats = segments.count > 1 ? s.pairs() * segments.count : 0;
    return gpu::Reserve(bytes, floats, Floats(s.features, s.columns) * 4);
  }
  __host__ __device__ static int64_t Floats(int64_t n, int64_t d) { return n * d + n + 4; }
  __host__ __device__ float* At(int64_t pair, int64_t segment) const {
    return data + (pair * segments + segment) * Floats(features, columns);
  }
  __device__ StateView Before(int64_t pair, int64_t segment) const {
    const float* const state = At(pair, segment);
    return {state, columns, state + features * columns};
  }
  // By a whole block: warpgroup's columns from `column`, z in shared memory.
  template <int kBlocks>
  __device__ void Write(int64_t pair, int64_t segment, int column, const float (&state)[kBlocks][32], const float* z,
                        float decay) const {
    float* const to = At(pair, segment);
    WriteState<kBlocks>(state, column, to + column * 0, columns);
    for (int64_t i = threadIdx.x; i < features; i += blockDim.x) to[features * columns + i] = z[i];
    if (threadIdx.x == 0) to[features * columns + features] = decay;
  }
};
// In order of the segments, or against it (`backwards`); the first begins with the state given, or 0.
void LaunchSegmentScan(gpuStream_t stream, const SegmentStates& states, int64_t pairs, int64_t heads,
                       const View<const float>& matrix, const View<const float>& vector, bool backwards);

struct ForwardArguments {
  GateArrays<float> gates;
  Segments segments;
  int64_t pairs, heads;
  int group;  // query heads of a head of v
  float scale;
  bool floored;
  SegmentStates local;
  View<const float> matrix, vector;              // before the sequence, or absent
  View<float> matrix_out, vector_out, most_out;  // after it, or absent
  char* states;                                  // saved, or NULL
  float *vectors, *denominators;
};

struct BackwardArguments {
  GateArrays<float> gates;
  Segments segments;
  int64_t pairs, heads;
  int group;
  float scale;
  SegmentStates local;
  const char* states;
  const float* vectors;
  const float* inverses;  // [pairs, T]: 1 / N, what h was multiplied by
  const float* deltas;    // [pairs, T]: dL / dN times -N: (dh . h) / N, 0 where the floor held
  float *di, *shares;     // [pairs, T]: k . dk and q . dq
  bool wants_q, wants_k, wants_v, adds_q, adds_k, adds_v;
};

// The plans, by size; each falls back to `plain` where a run's pointers are not for the copy engine.
std::unique_ptr<Plan> MakeForwardSm90(const Shape& shape, const Request& request, std::unique_ptr<Plan> plain);
std::unique_ptr<Plan> MakeBackwardSm90(const Shape& shape, const Request& request, std::unique_ptr<Plan> plain);

// Whether the copy engine takes the pointers of these arguments.
inline bool Aligned(const Launch& launch, std::initializer_list<int> slots) {
  return std::all_of(slots.begin(), slots.end(),
                     [&](int slot) { return reinterpret_cast<uintptr_t>(launch.args[slot].data) % 16 == 0; });
}

}  // namespace xh::gpu::mlstm

#endif  // XHYBRID_BACKENDS_CUDA_MLSTM_PLANS_SM90_CUH_
