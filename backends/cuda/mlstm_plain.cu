// The chunkwise mLSTM (SPEC.md 1.1) for any GPU, f32 throughout but for the gates. Forward: gates, states before all
// chunks (a scan over chunks, parallel over tiles of the state), outputs of all chunks at once. Backward: the same in
// reverse. The gradient of the state between two chunks is kept times exp(m) of the state there, so that no factor
// exceeds 1.
#include <algorithm>

#include "backends/cuda/mlstm_gates.cuh"
#include "backends/cuda/plain_tiles.cuh"

namespace xh::gpu::mlstm {
namespace {

static_assert(kChunk == kTile, "a chunk is a tile of rows");

constexpr int64_t kStretch = 64;  // INFER keeps the states of this many chunks at a time

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
__device__ float Times(float x, float factor) { return factor == 0.0f ? 0.0f : x * factor; }

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

// ---- outputs ----

template <class T>
struct OutputArgs {
  Sizes s;
  GateArrays<double> gates;
  View<const T> q, k, v;
  View<T> h;
  States states;
  float* denominator;  // [pairs, T] or NULL
  int64_t first, count;
};

// q_u.z by the threads that share row u.
template <class T>
__device__ float DotLanes(const Rows<T>& q, const float* z, int u, int64_t features) {
  float dot = 0.0f;
  for (int64_t a = threadIdx.x % kLanes; a < features; a += kLanes) dot = fmaf(q(u, a), z[a], dot);
  return LaneSum(dot);
}

// A block a chunk.
template <class T>
__global__ void __launch_bounds__(kTileThreads) Outputs(OutputArgs<T> a) {
  __shared__ Slabs slabs;
  __shared__ LeftTile scores;
  const Sizes& s = a.s;
  const int64_t pair = blockIdx.x / a.count, slot = blockIdx.x % a.count, chunk = a.first + slot;
  const int64_t b = pair / s.heads, head = pair % s.heads;
  const ChunkGates<double> gates(a.gates, pair, chunk);
  const Rows<T> q = ChunkRows(a.q, b, head, gates, s.features), k = ChunkRows(a.k, b, head, gates, s.features);
  const Rows<T> v = ChunkRows(a.v, b, head / s.group, gates, s.columns);
  const bool carried = gates.Carries(0) && (chunk > 0 || s.state);
  const float* const state = a.states.Matrix(s, pair, slot);
  const int row = ThreadRow(), column = ThreadColumn();
  Micro score;
  AddProduct<true, true>(
      &slabs, s.features, [&](int r, int64_t p) { return s.scale * q(r, p); },
      [&](int c, int64_t p) { return k(c, p); }, &score);
  float factor[4];  // of the state in each row
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int u = row + i;
    const bool valid = u < gates.tokens;
    const double most = valid ? gates.Most(u) : 0.0;
    const int from = valid ? gates.First(u) : 0;
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int w = column + j;
      score.at[i][j] = valid && w >= from && w <= u ? score.at[i][j] * gates.Weight(most, w) : 0.0f;
      sum += score.at[i][j];
    }
    float denominator = LaneSum(sum);
    const float carry = valid && carried ? gates.Carry(u, most) : 0.0f;
    if (carried) {
      const float dot = s.scale * DotLanes(q, a.states.Vector(s, pair, slot), u, s.features);
      denominator += Times(dot, carry);
    }
    float divisor = valid ? denominator : 1.0f;
    if (valid && s.floored) {
      const float floor = gates.Floor(u, most), size = fabsf(denominator);
      divisor = size < floor ? floor : size;  // NaN stays
    }
    // Dividing the weights, not h: where one input has all the weight, h is its v exactly, and backward sees it.
#pragma unroll
    for (int j = 0; j < 4; ++j) score.at[i][j] = score.at[i][j] / divisor;
    factor[i] = carry / divisor;
    if (valid && a.denominator != nullptr && column == 0) {
      a.denominator[pair * a.gates.tokens + gates.at + u] = denominator;
    }
  }
  StoreLeft(score, &scores);
  for (int64_t base = 0; base < s.columns; base += kTile) {
    Micro out;
    if (carried) {
      AddProduct<true, false>(
          &slabs, s.features, [&](int r, int64_t p) { return s.scale * q(r, p); },
          [&](int c, int64_t p) { return base + c < s.columns ? state[p * s.columns + base + c] : 0.0f; }, &out);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) out.at[i][j] = Times(out.at[i][j], factor[i]);
      }
    }
    AddTileProduct<false>(
        &slabs, scores, gates.tokens, [&](int c, int64_t p) { return v(p, base + c); }, &out);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (row + i >= gates.tokens || base + column + j >= s.columns) continue;
        a.h.At(b, head, gates.at + row + i)[base + column + j] = FromFloat<T>(out.at[i][j]);
      }
    }
  }
}

