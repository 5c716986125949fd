// HYBRID_STEP: softmax attention from the token to the window and the sinks, a share of the slots in each block of a
// cluster.
#ifndef XHYBRID_BACKENDS_CUDA_HYBRID_STEP_WINDOW_SM90_CUH_
#define XHYBRID_BACKENDS_CUDA_HYBRID_STEP_WINDOW_SM90_CUH_

#include "backends/cuda/hybrid_step_sm90.cuh"

namespace xh::gpu::hybrid_step {

struct Visible {
  int count, own;  // slots [0, count), one of which is the token's own
  int rows;        // of them, slots rank, rank + cluster, ...: this block's

  __device__ Visible(int64_t position, int window, int sinks, int rank, int cluster) {
    const int64_t recent = position - sinks + 1;
    count = static_cast<int>(position < sinks ? position + 1 : sinks + (recent < window ? recent : window));
    own = static_cast<int>(attention::SlotOf(position, window, sinks));
    rows = count > rank ? (count - rank + cluster - 1) / cluster : 0;
  }
};

// kLanes threads hold a row.
template <class T, int kDim>
struct RowWork {
  static constexpr int kLanes = kDim / kPack<T>, kRows = kWorkers / kLanes;  // rows that a block has at once
  static_assert(kLanes <= kWarp);
  int lane = static_cast<int>(threadIdx.x) % kLanes, row = static_cast<int>(threadIdx.x) / kLanes;
};

// Rows of a cache from `row` on. What lies there may be anything: how many are seen is not known yet.
template <class T, int kDim>
__device__ void LoadRows(const StepArgs<T>& a, const View<T>& cache, const Place& at, int row, uint4 (&words)[kKeys]) {
  const RowWork<T, kDim> work;
  const int slots = a.sinks + a.slots.window[at.kv], step = work.kRows * a.cluster();
  int slot = (row + work.row) * a.cluster() + at.rank;
  const T* from = cache.At(at.b, a.slots.first[at.kv] + slot) + work.lane * kPack<T>;
#pragma unroll
  for (int j = 0; j < kKeys; ++j) {
    if (slot >= slots) break;
    words[j] = LoadWords(from);
    from += step * cache.stride[1];
    slot += step;
  }
}

// The token's own slot is another block's to write: its row comes from where it is made.
template <class T, int kDim>
__device__ Pack<T, kPack<T>> SeenRow(uint4 words, bool own, const float* made) {
  const RowWork<T, kDim> work;
  if (own) words = *reinterpret_cast<const uint4*>(made + work.lane * 4);
  return Elements<T>(words);
}

// weights[row][head] = scale q.k of heads `first` on.
template <class T, int kDim, int kHeads>
__device__ void ScoreKeys(const StepArgs<T>& a, const Place& at, const Visible& visible, int first, float* memory,
                          const Layout& l, uint4 (&words)[kKeys]) {
  constexpr int kEach = kPack<T>;
  const RowWork<T, kDim> work;
  for (int base = 0; base < visible.rows; base += work.kRows * kKeys) {
    if (base > 0 || first > 0) LoadRows<T, kDim>(a, a.cache_k, at, base, words);
    Pack<T, kEach> key[kKeys];
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const int slot = (base + work.row + j * work.kRows) * a.cluster() + at.rank;
      key[j] = SeenRow<T, kDim>(words[j], slot == visible.own, memory + l.own_k);
    }
    float score[kHeads][kKeys] = {};
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float* const q = memory + l.q + (first + h < a.group ? first + h : first) * kDim + work.lane * 4;
#pragma unroll
      for (int four = 0; four < kEach / 4; ++four) {
        const Pack<float, 4> part = FourAt(q + four * (kDim / 2));
#pragma unroll
        for (int j = 0; j < kKeys; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            score[h][j] = fmaf(part.value[e], ToFloat(key[j].value[four * 4 + e]), score[h][j]);
          }
        }
      }
    }
#pragma unroll
    for (int mask = work.kLanes / 2; mask > 0; mask /= 2) {
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
#pragma unroll
        for (int j = 0; j < kKeys; ++j) score[h][j] += XH_SHUFFLE_XOR(score[h][j], mask);
      }
    }
    if (work.lane != 0) continue;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const int row = base + work.row + j * work.kRows;
      if (row >= visible.rows) break;
