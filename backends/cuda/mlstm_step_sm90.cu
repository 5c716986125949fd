// One token of the mLSTM recurrence for many heads, on Hopper: the state streams through shared memory by bulk copies,
// so that each multiprocessor has some halves of heads on their way in and one on its way out. A block goes through
// heads; one barrier a half.
#include "backends/cuda/mlstm_token.cuh"
#include "backends/cuda/sm90.cuh"

namespace xh::gpu::mlstm {
namespace {

using namespace sm90;

constexpr int kStreamThreads = 256, kSlots = 6, kMostFloats = 128 * 128;  // of a head's matrix
constexpr int kAllThreads = kStreamThreads + 32;  // a warp more for gates, in double, and copies
constexpr int kWarps = kStreamThreads / 32;

template <class T>
struct StreamArguments {
  View<const T> q, k, v;
  View<const float> i, f, s, z, m;
  View<T> h;
  View<float> s_out, z_out, m_out;
  const int32_t* permit;  // where it is 0 nothing is done; or NULL
  int pairs, heads, group, features, columns;
  float scale;
  bool floored;
};

struct StreamShared {
  float slots[kSlots][kMostFloats / 2];
  float sums[2][kStreamThreads * 4];  // h before the division, a part a group of rows
  float2 qk[2][kStreamThreads];       // q times scale, k
  float values[2][kStreamThreads];
  float dots[2][kWarps];  // parts of q.z
  TokenGates gates[2];
  uint64_t loaded[kSlots];
};

// What a thread fetches of a head before it is its turn, an entry of each vector: as it is, so that nothing waits for
// it.
template <class T>
struct NextHead {
  T q = FromFloat<T>(0.0f), k = FromFloat<T>(0.0f), v = FromFloat<T>(0.0f);
  float z = 0.0f;

  __device__ void Fetch(const StreamArguments<T>& a, int pair) {
    const int b = pair / a.heads, head = pair % a.heads, thread = static_cast<int>(threadIdx.x);
    if (thread < a.features) {
      q = a.q.At(b, head)[thread];
      k = a.k.At(b, head)[thread];
      z = a.z.At(b, head)[thread];
    }
    if (thread < a.columns) v = a.v.At(b, head / a.group)[thread];
  }
  __device__ void Store(const StreamArguments<T>& a, int parity, StreamShared* shared) const {
    shared->qk[parity][threadIdx.x] = make_float2(a.scale * ToFloat(q), ToFloat(k));
    shared->values[parity][threadIdx.x] = ToFloat(v);
  }
};

// One thread.
template <class T>
__device__ inline void StepGates(const StreamArguments<T>& a, int pair, int parity, StreamShared* shared) {
  const int b = pair / a.heads, head = pair % a.heads;
  const TokenGates gates = FindGates(*a.i.At(b, head), *a.f.At(b, head), static_cast<double>(*a.m.At(b, head)));
  shared->gates[parity] = gates;
  *a.m_out.At(b, head) = gates.m;
}

// Half of a head's rows, the upper or the lower.
struct Half {
  int pair, which, slot;