// ---- memory between FORWARD and BACKWARD: states before every chunk and the signed q.z of every token ----

struct Saved {
  int64_t matrix, vector, denominator;

  Saved(const Shape& s, int64_t* bytes)
      : matrix(Reserve(bytes, s.pairs() * s.chunks() * s.features * s.columns, 4)),
        vector(Reserve(bytes, s.pairs() * s.chunks() * s.features, 4)),
        denominator(Reserve(bytes, s.pairs() * s.tokens, 4)) {}
};

class Forward final : public Plan {
 public:
  Forward(const Shape& shape, const Request& request)
      : s_(shape),
        keeps_(request.pass == XH_FORWARD),
        gives_state_(Present(request.args[kSOut])),
        slots_(keeps_ ? s_.chunks() : std::min(kStretch, s_.chunks())),
        gates_(s_, &workspace_bytes),
        saved_(s_, &saved_bytes) {
    if (!keeps_) {
      saved_bytes = 0;
      matrix_ = Reserve(&workspace_bytes, s_.pairs() * slots_ * s_.features * s_.columns, 4);
      vector_ = Reserve(&workspace_bytes, s_.pairs() * slots_ * s_.features, 4);
      run_matrix_ = Reserve(&workspace_bytes, s_.pairs() * s_.features * s_.columns, 4);
      run_vector_ = Reserve(&workspace_bytes, s_.pairs() * s_.features, 4);
    }
    implementation = "chunkwise";
  }

  void Run(const Launch& launch) const override {
    WithType(s_.dtype, [&](auto type) { Run<decltype(type)>(launch); });
  }

 private:
  template <class T>
  void Run(const Launch& launch) const {
    if (s_.pairs() == 0) return;
    const xh_tensor* const args = launch.args;
    const GateArrays<double> gates = gates_.Arrays(s_, launch.workspace);
    LaunchGates<double>(launch, s_, gates);
    const States states = {keeps_ ? Part<float>(launch.saved, saved_.matrix) : Part<float>(launch.workspace, matrix_),
                           keeps_ ? Part<float>(launch.saved, saved_.vector) : Part<float>(launch.workspace, vector_),
                           slots_};
    const Sizes sizes(s_, Present(args[kS]));
    Scan<T> scan = {sizes, gates, ViewOf<const T>(args[kK]),     ViewOf<const T>(args[kV]),     {}, states,
                    0,     0,     ViewOf<const float>(args[kS]), ViewOf<const float>(args[kZ]), {}, {},
                    {}};
    OutputArgs<T> out = {sizes,
                         gates,
                         ViewOf<const T>(args[kQ]),
                         ViewOf<const T>(args[kK]),
                         ViewOf<const T>(args[kV]),
                         ViewOf<T>(args[kH]),
                         states,
                         keeps_ ? Part<float>(launch.saved, saved_.denominator) : nullptr,
                         0,
                         0};
    int64_t first = 0;
    do {
      scan.first = out.first = first;
      scan.count = out.count = std::min(slots_, s_.chunks() - first);
      first += scan.count;
      const bool last = first >= s_.chunks();
      if (last && gives_state_) {
        scan.matrix_to = ViewOf<float>(args[kSOut]);
        scan.vector_to = ViewOf<float>(args[kZOut]);
        scan.m_to = ViewOf<float>(args[kMOut]);
      } else if (!last) {
        scan.matrix_to = RunMatrix(launch);
        scan.vector_to = RunVector(launch);
      } else {
        scan.matrix_to = scan.vector_to = {};
      }
      if (scan.count > 0 || gives_state_) LaunchScan<false>(s_, scan, launch.stream);
      if (scan.count > 0) {
        Outputs<T><<<static_cast<unsigned>(s_.pairs() * out.count), kTileThreads, 0, launch.stream>>>(out);
      }
      if (!last) {
        scan.matrix_from = Constant(RunMatrix(launch));
        scan.vector_from = Constant(RunVector(launch));
      }
    } while (first < s_.chunks());
  }

