// The chunkwise mLSTM (SPEC.md 1.1) for any GPU, f32 throughout but for the gates: what both passes share. States
// before all chunks are a scan over chunks, parallel over tiles of the state; the gradients of states are the same in
// reverse.
#ifndef XHYBRID_BACKENDS_CUDA_MLSTM_PLAIN_CUH_
#define XHYBRID_BACKENDS_CUDA_MLSTM_PLAIN_CUH_

#include "backends/cuda/mlstm_gates.cuh"
#include "backends/cuda/plain_tiles.cuh"

namespace xh::gpu::mlstm {

static_assert(kChunk == kTile, "a chunk is a tile of rows");

struct Sizes {
  int64_t heads, group, kv_heads, features, columns, chunks;
  float scale;
  bool floored, state;  // state: there is one before the first token

  Sizes(const Shape& s, bool has_state)
      : heads(s.heads),
        group(s.group()),
        kv_heads(s.kv_heads),
        features(s.features),
        columns(s.columns),
        chunks(s.chunks()),
        scale(s.scale),
        floored(s.floored),
        state(has_state) {}
};

// States or their gradients between chunks: [pair, slot, n, d] and [pair, slot, n].
struct States {
  float *matrix, *vector;
  int64_t slots;

  __device__ float* Matrix(const Sizes& s, int64_t pair, int64_t slot) const {
    return matrix + (pair * slots + slot) * s.features * s.columns;
  }
  __device__ float* Vector(const Sizes& s, int64_t pair, int64_t slot) const {
    return vector + (pair * slots + slot) * s.features;
  }
};

// One entry a token of every pair: with N the divisor of h, g its gradient.
struct TokenRows {
  float* inverse;  // 1 / N
  float* shift;    // N times the gradient of q.z: -g.h, with the sign of q.z, or 0 where the floor holds
  float* share;    // q.dq: 0 where h does not depend on the length of q, g.h where the floor holds
};

template <class T>
__device__ Rows<T> ChunkRows(const View<const T>& x, int64_t b, int64_t head, const ChunkGates<double>& gates,
                             int64_t columns) {
  return {x.At(b, head, gates.at), x.stride[2], gates.tokens, columns};
}

// x factor, and 0 where the factor is, whatever x is: nothing passes from one document to the next.
__device__ inline float Times(float x, float factor) { return factor == 0.0f ? 0.0f : x * factor; }

// ---- the scan over chunks ----

template <class T>
struct Scan {
  Sizes s;
  GateArrays<double> gates;
  View<const T> left, right;  // k and v, or q and the gradient of h
  TokenRows rows;             // reverse only
  States states;
  int64_t first, count;  // chunks
  // Forward only: where the state comes from and goes to; a NULL matrix_from is a state of zeros, a NULL matrix_to is
  // not wanted. `m_to`: with the last chunk.
  View<const float> matrix_from, vector_from;
  View<float> matrix_to, vector_to, m_to;
};

// The tile of the state that a block carries over the chunks.
struct StateTile {
  int64_t pair, b, head, row, column;

  template <class T>
  __device__ explicit StateTile(const Scan<T>& a) {
    const int64_t rows = (a.s.features + kTile - 1) / kTile, columns = (a.s.columns + kTile - 1) / kTile;
    int64_t item = blockIdx.x;
    column = item % columns * kTile;
    item /= columns;
    row = item % rows * kTile;
    pair = item / rows;
    b = pair / a.s.heads;
    head = pair % a.s.heads;
  }
};

// Calls body(element of the thread's results, row, column) for those inside the state.
template <class Body>
__device__ void ForElements(const Sizes& s, const StateTile& tile, Micro* x, Body body) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t row = tile.row + ThreadRow() + i, column = tile.column + ThreadColumn() + j;
      if (row < s.features && column < s.columns) body(&x->at[i][j], row, column);
    }
  }
}

// Weights of a chunk's tokens in what it adds: of the matrix (with the right operand) and of the vector.
template <bool kReverse, class T>
__device__ void FindWeights(const Scan<T>& a, const ChunkGates<double>& gates, int64_t pair, float* matrix,
                            float* vector) {
  const int u = static_cast<int>(threadIdx.x);
  if (u >= kChunk) return;
  float of_matrix = 0.0f, of_vector = 0.0f;
  if (u < gates.tokens && kReverse) {
    const int64_t at = pair * a.gates.tokens + gates.at + u;
    of_matrix = Times(a.rows.inverse[at], gates.Carry(u, gates.Most(u)));
    of_vector = Times(a.rows.shift[at], of_matrix);
  } else if (u < gates.tokens) {
    of_matrix = of_vector = gates.Keep(u);
  }
  matrix[u] = of_matrix;
  vector[u] = of_vector;
}

