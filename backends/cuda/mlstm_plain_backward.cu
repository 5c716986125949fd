// The chunkwise mLSTM for any GPU, BACKWARD: the forward in reverse. The gradient of the state between two chunks is
// kept times exp(m) of the state there, so that no factor exceeds 1.
#include <algorithm>

#include "backends/cuda/mlstm_plain.cuh"

namespace xh::gpu::mlstm {
namespace {

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

std::unique_ptr<Plan> MakeMlstmPlainBackward(const Shape& shape, const Request& request) {
  return std::make_unique<Backward>(shape, request);
}

}  // namespace xh::gpu::mlstm