  View<float> RunMatrix(const Launch& launch) const {
    const int64_t size = s_.features * s_.columns;
    return {Part<float>(launch.workspace, run_matrix_), {s_.heads * size, size, s_.columns, 1}};
  }
  View<float> RunVector(const Launch& launch) const {
    return {Part<float>(launch.workspace, run_vector_), {s_.heads * s_.features, s_.features, 1, 0}};
  }
  static View<const float> Constant(const View<float>& x) {
    return {x.data, {x.stride[0], x.stride[1], x.stride[2], x.stride[3]}};
  }

  Shape s_;
  bool keeps_, gives_state_;
  int64_t slots_;
  GateLayout<double> gates_;
  Saved saved_;
  int64_t matrix_ = 0, vector_ = 0, run_matrix_ = 0, run_vector_ = 0;
};

// ---- backward ----

template <class T>
struct BackwardArgs {
  Sizes s;
  GateArrays<double> gates;
  View<const T> q, k, v, h, dh;
  View<const float> f;
  View<T> dq, dk, dv;
  View<float> di, df;
  bool add_dq, add_dk, add_dv, add_di, add_df;
  States states;     // before every chunk
  States gradients;  // of the state after every chunk
  TokenRows rows;
  const float* denominator;
};

// A thread a token, a block a chunk. The sum runs in the order of AddProduct: where h_t is v_t, as after a forget gate
// that is shut, g_t.v_t - g_t.h_t is what remains of rounding h, not the difference of two roundings of a sum.
template <class T>
__global__ void __launch_bounds__(kChunk) FindTokenRows(BackwardArgs<T> a) {
  const Sizes& s = a.s;
  const int64_t pair = blockIdx.x / s.chunks, b = pair / s.heads, head = pair % s.heads;
  const ChunkGates<double> gates(a.gates, pair, blockIdx.x % s.chunks);
  const int u = static_cast<int>(threadIdx.x);
  if (u >= gates.tokens) return;
  const T* const g = a.dh.At(b, head, gates.at + u);
  const T* const h = a.h.At(b, head, gates.at + u);
  float dot = 0.0f;
  for (int64_t c = 0; c < s.columns; ++c) dot = fmaf(ToFloat(g[c]), ToFloat(h[c]), dot);
  const int64_t at = pair * a.gates.tokens + gates.at + u;
  const float denominator = a.denominator[at], size = fabsf(denominator);
  const float floor = s.floored ? gates.Floor(u, gates.Most(u)) : 0.0f;
  const bool at_floor = s.floored && size < floor;
  a.rows.inverse[at] = 1.0f / (at_floor ? floor : s.floored ? size : denominator);
  a.rows.share[at] = at_floor ? dot : 0.0f;
  a.rows.shift[at] = at_floor ? 0.0f : s.floored && denominator < 0.0f ? dot : -dot;
}

// A chunk of one head while its gradients are found.
template <class T>
struct GradientChunk {
  int64_t pair, b, head, chunk;
  ChunkGates<double> gates;
  Rows<T> q, k, v, g;
  bool carried, continued;  // there is a state before it; a chunk after it
  const float *inverse, *shift, *share;

