// HYBRID_STEP: the mLSTM's state, its normaliser and the gates.
#ifndef XHYBRID_BACKENDS_CUDA_HYBRID_STEP_STATE_SM90_CUH_
#define XHYBRID_BACKENDS_CUDA_HYBRID_STEP_STATE_SM90_CUH_

#include "backends/cuda/hybrid_step_sm90.cuh"

namespace xh::gpu::hybrid_step {

// ---- the mLSTM ----

struct StateWork {
  int lanes, lane, first, step;  // lanes: threads that hold a row's columns, a pack each

  __device__ explicit StateWork(int columns) {
    lanes = columns / 4;
    lane = static_cast<int>(threadIdx.x) % lanes;
    first = static_cast<int>(threadIdx.x) / lanes;
    step = kWorkers / lanes;
  }
};

// The first packs of a thread, or all of them: to shared memory, where it alone reads them.
template <class T>
__device__ void FetchState(const StepArgs<T>& a, const Place& at, const StateWork& work, int columns, int packs,
                           float* state) {
  const float* from = a.s.At(at.b, at.head, work.first) + at.slice * columns + work.lane * 4;
  float* to = state + threadIdx.x * 4;
  for (int j = 0; j < packs && work.first + j * work.step < a.features; ++j) {
    CopyWords(to, from);
    from += work.step * a.s.stride[2];
    to += kWorkers * 4;
  }
}

// S' and, by warp, phi(q) S'.
template <class T>
__device__ void UpdateState(const StepArgs<T>& a, const Place& at, const StateWork& work, int columns,
                            const mlstm::TokenGates& gates, float* memory, const Layout& l) {
  const float *const q = memory + l.phi, *const k = q + a.features, *const state = memory + l.state;
  float value[4], total[4] = {};
#pragma unroll
  for (int w = 0; w < 4; ++w) value[w] = gates.keep * memory[l.v + at.slice * columns + work.lane * 4 + w];
  float* place = a.s.At(at.b, at.head, work.first) + at.slice * columns + work.lane * 4;
  WaitForCopies();
#pragma unroll 4
  for (int r = work.first, j = 0; r < a.features; r += work.step, ++j, place += work.step * a.s.stride[2]) {
    Pack<float, 4> s;
    if (j < l.packs) {
      s = *reinterpret_cast<const Pack<float, 4>*>(state + (j * kWorkers + static_cast<int>(threadIdx.x)) * 4);
    } else {
      s = mlstm::LoadOnce<4>(place);
    }
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      s.value[w] = fmaf(gates.decay, s.value[w], k[r] * value[w]);
      total[w] = fmaf(q[r], s.value[w], total[w]);
    }
    mlstm::StoreOnce<4>(place, s);
  }
  for (int mask = kWarp / 2; mask >= work.lanes; mask /= 2) {
#pragma unroll
    for (int w = 0; w < 4; ++w) total[w] += XH_SHUFFLE_XOR(total[w], mask);
  }
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (static_cast<int>(threadIdx.x) % kWarp >= work.lanes) return;
#pragma unroll
  for (int w = 0; w < 4; ++w) memory[l.totals + warp * columns + work.lane * 4 + w] = total[w];
}

// ---- the ninth warp ----

template <class T, int kDim>
struct SingleNumbers {
  static constexpr int kEach = kDim / kWarp;
  float weight[3][kEach], bias, i, f, m, sum = 0.0f;

  __device__ void LoadWeights(const StepArgs<T>& a, const Place& at, int lane) {
    const T* const w = a.w.At(at.head);
#pragma unroll
    for (int part = 0; part < 3; ++part) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) weight[part][e] = ToFloat(w[part * kDim + e * kWarp + lane]);
    }
    bias = ToFloat(*a.bias.At(at.head));
  }
  __device__ void LoadRows(const StepArgs<T>& a, const Place& at, int lane, float* z) {
    for (int r = lane; r < a.features; r += kWarp) z[r] = a.z.At(at.b, at.head)[r];
    i = *a.i.At(at.b, at.head);
    f = *a.f.At(at.b, at.head);
    m = *a.m.At(at.b, at.head);
    const T* const rows[3] = {a.q.At(at.b, at.head), a.k.At(at.b, at.kv), a.v.At(at.b, at.kv)};
#pragma unroll
    for (int part = 0; part < 3; ++part) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) sum = fmaf(weight[part][e], ToFloat(rows[part][e * kWarp + lane]), sum);
    }
  }
  __device__ void Put(int lane, Scalars* to) {
    sum = WarpSum(sum);
    if (lane != 0) return;
    to->mix = 1.0f / (1.0f + expf(-(sum + bias)));
    to->gates = mlstm::FindGates(i, f, static_cast<double>(m));
  }
};

// z' in shared memory, and what numerators are divided by.
__device__ inline void UpdateNormalizer(const float* phi, int features, bool floored, int lane, float* z, Scalars* at) {
  const mlstm::TokenGates gates = at->gates;
  float dot = 0.0f;
  for (int r = lane; r < features; r += kWarp) {
    const float after = fmaf(gates.decay, z[r], gates.keep * phi[features + r]);
    z[r] = after;
    dot = fmaf(phi[r], after, dot);
  }
  dot = WarpSum(dot);
  if (floored) dot = fabsf(dot) < gates.floor ? gates.floor : fabsf(dot);  // NaN stays
  if (lane == 0) at->divisor = dot;
}

}  // namespace xh::gpu::hybrid_step

#endif  // XHYBRID_BACKENDS_CUDA_HYBRID_STEP_STATE_SM90_CUH_
