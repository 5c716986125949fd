// HYBRID_STEP: the token's rows, rotated, and their features.
#ifndef XHYBRID_BACKENDS_CUDA_HYBRID_STEP_FEATURES_SM90_CUH_
#define XHYBRID_BACKENDS_CUDA_HYBRID_STEP_FEATURES_SM90_CUH_

#include "backends/cuda/hybrid_step_sm90.cuh"

namespace xh::gpu::hybrid_step {

// ---- rows of q, k and v ----

// A warp a row of the group's q and of k: two pairs a lane, rotated and rounded as XH_OP_ROPE leaves them.
template <class T, int kDim>
__device__ void Rotate(const StepArgs<T>& a, const Place& at, int64_t position, float* memory, const Layout& l) {
  constexpr int kHalf = kDim / 2;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  if (2 * lane >= kHalf) return;
  const float* const angles = a.table.At(position) + 2 * lane;
  for (int row = warp; row <= a.group; row += kWarps) {
    const T* const from = row < a.group ? a.q.At(at.b, at.kv * a.group + row) : a.k.At(at.b, at.kv);
    float low[2], high[2], cosine[2], sine[2];
    LoadPack<T, 2>(from + 2 * lane, low);
    LoadPack<T, 2>(from + kHalf + 2 * lane, high);
    LoadPack<float, 2>(angles, cosine);
    LoadPack<float, 2>(angles + kHalf, sine);
    float* const to = memory + l.q + row * kDim;
    T* const own = reinterpret_cast<T*>(memory + l.own_k) + 2 * lane;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const T first = FromFloat<T>(low[e] * cosine[e] - high[e] * sine[e]);
      const T second = FromFloat<T>(high[e] * cosine[e] + low[e] * sine[e]);
      to[PlaceOf<T, kDim>(2 * lane + e)] = ToFloat(first);
      to[PlaceOf<T, kDim>(kHalf + 2 * lane + e)] = ToFloat(second);
      if (row < a.group) continue;
      own[e] = first;
      own[kHalf + e] = second;
    }
  }
}

// ---- features ----

struct MapRows {
  uint4 q[kMapRows], k[kMapRows];
};

// A thread has a pack of columns of every so many rows.
template <class T>
struct MapWork {
  int packs, pack, first, step;

  __device__ explicit MapWork(int columns) {
    packs = columns / kPack<T>;
    pack = static_cast<int>(threadIdx.x) % packs;
    first = static_cast<int>(threadIdx.x) / packs;
    step = kWorkers / packs;
  }
};

template <class T, int kDim>
__device__ void LoadMaps(const StepArgs<T>& a, int64_t head, const MapWork<T>& work, int row, MapRows* rows) {
#pragma unroll
  for (int j = 0; j < kMapRows; ++j) {
    const int r = row + j * work.step;
    if (r >= kDim) break;
    rows->q[j] = LoadWords(a.query_map.At(head, r) + work.pack * kPack<T>);
    rows->k[j] = LoadWords(a.key_map.At(head, r) + work.pack * kPack<T>);
  }
}

// Scores of q and k by warp: scores[warp][q or k][column].
template <class T, int kDim>
__device__ void PutScores(const StepArgs<T>& a, int64_t head, const MapWork<T>& work, MapRows& rows, const float* q,
                          const float* k, float* scores) {
  constexpr int kEach = kPack<T>;
  float sum_q[kEach] = {}, sum_k[kEach] = {};
  for (int row = work.first; row < kDim; row += work.step * kMapRows) {
    if (row > work.first) LoadMaps<T, kDim>(a, head, work, row, &rows);
#pragma unroll
    for (int j = 0; j < kMapRows; ++j) {
      const int r = row + j * work.step;
      if (r >= kDim) break;
      const float q_r = q[PlaceOf<T, kDim>(r)], k_r = k[PlaceOf<T, kDim>(r)];
      const auto query = Elements<T>(rows.q[j]), key = Elements<T>(rows.k[j]);
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        sum_q[e] = fmaf(q_r, ToFloat(query.value[e]), sum_q[e]);
        sum_k[e] = fmaf(k_r, ToFloat(key.value[e]), sum_k[e]);
      }
    }
  }
  for (int mask = kWarp / 2; mask >= work.packs; mask /= 2) {
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      sum_q[e] += XH_SHUFFLE_XOR(sum_q[e], mask);
      sum_k[e] += XH_SHUFFLE_XOR(sum_k[e], mask);
    }
  }
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane >= work.packs) return;
  float* const to = scores + warp * 2 * a.map_columns + work.pack * kEach;
#pragma unroll
  for (int four = 0; four < kEach; four += 4) {
    FourAt(to + four) = {{sum_q[four], sum_q[four + 1], sum_q[four + 2], sum_q[four + 3]}};
    FourAt(to + a.map_columns + four) = {{sum_k[four], sum_k[four + 1], sum_k[four + 2], sum_k[four + 3]}};
  }
}

// A warp: one softmax, over n columns of sign * (the warps' scores added up).
__device__ inline void PutSoftmax(const float* scores, int n, float sign, float scale, float* phi) {
  constexpr int kColumns = kMostMap / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float score[kColumns], most = -kInfinity, sum = 0.0f;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (lane + c * kWarp >= n) continue;
    score[c] = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) score[c] += scores[w * 2 * n + lane + c * kWarp];
    score[c] *= sign;
    most = fmaxf(most, score[c]);
  }
  most = WarpMax(most);
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (lane + c * kWarp >= n) continue;
    score[c] = expf(score[c] - most);
    sum += score[c];
  }
  scale /= WarpSum(sum);
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (lane + c * kWarp < n) phi[lane + c * kWarp] = score[c] * scale;
  }
}

// Warps 0 to 3: features of q, then of k.
template <class T, int kDim>
__device__ void PutFeatures(const StepArgs<T>& a, const float* q, const float* k, const float* scores, float* phi) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, n = a.map_columns, halves = a.hedgehog ? 2 : 1;
  if (n == 0) {
    for (int c = static_cast<int>(threadIdx.x); c < kDim; c += kWorkers) {
      phi[c] = a.mlstm_scale * q[PlaceOf<T, kDim>(c)];
      phi[a.features + c] = k[PlaceOf<T, kDim>(c)];
    }
    return;
  }
  if (warp >= 2 * halves) return;
  const int which = warp / halves, half = warp % halves;
  PutSoftmax(scores + which * n, n, half == 0 ? 1.0f : -1.0f, which == 0 ? a.mlstm_scale : 1.0f,
             phi + which * a.features + half * n);
}

}  // namespace xh::gpu::hybrid_step

#endif  // XHYBRID_BACKENDS_CUDA_HYBRID_STEP_FEATURES_SM90_CUH_
