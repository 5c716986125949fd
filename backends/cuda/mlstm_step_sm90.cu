// One token of the mLSTM recurrence for many heads, on Hopper: a block a head, whose state comes and goes by bulk
// copies, in halves. Three blocks share a multiprocessor and hide each other's waiting. Blocks begin in the order of
// memory, so that those under way sweep it together: heads that one block works through drift apart, which memory
// answers slower.
#include "backends/cuda/mlstm_token.cuh"
#include "backends/cuda/sm90.cuh"

namespace xh::gpu::mlstm {
namespace {

using namespace sm90;

constexpr int kStreamThreads = 256, kStreamBlocks = 3;  // of a multiprocessor
constexpr int kMostFloats = 128 * 128;                  // of a head's matrix
constexpr int kWarps = kStreamThreads / 32;

template <class T>
struct StreamArguments {
  View<const T> q, k, v;
  View<const float> i, f, s, z, m;
  View<T> h;
  View<float> s_out, z_out, m_out;
  const int32_t* permit;  // where it is 0 nothing is done; or NULL
  int heads, group, features, columns;
  float scale;
  bool floored;
};

struct StreamShared {
  float matrix[kMostFloats];
  float sums[kStreamThreads * 4];  // h before the division, a part a group of rows
  float2 qk[kStreamThreads];       // q times scale, k
  float values[kStreamThreads];
  float dots[kWarps];  // parts of q.z
  TokenGates gates;
  uint64_t loaded[2];  // halves of the matrix
};

// Rows of a half of the matrix, the upper or the lower.
struct Half {
  int first, floats;

  template <class T>
  __device__ Half(const StreamArguments<T>& a, int which)
      : first(which * (a.features / 2) * a.columns), floats(a.features / 2 * a.columns) {}
  __device__ uint32_t bytes() const { return static_cast<uint32_t>(floats) * 4; }
};

template <class T>
__device__ inline void LoadHalf(const StreamArguments<T>& a, int b, int head, int which, StreamShared* shared) {
  const Half half(a, which);
  BarrierExpect(&shared->loaded[which], half.bytes());
  LoadBytes(shared->matrix + half.first, a.s.At(b, head) + half.first, half.bytes(), &shared->loaded[which]);
}

// z of this token, and this warp's part of q.z.
template <class T>
__device__ inline void StepVector(const StreamArguments<T>& a, int b, int head, float z_before, const TokenGates& gates,
                                  StreamShared* shared) {
  const int thread = static_cast<int>(threadIdx.x);
  const float2 qk = shared->qk[thread];
  const float z = fmaf(gates.decay, z_before, gates.keep * qk.y);
  if (thread < a.features) a.z_out.At(b, head)[thread] = z;
  const float dot = WarpSum(thread < a.features ? qk.x * z : 0.0f);
  if (thread % 32 == 0) shared->dots[thread / 32] = dot;
}

// Half of the matrix; 4 columns a thread, rows group, group + groups, ...
template <class T>
__device__ inline void StepMatrix(const StreamArguments<T>& a, int which, const TokenGates& gates, StreamShared* shared,
                                  float4* total) {
  const int lanes = a.columns / 4, lane = static_cast<int>(threadIdx.x) % lanes, rows = a.features / 2;
  const int group = static_cast<int>(threadIdx.x) / lanes, groups = kStreamThreads / lanes;
  const float4 v = reinterpret_cast<const float4*>(shared->values)[lane];
  const float in[4] = {gates.keep * v.x, gates.keep * v.y, gates.keep * v.z, gates.keep * v.w};
  const float2* const rows_qk = shared->qk + which * rows;
  float4* const matrix = reinterpret_cast<float4*>(shared->matrix + Half(a, which).first) + lane;
#pragma unroll 8
  for (int row = group; row < rows; row += groups) {
    const float2 qk = rows_qk[row];
    float4 state = matrix[row * lanes];
    state.x = fmaf(gates.decay, state.x, qk.y * in[0]);
    state.y = fmaf(gates.decay, state.y, qk.y * in[1]);
    state.z = fmaf(gates.decay, state.z, qk.y * in[2]);
    state.w = fmaf(gates.decay, state.w, qk.y * in[3]);
    total->x = fmaf(qk.x, state.x, total->x);
    total->y = fmaf(qk.x, state.y, total->y);
    total->z = fmaf(qk.x, state.z, total->z);
    total->w = fmaf(qk.x, state.w, total->w);
    matrix[row * lanes] = state;
  }
}

template <class T>
__device__ inline void WriteOut(const StreamArguments<T>& a, int b, int head, const TokenGates& gates,
                                const StreamShared& shared) {
  const int column = static_cast<int>(threadIdx.x);
  if (column >= a.columns) return;
  float dot = 0.0f, sum = 0.0f;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) dot += shared.dots[w];
  for (int at = column; at < kStreamThreads * 4; at += a.columns) sum += shared.sums[at];
  float divisor = dot;
  if (a.floored) divisor = fabsf(dot) < gates.floor ? gates.floor : fabsf(dot);  // NaN stays
  a.h.At(b, head)[column] = FromFloat<T>(sum / divisor);
}

template <class T>
__global__ void __launch_bounds__(kStreamThreads, kStreamBlocks)
    StepStream(const __grid_constant__ StreamArguments<T> a) {
  extern __shared__ __align__(128) char memory[];
  StreamShared* const shared = reinterpret_cast<StreamShared*>(memory);
  const int thread = static_cast<int>(threadIdx.x);
  const bool leader = thread == 0;
  const int b = static_cast<int>(blockIdx.x) / a.heads, head = static_cast<int>(blockIdx.x) % a.heads;
  if (leader) {
    for (uint64_t& barrier : shared->loaded) BarrierInit(&barrier, 1);
    BarrierInitFence();
  }
  __syncthreads();
  WaitForEarlier();
  if (a.permit != nullptr && *a.permit == 0) return;
  if (leader) {
    for (int which = 0; which < 2; ++which) LoadHalf(a, b, head, which, shared);
  }
  if (thread == kStreamThreads - 1) {
    shared->gates = FindGates(*a.i.At(b, head), *a.f.At(b, head), static_cast<double>(*a.m.At(b, head)));
    *a.m_out.At(b, head) = shared->gates.m;
  }
  float z = 0.0f;
  if (thread < a.features) {
    z = a.z.At(b, head)[thread];
    shared->qk[thread] = make_float2(a.scale * ToFloat(a.q.At(b, head)[thread]), ToFloat(a.k.At(b, head)[thread]));
  }
  if (thread < a.columns) shared->values[thread] = ToFloat(a.v.At(b, head / a.group)[thread]);
  __syncthreads();
  const TokenGates gates = shared->gates;
  StepVector(a, b, head, z, gates, shared);
  float4 total = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    BarrierWait(&shared->loaded[which], 0);
    StepMatrix(a, which, gates, shared, &total);
    if (which == 1) reinterpret_cast<float4*>(shared->sums)[thread] = total;
    FenceForAsync();
    __syncthreads();
    if (!leader) continue;
    const Half half(a, which);
    StoreBytes(a.s_out.At(b, head) + half.first, shared->matrix + half.first, half.bytes());
    StoreCommit();
  }
  LetNextBegin();  // not earlier: its blocks would take the room of heads that have not begun
  WriteOut(a, b, head, gates, *shared);
  if (leader) StoreWaitRead<0>();  // shared memory lasts until then
}