  __device__ Half(int first, int blocks, int index)
      : pair(first + index / 2 * blocks), which(index % 2), slot(index % kSlots) {}
};

template <class T>
__device__ inline void LoadHalf(const StreamArguments<T>& a, const Half& half, StreamShared* shared) {
  const int floats = a.features / 2 * a.columns;
  const uint32_t bytes = static_cast<uint32_t>(floats) * 4;
  BarrierExpect(&shared->loaded[half.slot], bytes);
  LoadBytes(shared->slots[half.slot], a.s.At(half.pair / a.heads, half.pair % a.heads) + half.which * floats, bytes,
            &shared->loaded[half.slot]);
}

template <class T>
__device__ inline void StoreHalf(const StreamArguments<T>& a, const Half& half, StreamShared* shared) {
  const int floats = a.features / 2 * a.columns;
  StoreBytes(a.s_out.At(half.pair / a.heads, half.pair % a.heads) + half.which * floats, shared->slots[half.slot],
             static_cast<uint32_t>(floats) * 4);
  StoreCommit();
}

// z of this token, and this warp's part of q.z.
template <class T>
__device__ inline void StepVector(const StreamArguments<T>& a, int pair, int parity, float z_before,
                                  const TokenGates& gates, StreamShared* shared) {
  const int thread = static_cast<int>(threadIdx.x);
  const float2 qk = shared->qk[parity][thread];
  const float z = fmaf(gates.decay, z_before, gates.keep * qk.y);
  if (thread < a.features) a.z_out.At(pair / a.heads, pair % a.heads)[thread] = z;
  const float dot = WarpSum(thread < a.features ? qk.x * z : 0.0f);
  if (thread % 32 == 0) shared->dots[parity][thread / 32] = dot;
}

// Half of the matrix in its slot; 4 columns a thread, rows group, group + groups, ...
template <class T>
__device__ inline void StepMatrix(const StreamArguments<T>& a, const Half& half, int parity, const TokenGates& gates,
                                  StreamShared* shared, float4* total) {
  const int lanes = a.columns / 4, lane = static_cast<int>(threadIdx.x) % lanes, rows = a.features / 2;
  const int group = static_cast<int>(threadIdx.x) / lanes, groups = kStreamThreads / lanes;
  const float4 v = reinterpret_cast<const float4*>(shared->values[parity])[lane];
  const float in[4] = {gates.keep * v.x, gates.keep * v.y, gates.keep * v.z, gates.keep * v.w};
  const float2* const rows_qk = shared->qk[parity] + half.which * rows;
  float4* const matrix = reinterpret_cast<float4*>(shared->slots[half.slot]) + lane;
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
__device__ inline void WriteOut(const StreamArguments<T>& a, int pair, int parity, const TokenGates& gates,
                                const StreamShared& shared) {
  const int column = static_cast<int>(threadIdx.x);
  if (column >= a.columns) return;
  float dot = 0.0f, sum = 0.0f;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) dot += shared.dots[parity][w];
  for (int at = column; at < kStreamThreads * 4; at += a.columns) sum += shared.sums[parity][at];
  float divisor = dot;
  if (a.floored) divisor = fabsf(dot) < gates.floor ? gates.floor : fabsf(dot);  // NaN stays
  a.h.At(pair / a.heads, pair % a.heads)[column] = FromFloat<T>(sum / divisor);
}

// The last warp's first thread: gates of the next head while the others work on this one, then each half's way out and
// the way in of the half that takes its place.
template <class T>
__device__ inline void RunCopies(const StreamArguments<T>& a, int first, int blocks, int count, StreamShared* shared) {
  const bool leader = threadIdx.x == kStreamThreads;
  if (leader) StepGates(a, first, 0, shared);
  __syncwarp();
  __syncthreads();
  for (int index = 0; index < 2 * count; ++index) {
    const Half half(first, blocks, index);
    if (leader && half.which == 0 && index / 2 + 1 < count) {
      StepGates(a, half.pair + blocks, (index / 2 + 1) % 2, shared);
    }
    __syncwarp();
    __syncthreads();
    if (leader) {
      StoreHalf(a, half, shared);
      if (index + kSlots - 1 < 2 * count) {
        StoreWaitRead<1>();  // the half before has left its slot
        LoadHalf(a, Half(first, blocks, index + kSlots - 1), shared);
      }
    }
    __syncwarp();
  }
  if (leader) StoreWait();
}

template <class T>
__device__ inline void RunHeads(const StreamArguments<T>& a, int first, int blocks, int count, StreamShared* shared) {
  NextHead<T> next;
  next.Fetch(a, first);
  next.Store(a, 0, shared);
  __syncthreads();
  for (int head = 0; head < count; ++head) {
    const int pair = first + head * blocks, parity = head % 2;
    const bool more = head + 1 < count;
    const float z_before = next.z;
    if (more) next.Fetch(a, pair + blocks);
    const TokenGates gates = shared->gates[parity];
    StepVector(a, pair, parity, z_before, gates, shared);
    float4 total = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const Half half(first, blocks, 2 * head + which);
      BarrierWait(&shared->loaded[half.slot], (2 * head + which) / kSlots % 2);
      StepMatrix(a, half, parity, gates, shared, &total);
      if (which == 1) {
        reinterpret_cast<float4*>(shared->sums[parity])[threadIdx.x] = total;
        if (more) next.Store(a, 1 - parity, shared);
      }
      FenceForAsync();
      __syncthreads();
    }
    WriteOut(a, pair, parity, gates, *shared);
  }
}

template <class T>
__global__ void __launch_bounds__(kAllThreads, 1) StepStream(const __grid_constant__ StreamArguments<T> a) {
  extern __shared__ __align__(128) char memory[];
  StreamShared* const shared = reinterpret_cast<StreamShared*>(memory);
  const int blocks = static_cast<int>(gridDim.x), first = static_cast<int>(blockIdx.x);
  const int count = (a.pairs - first + blocks - 1) / blocks;
  LetNextBegin();
  WaitForEarlier();
  if (threadIdx.x == kStreamThreads) {
    for (int slot = 0; slot < kSlots; ++slot) BarrierInit(&shared->loaded[slot], 1);
    BarrierInitFence();
    for (int i = 0; i < kSlots - 1 && i < 2 * count; ++i) LoadHalf(a, Half(first, blocks, i), shared);
  }
  if (a.permit != nullptr && *a.permit == 0) {
    if (threadIdx.x != kStreamThreads) return;
    for (int i = 0; i < kSlots - 1 && i < 2 * count; ++i) BarrierWait(&shared->loaded[i], 0);
    return;
  }
  if (threadIdx.x < kStreamThreads) {
    RunHeads(a, first, blocks, count, shared);
  } else {
    RunCopies(a, first, blocks, count, shared);
  }
}

class StreamPlan final : public Plan {
 public:
  // With `plain`, for a state that is not at a multiple of 16 bytes, as the op; without it a permit comes behind m_out.
  StreamPlan(const Shape& shape, const Facts& facts, std::unique_ptr<Plan> plain)
      : s_(shape), multiprocessors_(facts.multiprocessors), plain_(std::move(plain)) {
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
                                  static_cast<int>(s_.pairs()),
                                  static_cast<int>(s_.heads),
                                  static_cast<int>(s_.group()),
                                  static_cast<int>(s_.features),
                                  static_cast<int>(s_.columns),
                                  s_.scale,
                                  s_.floored};
    const unsigned blocks = static_cast<unsigned>(std::min<int64_t>(s_.pairs(), multiprocessors_));
    LaunchEarly(launch, StepStream<T>, blocks, kAllThreads, sizeof(StreamShared), a);
  }

  Shape s_;
  int multiprocessors_;
  std::unique_ptr<Plan> plain_;
};

// A head's matrix is one stretch of memory that the copy engine takes.
bool IsWhole(const xh_tensor& state, const Shape& s) {
  return state.dtype == XH_F32 && state.stride[2] == s.columns && state.stride[0] % 4 == 0 && state.stride[1] % 4 == 0;
}

bool Takes(const Shape& s, const Request& request) {
  const bool sizes = (s.columns == 64 || s.columns == 128 || s.columns == 256) && s.features <= kStreamThreads &&
                     s.features % 2 == 0 && s.features * s.columns <= kMostFloats;
  // Fewer heads are no stream: a block would wait for its first.
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
  return std::make_unique<StreamPlan>(s, *request.facts, std::move(plain));
}

std::unique_ptr<Plan> MakeMlstmStream(const Shape& s, const Request& request) {
  if (!Takes(s, request)) return nullptr;
  return std::make_unique<StreamPlan>(s, *request.facts, nullptr);
}

}  // namespace xh::gpu::mlstm
