// One token of the mLSTM recurrence. The state is read and written once; all else is small. A block owns a head whole:
// then z and m, which every column needs and which may change in place, are read and written by one block alone. Small
// batches get large blocks, so that a block has its head's whole matrix in flight at n = d = 128.
#include "backends/cuda/mlstm_token.cuh"

namespace xh::gpu::mlstm {
namespace {

constexpr int kFewThreads = 256, kManyThreads = 1024;
// Packs of a matrix that a thread loads before it uses the first.
template <int kThreads>
inline constexpr int kBatch = kThreads == kFewThreads ? 8 : 4;

template <class T>
struct StepArgs {
  View<const T> q, k, v;
  View<const float> i, f, s, z, m;
  View<T> h;
  View<float> s_out, z_out, m_out;
  int64_t heads, group;
  int features, columns, lanes;  // lanes: threads side by side on a row, a power of two
  float scale;
  bool floored;
};

// Rows row, row + groups, ... of one column pack; zero outside.
template <int kWidth, int kCount>
__device__ void LoadRows(const View<const float>& s, int64_t b, int64_t head, int row, int groups, int features,
                         int column, bool valid, Pack<float, kWidth> (&held)[kCount]) {
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const int r = row + j * groups;
    held[j] = {};
    if (valid && r < features) held[j] = LoadOnce<kWidth>(s.At(b, head, r) + column);
  }
}

template <class T, int kWidth, int kThreads>
__global__ void __launch_bounds__(kThreads, kThreads == kFewThreads ? 3 : 1) Step(StepArgs<T> a) {
  extern __shared__ float memory[];
  __shared__ TokenGates shared_gates;
  __shared__ float scratch[kThreads / kWarp];
  const int n = a.features, thread = static_cast<int>(threadIdx.x);
  float* const q = memory;
  float* const k = q + n;
  float* const sums = k + n;
  const auto heads = static_cast<unsigned>(a.heads);
  const int64_t b = blockIdx.x / heads, head = blockIdx.x % heads;
  const int lane = thread % a.lanes, group = thread / a.lanes, groups = kThreads / a.lanes;
  const bool has_state = a.s.present();
  constexpr int kCount = kBatch<kThreads>;
  WaitForEarlier();
  Pack<float, kWidth> held[kCount];
  LoadRows(a.s, b, head, group, groups, n, lane * kWidth, has_state && lane * kWidth < a.columns, held);
  const float first_z = has_state && thread < n ? a.z.At(b, head)[thread] : 0.0f;
  for (int r = thread; r < n; r += kThreads) {
    q[r] = a.scale * ToFloat(a.q.At(b, head)[r]);
    k[r] = ToFloat(a.k.At(b, head)[r]);
  }
  if (thread == 0) {
    const double m = has_state ? static_cast<double>(*a.m.At(b, head)) : -static_cast<double>(kInfinity);
    shared_gates = FindGates(*a.i.At(b, head), *a.f.At(b, head), m);
    if (a.m_out.present()) *a.m_out.At(b, head) = shared_gates.m;
  }
  __syncthreads();
  const TokenGates gates = shared_gates;
  float dot = 0.0f;
  for (int r = thread; r < n; r += kThreads) {
    const float before = r == thread ? first_z : has_state ? a.z.At(b, head)[r] : 0.0f;
    const float z = fmaf(gates.decay, before, gates.keep * k[r]);
    dot = fmaf(q[r], z, dot);
    if (a.z_out.present()) a.z_out.At(b, head)[r] = z;
  }
  dot = BlockSum(dot, scratch);
  LetNextBegin();
  float divisor = dot;
  if (a.floored) divisor = fabsf(dot) < gates.floor ? gates.floor : fabsf(dot);  // NaN stays
  for (int base = 0; base < a.columns; base += a.lanes * kWidth) {
    const int column = base + lane * kWidth;
    const bool valid = column < a.columns;
    Pack<float, kWidth> value = {}, total = {};
#pragma unroll
    for (int w = 0; w < kWidth; ++w) {
      if (valid) value.value[w] = gates.keep * ToFloat(a.v.At(b, head / a.group)[column + w]);
    }
    for (int row = group; row < n; row += groups * kCount) {
      if (base > 0 || row > group) LoadRows(a.s, b, head, row, groups, n, column, has_state && valid, held);
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        const int r = row + j * groups;
        if (!valid || r >= n) continue;
        Pack<float, kWidth> state;
#pragma unroll
        for (int w = 0; w < kWidth; ++w) {
          state.value[w] = fmaf(gates.decay, held[j].value[w], k[r] * value.value[w]);
          total.value[w] = fmaf(q[r], state.value[w], total.value[w]);
        }
        if (a.s_out.present()) StoreOnce<kWidth>(a.s_out.At(b, head, r) + column, state);
      }
    }
#pragma unroll
    for (int w = 0; w < kWidth; ++w) sums[thread * kWidth + w] = total.value[w];
    __syncthreads();
    const int row_floats = a.lanes * kWidth;
    for (int c = thread; c < row_floats && base + c < a.columns; c += kThreads) {
      float sum = 0.0f;
      for (int g = 0; g < groups; ++g) sum += sums[g * row_floats + c];
      a.h.At(b, head)[base + c] = FromFloat<T>(sum / divisor);
    }
    __syncthreads();
  }
}