template <bool kReverse, class T>
__global__ void __launch_bounds__(kTileThreads) ScanStates(Scan<T> a) {
  __shared__ Slabs slabs;
  __shared__ float matrix_weight[kChunk], vector_weight[kChunk];
  const StateTile tile(a);
  const Sizes& s = a.s;
  const int64_t z_row = tile.row + threadIdx.x;
  const bool has_z = tile.column == 0 && threadIdx.x < kTile && z_row < s.features;
  const float scale = kReverse ? s.scale : 1.0f;
  Micro state;
  float z = 0.0f;
  if (!kReverse && a.matrix_from.present()) {
    ForElements(s, tile, &state,
                [&](float* x, int64_t row, int64_t column) { *x = a.matrix_from.At(tile.b, tile.head, row)[column]; });
    if (has_z) z = a.vector_from.At(tile.b, tile.head)[z_row];
  }
  for (int64_t i = 0; i < a.count; ++i) {
    const int64_t slot = kReverse ? a.count - 1 - i : i, chunk = a.first + slot;
    float* const matrix = a.states.Matrix(s, tile.pair, slot);
    ForElements(s, tile, &state, [&](float* x, int64_t row, int64_t column) { matrix[row * s.columns + column] = *x; });
    if (has_z) a.states.Vector(s, tile.pair, slot)[z_row] = z;
    if (kReverse ? slot == 0 : i + 1 == a.count && !a.matrix_to.present()) break;
    const ChunkGates<double> gates(a.gates, tile.pair, chunk);
    __syncthreads();  // the last chunk's weights may still be read
    FindWeights<kReverse>(a, gates, tile.pair, matrix_weight, vector_weight);
    const Rows<T> left = ChunkRows(a.left, tile.b, tile.head, gates, s.features);
    const Rows<T> right = ChunkRows(a.right, tile.b, kReverse ? tile.head : tile.head / s.group, gates, s.columns);
    Micro added;
    AddProduct<false, false>(
        &slabs, gates.tokens, [&](int row, int64_t p) { return scale * left(p, tile.row + row); },
        [&](int column, int64_t p) { return Times(right(p, tile.column + column), matrix_weight[p]); }, &added);
    const float decay = gates.Decay();
#pragma unroll
    for (int r = 0; r < 4; ++r) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        state.at[r][c] = decay == 0.0f ? added.at[r][c] : fmaf(decay, state.at[r][c], added.at[r][c]);
      }
    }
    if (has_z) {
      float sum = 0.0f;
      for (int p = 0; p < gates.tokens; ++p) sum += Times(scale * left(p, z_row), vector_weight[p]);
      z = decay == 0.0f ? sum : fmaf(decay, z, sum);
    }
  }
  if (kReverse || !a.matrix_to.present()) return;
  ForElements(s, tile, &state,
              [&](float* x, int64_t row, int64_t column) { a.matrix_to.At(tile.b, tile.head, row)[column] = *x; });
  if (has_z) a.vector_to.At(tile.b, tile.head)[z_row] = z;
  if (a.m_to.present() && tile.row == 0 && tile.column == 0 && threadIdx.x == 0) {
    *a.m_to.At(tile.b, tile.head) =
        static_cast<float>(a.gates.before[tile.pair * (a.gates.chunks + 1) + a.gates.chunks]);
  }
}

template <bool kReverse, class T>
void LaunchScan(const Shape& s, const Scan<T>& scan, gpuStream_t stream) {
  const int64_t blocks = s.pairs() * TilesOf(s.features) * TilesOf(s.columns);
  if (blocks > 0) ScanStates<kReverse><<<static_cast<unsigned>(blocks), kTileThreads, 0, stream>>>(scan);
}

// ---- memory between FORWARD and BACKWARD: states before every chunk and the signed q.z of every token ----

struct Saved {
  int64_t matrix, vector, denominator;

  Saved(const Shape& s, int64_t* bytes)
      : matrix(Reserve(bytes, s.pairs() * s.chunks() * s.features * s.columns, 4)),
        vector(Reserve(bytes, s.pairs() * s.chunks() * s.features, 4)),
        denominator(Reserve(bytes, s.pairs() * s.tokens, 4)) {}
};

}  // namespace xh::gpu::mlstm

#endif  // XHYBRID_BACKENDS_CUDA_MLSTM_PLAIN_CUH_