  __device__ GradientChunk(const BackwardArgs<T>& a, int64_t p, int64_t c)
      : pair(p), b(p / a.s.heads), head(p % a.s.heads), chunk(c), gates(a.gates, p, c) {
    q = ChunkRows(a.q, b, head, gates, a.s.features);
    k = ChunkRows(a.k, b, head, gates, a.s.features);
    v = ChunkRows(a.v, b, head / a.s.group, gates, a.s.columns);
    g = ChunkRows(a.dh, b, head, gates, a.s.columns);
    carried = gates.Carries(0) && (chunk > 0 || a.s.state);
    continued = chunk + 1 < a.s.chunks;
    const int64_t at = pair * a.gates.tokens + gates.at;
    inverse = a.rows.inverse + at;
    shift = a.rows.shift + at;
    share = a.rows.share + at;
  }
  // Weight of input w in output t, divided by N_t; 0 where it is not seen.
  __device__ float Weight(int t, int w, double most) const {
    return w <= t && w >= gates.First(t) ? gates.Weight(most, w) * inverse[t] : 0.0f;
  }
};

// errors[t][s] = weight[t, s] (g_t.v_s / N_t + gradient of q.z) as the thread's results.
template <class T>
__device__ void FindErrors(const BackwardArgs<T>& a, const GradientChunk<T>& c, Slabs* slabs, Micro* errors) {
  AddProduct<true, true>(
      slabs, a.s.columns, [&](int r, int64_t p) { return c.g(r, p); }, [&](int s, int64_t p) { return c.v(s, p); },
      errors);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int t = ThreadRow() + i;
    const bool valid = t < c.gates.tokens;
    const double most = valid ? c.gates.Most(t) : 0.0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float weight = valid ? c.Weight(t, ThreadColumn() + j, most) : 0.0f;
      errors->at[i][j] = Times(valid ? errors->at[i][j] + c.shift[t] : 0.0f, weight);
    }
  }
}

// dq = errors k + carry (g S^T / N + gradient of q.z z), a block a chunk.
template <class T>
__global__ void __launch_bounds__(kTileThreads) QueryGradients(BackwardArgs<T> a) {
  __shared__ Slabs slabs;
  __shared__ LeftTile errors;
  const Sizes& s = a.s;
  const GradientChunk<T> c(a, blockIdx.x / s.chunks, blockIdx.x % s.chunks);
  const int row = ThreadRow(), column = ThreadColumn();
  {
    Micro found;
    FindErrors(a, c, &slabs, &found);
    StoreLeft(found, &errors);
  }
  const float* const state = a.states.Matrix(s, c.pair, c.chunk);
  const float* const z = a.states.Vector(s, c.pair, c.chunk);
  for (int64_t base = 0; base < s.features; base += kTile) {
    Micro dq;
    if (c.carried) {
      AddProduct<true, true>(
          &slabs, s.columns, [&](int r, int64_t p) { return c.g(r, p); },
          [&](int f, int64_t p) { return base + f < s.features ? state[(base + f) * s.columns + p] : 0.0f; }, &dq);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int t = row + i;
        const bool valid = t < c.gates.tokens;
        const float factor = valid ? Times(c.inverse[t], c.gates.Carry(t, c.gates.Most(t))) : 0.0f;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int64_t f = base + column + j;
          const float normalizer = valid && f < s.features ? c.shift[t] * z[f] : 0.0f;
          dq.at[i][j] = Times(dq.at[i][j] + normalizer, factor);
        }
      }
    }
    AddTileProduct<false>(
        &slabs, errors, c.gates.tokens, [&](int f, int64_t p) { return c.k(p, base + f); }, &dq);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (row + i >= c.gates.tokens || base + column + j >= s.features) continue;
        PutGradient(a.dq.At(c.b, c.head, c.gates.at + row + i) + base + column + j, s.scale * dq.at[i][j], a.add_dq);
      }
    }
  }
}

__device__ void PutGate(const View<float>& x, int64_t b, int64_t head, int64_t t, float value, bool add) {
  if (x.present()) PutGradient(x.At(b, head, t), value, add);
}

