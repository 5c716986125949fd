// The chunkwise mLSTM for any GPU, INFER and FORWARD: gates, states before all chunks, outputs of all chunks at once.
#include <algorithm>

#include "backends/cuda/mlstm_plain.cuh"

namespace xh::gpu::mlstm {
namespace {

constexpr int64_t kStretch = 64;  // INFER keeps the states of this many chunks at a time

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

}  // namespace

std::unique_ptr<Plan> MakeMlstmPlainForward(const Shape& shape, const Request& request) {
  return std::make_unique<Forward>(shape, request);
}

}  // namespace xh::gpu::mlstm
