// Gates of the mLSTM: scans inside the chunks, all at once, then one over the chunks of each head.
#include "backends/cuda/mlstm_gates.cuh"

namespace xh::gpu::mlstm {
namespace {

constexpr int kTokenThreads = 256;  // kTokenThreads / kChunk chunks a block
constexpr int kScanThreads = 256;   // chunks that are scanned at once

__device__ double LogSigmoid(double f) { return fmin(f, 0.0) - log1p(exp(-fabs(f))); }
__device__ float LogSigmoid(float f) { return fminf(f, 0.0f) - log1pf(expf(-fabsf(f))); }

template <class A>
__device__ A Larger(A a, A b) {
  return a > b || a != a ? a : b;  // NaN wins
}

template <class A>
__device__ A Infinity() {
  return static_cast<A>(kInfinity);
}

struct GateInputs {
  View<const float> i, f, m;
  View<const int32_t> start;
};

// Token t's first visible token, whatever `start` holds. Reports a bad one.
__device__ int32_t FirstToken(const View<const int32_t>& start, int64_t b, int64_t t, bool report,
                              const FaultSink& sink) {
  const int32_t value = *start.At(b, t);
  const int32_t previous = t > 0 ? *start.At(b, t - 1) : static_cast<int32_t>(t);
  if (report && value != t && value != previous) Report(sink, FaultKind::kStart, b, t, value, previous, t);
  return value < 0 ? 0 : value > t ? static_cast<int32_t>(t) : value;
}

// A thread a token: sums and maxima from the beginning of the chunk or document, by doubling.
template <class A>
__global__ void __launch_bounds__(kTokenThreads)
    TokenGates(GateInputs in, GateArrays<A> out, int64_t blocks_per_pair, FaultSink sink) {
  __shared__ A shared[kTokenThreads];
  const int64_t pair = blockIdx.x / blocks_per_pair, b = pair / out.heads, head = pair % out.heads;
  const int64_t t = blockIdx.x % blocks_per_pair * kTokenThreads + threadIdx.x;
  const int thread = static_cast<int>(threadIdx.x), u = thread % kChunk;
  const bool valid = t < out.tokens;
  int from = 0;  // in the chunk
  if (valid && in.start.present()) {
    const int32_t first = FirstToken(in.start, b, t, head == 0, sink);
    if (head == 0) out.first[b * out.tokens + t] = first;
    from = first < t - u ? 0 : static_cast<int>(first - (t - u));
  }
  A sum = valid ? LogSigmoid(static_cast<A>(*in.f.At(b, head, t))) : A{0};
  for (int reach = 1; reach < kChunk; reach *= 2) {
    shared[thread] = sum;
    __syncthreads();
    if (u - reach >= from) sum += shared[thread - reach];
    __syncthreads();
  }
  const A x = valid ? static_cast<A>(*in.i.At(b, head, t)) - sum : -Infinity<A>();
  A most = x;
  for (int reach = 1; reach < kChunk; reach *= 2) {
    shared[thread] = most;
    __syncthreads();
    if (u - reach >= from) most = Larger(shared[thread - reach], most);
    __syncthreads();
  }
  if (!valid) return;
  out.cumulative[pair * out.tokens + t] = sum;
  out.x[pair * out.tokens + t] = x;
  out.most[pair * out.tokens + t] = most;
}

// What a stretch of chunks makes of the maximum before it: m -> max(decay + m, most).
template <class A>
struct Stretch {
  A decay, most;
};
template <class A>
__device__ Stretch<A> Then(const Stretch<A>& a, const Stretch<A>& b) {
  // -inf forgets all, even where it would meet +inf.
  if (b.decay == -Infinity<A>()) return b;
  return {a.decay + b.decay, Larger(a.most + b.decay, b.most)};
}

template <class A>
__device__ Stretch<A> ChunkStretch(const GateArrays<A>& gates, int64_t pair, int64_t chunk) {
  const int64_t at = chunk * kChunk;
  const int64_t last = at + kChunk < gates.tokens ? at + kChunk - 1 : gates.tokens - 1;
  const A total = gates.cumulative[pair * gates.tokens + last];
  const A most = total + gates.most[pair * gates.tokens + last];
  const bool begins = gates.first != nullptr && gates.first[pair / gates.heads * gates.tokens + last] >= at;
  return {begins ? -Infinity<A>() : total, most};
}

// A block a pair.
template <class A>
__global__ void __launch_bounds__(kScanThreads) ScanChunks(GateInputs in, GateArrays<A> gates) {
  __shared__ Stretch<A> shared[kScanThreads];
  const int64_t pair = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  A* const before = gates.before + pair * (gates.chunks + 1);
  A m = in.m.present() ? static_cast<A>(*in.m.At(pair / gates.heads, pair % gates.heads)) : -Infinity<A>();
  if (thread == 0) before[0] = m;
  for (int64_t base = 0; base < gates.chunks; base += kScanThreads) {
    const int64_t chunk = base + thread;
    Stretch<A> stretch = {A{0}, -Infinity<A>()};  // changes nothing
    if (chunk < gates.chunks) stretch = ChunkStretch(gates, pair, chunk);
    for (int reach = 1; reach < kScanThreads; reach *= 2) {
      shared[thread] = stretch;
      __syncthreads();
      if (thread >= reach) stretch = Then(shared[thread - reach], stretch);
      __syncthreads();
    }
    const auto apply = [&](const Stretch<A>& s) {
      const A after = Then({A{0}, m}, s).most;
      // Any stabiliser will do: one that a float can hold is what the state is given in.
      return static_cast<A>(static_cast<float>(Larger(after, static_cast<A>(kNone))));
    };
    if (chunk < gates.chunks) before[chunk + 1] = apply(stretch);
    shared[thread] = stretch;
    __syncthreads();
    m = apply(shared[kScanThreads - 1]);
    __syncthreads();
  }
}

}  // namespace

template <class A>
void LaunchGates(const Launch& launch, const Shape& shape, const GateArrays<A>& arrays) {
  if (shape.pairs() == 0) return;
  const GateInputs in = {ViewOf<const float>(launch.args[kI]), ViewOf<const float>(launch.args[kF]),
                         ViewOf<const float>(launch.args[kM]), ViewOf<const int32_t>(launch.args[kStart])};
  const int64_t blocks = (shape.tokens + kTokenThreads - 1) / kTokenThreads;
  if (blocks > 0) {
    TokenGates<A><<<static_cast<unsigned>(shape.pairs() * blocks), kTokenThreads, 0, launch.stream>>>(
        in, arrays, blocks, launch.fault);
  }
  ScanChunks<A><<<static_cast<unsigned>(shape.pairs()), kScanThreads, 0, launch.stream>>>(in, arrays);
}

template void LaunchGates<float>(const Launch&, const Shape&, const GateArrays<float>&);
template void LaunchGates<double>(const Launch&, const Shape&, const GateArrays<double>&);

}  // namespace xh::gpu::mlstm