// d log(forget) / d pre-activation.
__device__ float Slope(float f) {
  const float y = expf(-fabsf(f));
  return (f >= 0.0f ? y : 1.0f) / (y + 1.0f);
}

// <S, dS> of the state after the chunk: all that leaves it. Given to every thread.
template <class T>
__device__ double Leaving(const BackwardArgs<T>& a, const GradientChunk<T>& c) {
  __shared__ double scratch[kTileThreads / kWarp];
  const Sizes& s = a.s;
  double sum = 0.0;
  if (c.continued) {
    const float* const x = a.states.Matrix(s, c.pair, c.chunk + 1);
    const float* const dx = a.gradients.Matrix(s, c.pair, c.chunk);
    for (int64_t e = threadIdx.x; e < s.features * s.columns; e += kTileThreads) {
      sum += static_cast<double>(x[e]) * static_cast<double>(dx[e]);
    }
    const float* const z = a.states.Vector(s, c.pair, c.chunk + 1);
    const float* const dz = a.gradients.Vector(s, c.pair, c.chunk);
    for (int64_t e = threadIdx.x; e < s.features; e += kTileThreads) {
      sum += static_cast<double>(z[e]) * static_cast<double>(dz[e]);
    }
    // At a border nothing leaves, whatever the state holds.
    if (a.gates.first != nullptr && a.gates.first[c.b * a.gates.tokens + c.gates.at + kChunk] == c.gates.at + kChunk) {
      sum = 0.0;
    }
  }
  return BlockSum(sum, scratch);
}

// di_s = k_s.dk_s. The log forget gate of token j decays every path from an input before j to an output from j on:
// those that leave the chunk's end, <S, dS> there, and inside, outputs from j on less inputs from j on. Starting at the
// chunk's end keeps the sums short whatever the sequence's length. No path crosses a border between documents.
template <class T>
__device__ void GateGradients(const BackwardArgs<T>& a, const GradientChunk<T>& c, const float* inputs) {
  __shared__ float forgets[kChunk];
  double leaving = a.df.present() ? Leaving(a, c) : 0.0;
  __syncthreads();  // inputs were written
  if (threadIdx.x == 0 && a.df.present()) {
    for (int s = c.gates.tokens - 1; s >= 0; --s) {
      leaving += static_cast<double>(c.share[s]) - static_cast<double>(inputs[s]);
      if (c.gates.Begins(s)) leaving = 0.0;
      forgets[s] = static_cast<float>(leaving);
    }
  }
  __syncthreads();
  const int s = static_cast<int>(threadIdx.x);
  if (s >= c.gates.tokens) return;
  PutGate(a.di, c.b, c.head, c.gates.at + s, inputs[s], a.add_di);
  if (!a.df.present()) return;
  const float slope = Slope(*a.f.At(c.b, c.head, c.gates.at + s));
  PutGate(a.df, c.b, c.head, c.gates.at + s, forgets[s] * slope, a.add_df);
}