#pragma unroll
      for (int h = 0; h < kHeads; ++h) memory[l.weights + row * kHeads + h] = a.scale * score[h][j];
    }
  }
}

// A warp a head, from the last warp on: its weights over the block's rows, their maximum and their sum.
template <int kHeads>
__device__ void WeighKeys(const Visible& visible, float* memory, const Layout& l) {
  const int h = kWarps - 1 - static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  if (h >= kHeads) return;
  float* const weights = memory + l.weights + h;
  float most = -kInfinity, sum = 0.0f;
  for (int row = lane; row < visible.rows; row += kWarp) most = fmaxf(most, weights[row * kHeads]);
  most = WarpMax(most);
  const float shift = most == -kInfinity ? 0.0f : most;
  for (int row = lane; row < visible.rows; row += kWarp) {
    const float weight = expf(weights[row * kHeads] - shift);
    weights[row * kHeads] = weight;
    sum += weight;
  }
  sum = WarpSum(sum);
  if (lane != 0) return;
  memory[l.most + h] = shift;
  memory[l.sum + h] = sum;
}

// out[warp][head][column]: the warp's rows of values, weighted.
template <class T, int kDim, int kHeads>
__device__ void AddValues(const StepArgs<T>& a, const Place& at, const Visible& visible, int first, float* memory,
                          const Layout& l, uint4 (&words)[kKeys]) {
  constexpr int kEach = kPack<T>;
  const RowWork<T, kDim> work;
  float out[kHeads][kEach] = {};
  for (int base = 0; base < visible.rows; base += work.kRows * kKeys) {
    if (base > 0 || first > 0) LoadRows<T, kDim>(a, a.cache_v, at, base, words);
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const int row = base + work.row + j * work.kRows;
      if (row >= visible.rows) break;
      const bool own = row * a.cluster() + at.rank == visible.own;
      const auto value = SeenRow<T, kDim>(words[j], own, memory + l.own_v);
      const auto weight = *reinterpret_cast<const Pack<float, kHeads>*>(memory + l.weights + row * kHeads);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
#pragma unroll
        for (int e = 0; e < kEach; ++e) out[h][e] = fmaf(weight.value[h], ToFloat(value.value[e]), out[h][e]);
      }
    }
  }
#pragma unroll
  for (int mask = kWarp / 2; mask >= work.kLanes; mask /= 2) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) out[h][e] += XH_SHUFFLE_XOR(out[h][e], mask);
    }
  }
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane >= work.kLanes) return;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
#pragma unroll
    for (int four = 0; four < kEach / 4; ++four) {
      Pack<float, 4> part;
#pragma unroll
      for (int e = 0; e < 4; ++e) part.value[e] = out[h][four * 4 + e];
      FourAt(memory + l.out + (warp * kHeads + h) * kDim + work.lane * 4 + four * (kDim / 2)) = part;
    }
  }
}

// Adds up the warps' rows and sends each column to the block that finishes it.
template <class T, int kDim, int kHeads>
__device__ void Send(const StepArgs<T>& a, const Place& at, int first, float* memory, const Layout& l) {
  const int columns = kDim / a.slices;
  for (int e = static_cast<int>(threadIdx.x); e < kHeads * kDim / 4; e += kWorkers) {
    const int h = e / (kDim / 4), c = e % (kDim / 4) * 4;
    if (first + h >= a.group) return;
    Pack<float, 4> out = {};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const Pack<float, 4> part = FourAt(memory + l.out + (w * kHeads + h) * kDim + PlaceOf<T, kDim>(c));
#pragma unroll
      for (int f = 0; f < 4; ++f) out.value[f] += part.value[f];
    }
    const int to = (first + h) * a.slices + c / columns;
    float* const place = memory + l.inbox + at.rank * (columns + kInboxMore);
    StoreTo(to, place + c % columns, out);
    if (c % columns != 0) continue;
    const float sum = memory[l.sum + h];
    StoreTo(to, place + columns, Pack<float, 4>{{sum == 0.0f ? -kInfinity : memory[l.most + h], sum, 0.0f, 0.0f}});
  }
}

}  // namespace xh::gpu::hybrid_step

#endif  // XHYBRID_BACKENDS_CUDA_HYBRID_STEP_WINDOW_SM90_CUH_