class StreamPlan final : public Plan {
 public:
  // With `plain`, for a state that is not at a multiple of 16 bytes, as the op; without it a permit comes behind m_out.
  StreamPlan(const Shape& shape, std::unique_ptr<Plan> plain) : s_(shape), plain_(std::move(plain)) {
    if (plain_ != nullptr) workspace_bytes = plain_->workspace_bytes;
    implementation = "streamed recurrence";
  }

  void Run(const Launch& launch) const override {
    const auto aligned = [&](int slot) { return reinterpret_cast<uintptr_t>(launch.args[slot].data) % 16 == 0; };
    if (plain_ != nullptr && (!aligned(kS) || !aligned(kSOut))) return plain_->Run(launch);
    WithType(s_.dtype, [&](auto type) { Start<decltype(type)>(launch); });
  }

 private:
  template <class T>
  void Start(const Launch& launch) const {
    const xh_tensor* const args = launch.args;
    const StreamArguments<T> a = {ViewOf<const T>(args[kQ]),
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
                                  plain_ == nullptr ? static_cast<const int32_t*>(args[kPermit].data) : nullptr,
                                  static_cast<int>(s_.heads),
                                  static_cast<int>(s_.group()),
                                  static_cast<int>(s_.features),
                                  static_cast<int>(s_.columns),
                                  s_.scale,
                                  s_.floored};
    LaunchEarly(launch, StepStream<T>, static_cast<unsigned>(s_.pairs()), kStreamThreads, sizeof(StreamShared), a);
  }

  Shape s_;
  std::unique_ptr<Plan> plain_;
};

// A head's matrix is one stretch of memory that the copy engine takes.
bool IsWhole(const xh_tensor& state, const Shape& s) {
  return state.dtype == XH_F32 && state.stride[2] == s.columns && state.stride[0] % 4 == 0 && state.stride[1] % 4 == 0;
}

bool Takes(const Shape& s, const Request& request) {
  const bool sizes = (s.columns == 64 || s.columns == 128 || s.columns == 256) && s.features <= kStreamThreads &&
                     s.features % 2 == 0 && s.features * s.columns <= kMostFloats;
  // With fewer heads there is nothing for a block to hide behind.
  const bool many = s.pairs() >= 4 * request.facts->multiprocessors && s.pairs() <= 1 << 30;
  if (!request.facts->wgmma || !sizes || !many) return false;
  for (const int slot : {kS, kZ, kM, kSOut, kZOut, kMOut}) {
    if (!Present(request.args[slot])) return false;
  }
  if (!IsWhole(request.args[kS], s) || !IsWhole(request.args[kSOut], s)) return false;
  return AllowShared(StepStream<bf16>, sizeof(StreamShared), *request.facts).code == 0 &&
         AllowShared(StepStream<float>, sizeof(StreamShared), *request.facts).code == 0;
}

}  // namespace

std::unique_ptr<Plan> MakeMlstmStepSm90(const Shape& s, const Request& request, std::unique_ptr<Plan> plain) {
  if (!Takes(s, request)) return plain;
  return std::make_unique<StreamPlan>(s, std::move(plain));
}

std::unique_ptr<Plan> MakeMlstmStream(const Shape& s, const Request& request) {
  if (!Takes(s, request)) return nullptr;
  return std::make_unique<StreamPlan>(s, nullptr);
}

}  // namespace xh::gpu::mlstm