// dk = errors^T q + keep (v dS^T + dz), and what follows from it for the gates; a block a chunk.
template <class T>
__global__ void __launch_bounds__(kTileThreads) KeyGradients(BackwardArgs<T> a) {
  __shared__ Slabs slabs;
  __shared__ LeftTile errors;
  __shared__ float inputs[kChunk];
  const Sizes& s = a.s;
  const GradientChunk<T> c(a, blockIdx.x / s.chunks, blockIdx.x % s.chunks);
  const int row = ThreadRow(), column = ThreadColumn();
  {
    Micro found;
    FindErrors(a, c, &slabs, &found);
    StoreLeftTransposed(found, &errors);
  }
  const float* const d_state = a.gradients.Matrix(s, c.pair, c.chunk);
  const float* const dz = a.gradients.Vector(s, c.pair, c.chunk);
  float dots[4] = {};
  for (int64_t base = 0; base < s.features; base += kTile) {
    Micro dk;
    if (c.continued) {
      AddProduct<true, true>(
          &slabs, s.columns, [&](int r, int64_t p) { return c.v(r, p); },
          [&](int f, int64_t p) { return base + f < s.features ? d_state[(base + f) * s.columns + p] : 0.0f; }, &dk);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float keep = row + i < c.gates.tokens ? c.gates.Keep(row + i) : 0.0f;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int64_t f = base + column + j;
          dk.at[i][j] = Times(dk.at[i][j] + (f < s.features ? dz[f] : 0.0f), keep);
        }
      }
    }
    AddTileProduct<false>(
        &slabs, errors, c.gates.tokens, [&](int f, int64_t p) { return s.scale * c.q(p, base + f); }, &dk);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t f = base + column + j;
        if (row + i >= c.gates.tokens || f >= s.features) continue;
        dots[i] = fmaf(c.k(row + i, f), dk.at[i][j], dots[i]);
        if (!a.dk.present()) continue;
        PutGradient(a.dk.At(c.b, c.head, c.gates.at + row + i) + f, dk.at[i][j], a.add_dk);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float sum = LaneSum(dots[i]);
    if (column == 0) inputs[row + i] = sum;
  }
  if (a.di.present() || a.df.present()) GateGradients(a, c, inputs);
}

// dv = sum over the heads that read it of scores^T g / N + keep k dS; a block a tile of columns of a chunk.
template <class T>
__global__ void __launch_bounds__(kTileThreads) ValueGradients(BackwardArgs<T> a) {
  __shared__ Slabs slabs;
  __shared__ LeftTile scores;
  const Sizes& s = a.s;
  const int64_t tiles = (s.columns + kTile - 1) / kTile, base = blockIdx.x % tiles * kTile;
  const int64_t item = blockIdx.x / tiles, chunk = item % s.chunks, kv_pair = item / s.chunks;
  const int64_t b = kv_pair / s.kv_heads, kv_head = kv_pair % s.kv_heads;
  const int row = ThreadRow(), column = ThreadColumn();
  int tokens = 0;
  int64_t at = 0;
  Micro dv;
  for (int64_t head = kv_head * s.group; head < (kv_head + 1) * s.group; ++head) {
    const GradientChunk<T> c(a, b * s.heads + head, chunk);
    tokens = c.gates.tokens;
    at = c.gates.at;
    Micro score;
    AddProduct<true, true>(
        &slabs, s.features, [&](int r, int64_t p) { return s.scale * c.q(r, p); },
        [&](int w, int64_t p) { return c.k(w, p); }, &score);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool valid = row + i < tokens;
      const double most = valid ? c.gates.Most(row + i) : 0.0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        score.at[i][j] = valid ? Times(score.at[i][j], c.Weight(row + i, column + j, most)) : 0.0f;
      }
    }
    __syncthreads();  // the last head's scores may still be read
    StoreLeftTransposed(score, &scores);
    AddTileProduct<false>(
        &slabs, scores, tokens, [&](int f, int64_t p) { return c.g(p, base + f); }, &dv);
    if (!c.continued) continue;
    const float* const d_state = a.gradients.Matrix(s, c.pair, c.chunk);
    AddProduct<true, false>(
        &slabs, s.features, [&](int r, int64_t p) { return r < tokens ? Times(c.k(r, p), c.gates.Keep(r)) : 0.0f; },
        [&](int f, int64_t p) { return base + f < s.columns ? d_state[p * s.columns + base + f] : 0.0f; }, &dv);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (row + i >= tokens || base + column + j >= s.columns) continue;
      PutGradient(a.dv.At(b, kv_head, at + row + i) + base + column + j, dv.at[i][j], a.add_dv);
    }
  }
}

class Backward final : public Plan {
 public:
  Backward(const Shape& shape, const Request& request)
      : s_(shape),
        wants_dq_(Present(request.args[kDq])),
        wants_keys_(Present(request.args[kDk]) || Present(request.args[kDi]) || Present(request.args[kDf])),
        wants_dv_(Present(request.args[kDv])),
        gates_(s_, &workspace_bytes),
        saved_(s_, &saved_bytes) {
    matrix_ = Reserve(&workspace_bytes, s_.pairs() * s_.chunks() * s_.features * s_.columns, 4);
    vector_ = Reserve(&workspace_bytes, s_.pairs() * s_.chunks() * s_.features, 4);
    for (int64_t& row : rows_) row = Reserve(&workspace_bytes, s_.pairs() * s_.tokens, 4);
    implementation = "chunkwise";
  }