class StepPlan final : public Plan {
 public:
  StepPlan(const Shape& shape, const Request& request)
      : s_(shape), small_(shape.pairs() <= request.facts->multiprocessors) {
    implementation = "recurrence";
  }

  void Run(const Launch& launch) const override {
    if (s_.pairs() == 0) return;
    WithType(s_.dtype, [&](auto type) {
      using T = decltype(type);
      const bool packs = s_.columns % 4 == 0 && MovesInPacks(launch.args[kS]) && MovesInPacks(launch.args[kSOut]);
      if (small_) {
        packs ? Start<T, 4, kManyThreads>(launch) : Start<T, 1, kManyThreads>(launch);
      } else {
        packs ? Start<T, 4, kFewThreads>(launch) : Start<T, 1, kFewThreads>(launch);
      }
    });
  }

 private:
  template <class T, int kWidth, int kThreads>
  void Start(const Launch& launch) const {
    const xh_tensor* const args = launch.args;
    int lanes = 1;
    while (lanes < kThreads && lanes * kWidth < s_.columns) lanes *= 2;
    const StepArgs<T> a = {ViewOf<const T>(args[kQ]),
                           ViewOf<const T>(args[kK]),
                           ViewOf<const T>(args[kV]),
                           ViewOf<const float>(args[kI]),
                           ViewOf<const float>(args[kF]),
                           ViewOf<const float>(args[kS]),
                           ViewOf<const float>(args[kZ]),
                           ViewOf<const float>(args[kM]),
                           ViewOf<T>(args[kH]),
                           ViewOf<float>(args[kSOut]),
                           ViewOf<float>(args[kZOut]),
                           ViewOf<float>(args[kMOut]),
                           s_.heads,
                           s_.group(),
                           static_cast<int>(s_.features),
                           static_cast<int>(s_.columns),
                           lanes,
                           s_.scale,
                           s_.floored};
    const int64_t bytes = (2 * s_.features + kThreads * kWidth) * 4;
    Launch how = launch;
    how.overlaps = launch.overlaps && small_;  // many blocks keep the device busy by themselves
    LaunchEarly(how, Step<T, kWidth, kThreads>, static_cast<unsigned>(s_.pairs()), kThreads, bytes, a);
  }

  Shape s_;
  bool small_;
};

}  // namespace

std::unique_ptr<Plan> MakeMlstmStep(const Shape& shape, const Request& request) {
  return std::make_unique<StepPlan>(shape, request);
}

}  // namespace xh::gpu::mlstm
