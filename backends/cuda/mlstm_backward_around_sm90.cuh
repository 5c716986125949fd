// MLSTM on Hopper, BACKWARD: what stands around its kernel. Before it the divisors and dh . h of every token; behind it
// the gradients of the gates, and dv summed over the query heads that read it.
#ifndef XHYBRID_BACKENDS_CUDA_MLSTM_BACKWARD_AROUND_SM90_CUH_
#define XHYBRID_BACKENDS_CUDA_MLSTM_BACKWARD_AROUND_SM90_CUH_

#include "backends/cuda/mlstm_plans_sm90.cuh"

namespace xh::gpu::mlstm {

using namespace sm90;

inline constexpr int kRowThreads = 256;

struct DeltaArguments {
  View<const bf16> h, dh;
  const float* denominators;
  GateArrays<float> gates;
  bool floored;
  float *inverses, *deltas;
  int64_t rows;  // pairs T
};

// d / 8 lanes a row.
template <int kD>
__global__ void __launch_bounds__(kRowThreads) DeltaKernel(const DeltaArguments a) {
  constexpr int kLanes = kD / 8;
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x) / kLanes;
  const int64_t index = at < a.rows ? at : a.rows - 1;  // whole warps shuffle
  const int part = threadIdx.x % kLanes * 8;
  const int64_t pair = index / a.gates.tokens, t = index % a.gates.tokens;
  const int64_t b = pair / a.gates.heads, head = pair % a.gates.heads;
  const uint4 h = *reinterpret_cast<const uint4*>(a.h.At(b, head, t) + part);
  const uint4 dh = *reinterpret_cast<const uint4*>(a.dh.At(b, head, t) + part);
  const auto dot = [](uint32_t x, uint32_t y) {
    const float2 p = UnpackPair(x), q = UnpackPair(y);
    return p.x * q.x + p.y * q.y;
  };
  float sum = dot(h.x, dh.x) + dot(h.y, dh.y) + dot(h.z, dh.z) + dot(h.w, dh.w);
#pragma unroll
  for (int mask = kLanes / 2; mask > 0; mask /= 2) sum += XH_SHUFFLE_XOR(sum, mask);
  if (part != 0 || at >= a.rows) return;
  const float denominator = a.denominators[index];
  float divisor = denominator, sign = 1.0f;
  bool held = false;
  if (a.floored) {
    const ChunkGates<float> chunk(a.gates, pair, t / kChunk);
    const int u = static_cast<int>(t % kChunk);
    const float floor = chunk.Floor(u, chunk.Most(u)), size = fabsf(denominator);
    held = size < floor;
    divisor = held ? floor : size;
    sign = denominator < 0.0f ? -1.0f : 1.0f;
  }
  a.inverses[index] = 1.0f / divisor;
  a.deltas[index] = held ? 0.0f : sign * sum / divisor;
}

struct GateGradients {
  View<const float> f;
  View<float> di_out, df_out;
  bool adds_i, adds_f;
  const float *di, *shares;  // k . dk and q . dq of every token
  const int32_t* first;      // [B, T] or NULL
  int64_t heads, tokens;
  bool has_state;
};

// dlf_j: the sum over outputs t >= j of q_t . dq_t less that over inputs s >= j of k_s . dk_s, in j's document. Over a
// document that begins with a state of 0 both sums are equal, and those over what comes before j are taken instead:
// they are exactly 0 at its first token. q . dq is 0 where the normaliser holds, but as computed it carries the same
// rounding of E, h and the state as k . dk: taken as computed, their rounding cancels and does not add up with the
// length. A block a pair, in double: the sums are long and cancel.
inline constexpr int kScanThreads = 512;
__global__ void __launch_bounds__(kScanThreads) GateKernel(const GateGradients a) {
  __shared__ double totals[kScanThreads];
  const int64_t pair = blockIdx.x, b = pair / a.heads, head = pair % a.heads;
  const int64_t each = (a.tokens + kScanThreads - 1) / kScanThreads;
  const int thread = static_cast<int>(threadIdx.x);
  const float *const di = a.di + pair * a.tokens, *const shares = a.shares + pair * a.tokens;
  const int64_t begin = min(thread * each, a.tokens), end = min(begin + each, a.tokens);
  double total = 0.0;
  for (int64_t t = begin; t < end; ++t) total += static_cast<double>(di[t]) - shares[t];
  totals[thread] = total;
  __syncthreads();
  double before = 0.0, all = 0.0;
  for (int i = 0; i < kScanThreads; ++i) {
    if (i < thread) before += totals[i];
    all += totals[i];
  }
  // What lies before the document of the first token of this stretch is not counted.
  const int32_t* const first = a.first == nullptr ? nullptr : a.first + b * a.tokens;
  if (first != nullptr && begin < end) {
    before = 0.0;
    for (int64_t t = first[begin]; t < begin; ++t) before += static_cast<double>(di[t]) - shares[t];
  }
  for (int64_t t = begin; t < end; ++t) {
    if (first != nullptr && first[t] == t) before = 0.0;
    const double dlf = a.has_state ? before - all : before;
    if (a.di_out.present()) PutGradient(a.di_out.At(b, head, t), di[t], a.adds_i);
    if (a.df_out.present()) {
      const float f = *a.f.At(b, head, t);
      PutGradient(a.df_out.At(b, head, t), static_cast<float>(dlf / (1.0 + exp(static_cast<double>(f)))), a.adds_f);
    }
    before += static_cast<double>(di[t]) - shares[t];
  }
}

// dv of a key/value head: the sum over the query heads that read it, 8 columns a thread.
__global__ static void __launch_bounds__(kRowThreads)
    GroupSum(const bf16* parts, View<bf16> dv, int64_t kv_heads, int64_t group, int64_t tokens, int columns,
             int64_t items, bool adds) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (item >= items) return;
  const int packs = columns / 8, column = static_cast<int>(item % packs) * 8;
  const int64_t t = item / packs % tokens, kv = item / packs / tokens % kv_heads, b = item / packs / tokens / kv_heads;
  float sum[8] = {};
  for (int64_t g = 0; g < group; ++g) {
    const Pack<bf16, 8> part = *reinterpret_cast<const Pack<bf16, 8>*>(
        parts + (((b * kv_heads + kv) * group + g) * tokens + t) * columns + column);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] += ToFloat(part.value[i]);
  }
  Pack<bf16, 8>* const to = reinterpret_cast<Pack<bf16, 8>*>(dv.At(b, kv, t) + column);
  Pack<bf16, 8> out = adds ? *to : Pack<bf16, 8>{};
#pragma unroll
  for (int i = 0; i < 8; ++i) out.value[i] = FromFloat<bf16>((adds ? ToFloat(out.value[i]) : 0.0f) + sum[i]);
  *to = out;
}

}  // namespace xh::gpu::mlstm

#endif  // XHYBRID_BACKENDS_CUDA_MLSTM_BACKWARD_AROUND_SM90_CUH_