  void Run(const Launch& launch) const override {
    if (s_.pairs() == 0 || s_.tokens == 0) return;
    if (!Present(launch.args[kDh])) {
      for (int slot = kDq; slot <= kDf; ++slot) LaunchZero(launch.args[slot], launch.stream);
      return;
    }
    WithType(s_.dtype, [&](auto type) { Run<decltype(type)>(launch); });
  }

 private:
  template <class T>
  void Run(const Launch& launch) const {
    LaunchGates<double>(launch, s_, gates_.Arrays(s_, launch.workspace));
    const BackwardArgs<T> a = Arguments<T>(launch);
    const gpuStream_t stream = launch.stream;
    const auto chunks = static_cast<unsigned>(s_.pairs() * s_.chunks());
    FindTokenRows<T><<<chunks, kChunk, 0, stream>>>(a);
    const Scan<T> scan = {a.s, a.gates, a.q, a.dh, a.rows, a.gradients, 0, s_.chunks(), {}, {}, {}, {}, {}};
    if (wants_keys_ || wants_dv_) LaunchScan<true>(s_, scan, stream);
    if (wants_dq_) QueryGradients<T><<<chunks, kTileThreads, 0, stream>>>(a);
    if (wants_keys_) KeyGradients<T><<<chunks, kTileThreads, 0, stream>>>(a);
    if (!wants_dv_) return;
    const int64_t blocks = s_.batch * s_.kv_heads * s_.chunks() * TilesOf(s_.columns);
    ValueGradients<T><<<static_cast<unsigned>(blocks), kTileThreads, 0, stream>>>(a);
  }

  template <class T>
  BackwardArgs<T> Arguments(const Launch& launch) const {
    const xh_tensor* const args = launch.args;
    char* const workspace = launch.workspace;
    return {Sizes(s_, Present(args[kS])),
            gates_.Arrays(s_, workspace),
            ViewOf<const T>(args[kQ]),
            ViewOf<const T>(args[kK]),
            ViewOf<const T>(args[kV]),
            ViewOf<const T>(args[kH]),
            ViewOf<const T>(args[kDh]),
            ViewOf<const float>(args[kF]),
            ViewOf<T>(args[kDq]),
            ViewOf<T>(args[kDk]),
            ViewOf<T>(args[kDv]),
            ViewOf<float>(args[kDi]),
            ViewOf<float>(args[kDf]),
            Accumulates(args[kDq]),
            Accumulates(args[kDk]),
            Accumulates(args[kDv]),
            Accumulates(args[kDi]),
            Accumulates(args[kDf]),
            {Part<float>(launch.saved, saved_.matrix), Part<float>(launch.saved, saved_.vector), s_.chunks()},
            {Part<float>(workspace, matrix_), Part<float>(workspace, vector_), s_.chunks()},
            {Part<float>(workspace, rows_[0]), Part<float>(workspace, rows_[1]), Part<float>(workspace, rows_[2])},
            Part<float>(launch.saved, saved_.denominator)};
  }

  Shape s_;
  bool wants_dq_, wants_keys_, wants_dv_;
  GateLayout<double> gates_;
  Saved saved_;
  int64_t matrix_ = 0, vector_ = 0, rows_[3] = {};
};

}  // namespace

std::unique_ptr<Plan> MakeMlstmPlainForward(const Shape& shape, const Request& request) {
  return std::make_unique<Forward>(shape, request);
}
std::unique_ptr<Plan> MakeMlstmPlainBackward(const Shape& shape, const Request& request) {
  return std::make_unique<Backward>(shape, request);
}

}  // namespace xh::gpu::mlstm
