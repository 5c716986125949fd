// Products of a few rows, as decoding makes them: y[m,n] = sum over k of x[m,k] w[n,k], m up to 8 at a time. The time
// is that of reading w, so every byte of w is read once, in 16-byte loads of which a thread has four or eight under
// way.
//
// A block keeps x in shared memory as f32, in as few chunks of k as it must. Its warps work in teams; a team takes
// kRows rows of w at a time, each of its members a share of k: teams of one where there are rows enough to fill the
// device. Items go around the blocks, so that the multiprocessors read the same amount to within an item.
#include <algorithm>

#include "backends/cuda/matmul.h"

namespace xh::gpu {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / kWarp;
constexpr int kSharedBudget = 200 << 10;
// Columns of a warp's first rows: of all warps together, less than the cache holds.
constexpr int64_t kPrefetched = 4096;

struct ThinArgs {
  const void *x, *w, *bias;
  void* y;
  int64_t x_leading, w_leading, y_leading;
  int64_t n, k;
  int m, team, chunk;  // chunk: of k, as many as shared memory holds
  xh_dtype x_dtype, bias_dtype, y_dtype;
  bool x_in_fours;  // four neighbours of x move as one
};

// Shared memory holds packs of w's elements in fours: the first four of every pack, then the second. Threads that read
// neighbouring packs then read neighbouring 16 bytes.
template <class TW>
__device__ int PlaceOfFour(int four, int count) {
  if constexpr (kPack<TW> == 4) {
    return four;
  } else {
    return (four & 1) * (count / 8) + (four >> 1);
  }
}

__device__ inline float4 LoadFour(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ inline float4 LoadFour(const bf16* p) {
  const Pack<bf16, 4> four = *reinterpret_cast<const Pack<bf16, 4>*>(p);
  return make_float4(ToFloat(four.value[0]), ToFloat(four.value[1]), ToFloat(four.value[2]), ToFloat(four.value[3]));
}

// Columns [first, first + count) of x to shared memory; rows past m are zero.
template <class TW, int kM, class TX>
__device__ void StageRows(const ThinArgs& args, int64_t first, int count, float* shared) {
  constexpr int kSteps = kM < 4 ? 4 / kM : 1;  // with kM, the loads under way
  const TX* const x = static_cast<const TX*>(args.x) + first;
  const int fours = count / 4;
  for (int base = static_cast<int>(threadIdx.x); base < fours; base += kThreads * kSteps) {
    float4 batch[kSteps][kM];
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const int four = base + s * kThreads;
        batch[s][m] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (four >= fours || m >= args.m) continue;
        const TX* const from = x + m * args.x_leading + four * 4;
        batch[s][m] = args.x_in_fours
                          ? LoadFour(from)
                          : make_float4(ToFloat(from[0]), ToFloat(from[1]), ToFloat(from[2]), ToFloat(from[3]));
      }
    }
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int four = base + s * kThreads;
      if (four >= fours) break;
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        reinterpret_cast<float4*>(shared + m * args.chunk)[PlaceOfFour<TW>(four, count)] = batch[s][m];
      }
    }
  }
}

template <class TW>
__device__ Pack<TW, kPack<TW>> LoadOnce(const TW* p) {
#ifdef XH_HIP
  return *reinterpret_cast<const Pack<TW, kPack<TW>>*>(p);
#else
  union {
    uint4 bits;
    Pack<TW, kPack<TW>> pack;
  } u = {__ldcs(reinterpret_cast<const uint4*>(p))};
  return u.pack;
#endif
}

__device__ inline void Prefetch(const void* p) {
#ifndef XH_HIP
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#else
  (void)p;
#endif
}

// sum[r][m] += w[r] x[m] over the share of member `member` of `team` in `count` columns.
template <class TW, int kM, int kRows, int kSteps>
__device__ void AddColumns(const TW* rows, int64_t leading, int count, int chunk, int member, int team,
                           const float* shared, float (&sum)[kRows][kM]) {
  constexpr int kEach = kPack<TW>, kStep = kWarp * kEach;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int k0 = member * kSteps * kStep + lane * kEach; k0 < count; k0 += team * kSteps * kStep) {
    Pack<TW, kEach> w[kSteps][kRows];
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (k0 + s * kStep < count) w[s][r] = LoadOnce(rows + r * leading + (k0 + s * kStep));
      }
    }
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int k = k0 + s * kStep;
      if (k >= count) break;
#pragma unroll
      for (int half = 0; half < kEach / 4; ++half) {
        const int place = PlaceOfFour<TW>(k / 4 + half, count);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          const float4 x = reinterpret_cast<const float4*>(shared + m * chunk)[place];
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            const TW* const v = w[s][r].value + half * 4;
            sum[r][m] = fmaf(ToFloat(v[0]), x.x, sum[r][m]);
            sum[r][m] = fmaf(ToFloat(v[1]), x.y, sum[r][m]);
            sum[r][m] = fmaf(ToFloat(v[2]), x.z, sum[r][m]);
            sum[r][m] = fmaf(ToFloat(v[3]), x.w, sum[r][m]);
          }
        }
      }
    }
  }
}

__device__ inline float LoadAs(const void* p, int64_t i, xh_dtype dtype) {
  return dtype == XH_BF16 ? ToFloat(static_cast<const bf16*>(p)[i]) : static_cast<const float*>(p)[i];
}

__device__ inline void PutResult(const ThinArgs& args, int64_t row, int m, float value) {
  if (m >= args.m) return;
  if (args.bias_dtype != 0) value += LoadAs(args.bias, row, args.bias_dtype);
  const int64_t at = m * args.y_leading + row;
  if (args.y_dtype == XH_BF16) {
    static_cast<bf16*>(args.y)[at] = FromFloat<bf16>(value);
  } else {
    static_cast<float*>(args.y)[at] = value;
  }
}

// The first row of an item. The last one reaches back over rows of the one before: both write the same bits.
__device__ inline int64_t Row0(int64_t item, int rows, int64_t n) {
  return item * rows < n - rows ? item * rows : n - rows;
}

template <class TW, int kM, int kRows, int kSteps>
__global__ void __launch_bounds__(kThreads, 1) ThinKernel(ThinArgs args) {
  static_assert(kRows * kM <= 32, "a lane for each result of an item");
  constexpr int kStep = kWarp * kPack<TW>;
  extern __shared__ __align__(16) float shared[];
  __shared__ float shares[kWarps][kRows * kM];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int member = warp % args.team, team = warp / args.team, teams = kWarps / args.team;
  const int64_t items = (args.n + kRows - 1) / kRows, blocks = gridDim.x;
  const bool whole = args.chunk >= args.k;
  LetNextBegin();
  // Weights are constants: memory works on a warp's first item while what makes x still runs.
  const int64_t first_item = team * blocks + blockIdx.x;
  if (first_item < items) {
    const TW* const rows = static_cast<const TW*>(args.w) + Row0(first_item, kRows, args.n) * args.w_leading;
    constexpr int kSector = 32 / sizeof(TW);
    const int64_t most = args.k < kPrefetched ? args.k : kPrefetched;
    for (int64_t k = (member * kWarp + lane) * kSector; k < most; k += args.team * kWarp * kSector) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) Prefetch(rows + r * args.w_leading + k);
    }
  }
  WaitForEarlier();
  for (int64_t round = 0; round * teams * blocks + blockIdx.x < items; ++round) {
    const int64_t item = (round * teams + team) * blocks + blockIdx.x;
    const int64_t row0 = Row0(item, kRows, args.n);
    const TW* const rows = static_cast<const TW*>(args.w) + row0 * args.w_leading;
    float sum[kRows][kM] = {};
    for (int64_t first = 0; first < args.k; first += args.chunk) {
      const int count = static_cast<int>(args.k - first < args.chunk ? args.k - first : args.chunk);
      if (round == 0 || !whole) {
        __syncthreads();  // the chunk before is done with
        if (args.x_dtype == XH_BF16) {
          StageRows<TW, kM, bf16>(args, first, count, shared);
        } else {
          StageRows<TW, kM, float>(args, first, count, shared);
        }
        __syncthreads();
      }
      if (item < items) {
        AddColumns<TW, kM, kRows, kSteps>(rows + first, args.w_leading, count, args.chunk, member, args.team, shared,
                                          sum);
      }
    }
    float mine = 0.0f;  // lane r kM + m has the result of row r and m
#pragma unroll
    for (int i = 0; i < kRows * kM; ++i) {
      const float total = WarpSum(sum[i / kM][i % kM]);
      if (lane == i) mine = total;
    }
    if (args.team > 1) {  // uniform in the block
      if (lane < kRows * kM) shares[warp][lane] = mine;
      __syncthreads();
      if (member == 0 && lane < kRows * kM) {
        for (int w = 1; w < args.team; ++w) mine += shares[warp + w][lane];
      }
      __syncthreads();
    }
    if (member == 0 && item < items && lane < kRows * kM) PutResult(args, row0 + lane / kM, lane % kM, mine);
  }
}

// Rows of w that a team takes at a time: more make less traffic of x from shared memory.
constexpr int kMostRowsOfW = 4;
constexpr int RowsFor(int m) { return m > 2 ? kMostRowsOfW : 2; }
// Packs of a row under way in a thread: what registers allow.
constexpr int StepsFor(int m) { return m > 4 ? 1 : m > 2 ? 2 : 4; }

int PaddedRows(int64_t m) { return m <= 1 ? 1 : m <= 2 ? 2 : m <= 4 ? 4 : 8; }

// Calls body(kernel) for the dtype of w and the number of rows of x.
template <class Body>
void WithKernel(xh_dtype w, int padded, Body body) {
  WithType(w, [&](auto t) {
    using T = decltype(t);
    switch (padded) {
      case 1:
        return body(ThinKernel<T, 1, RowsFor(1), StepsFor(1)>);
      case 2:
        return body(ThinKernel<T, 2, RowsFor(2), StepsFor(2)>);
      case 4:
        return body(ThinKernel<T, 4, RowsFor(4), StepsFor(4)>);
      default:
        return body(ThinKernel<T, 8, RowsFor(8), StepsFor(8)>);
    }
  });
}

int64_t PackOf(xh_dtype dtype) { return dtype == XH_BF16 ? 8 : 4; }

}  // namespace

bool ThinGemm::Fits(const GemmShape& s) {
  constexpr int64_t kMostDepth = 1 << 24;
  const int64_t pack = PackOf(s.b);
  return !s.a_transposed && s.b_transposed && !s.accumulate && s.rows > 0 && s.columns >= kMostRowsOfW &&
         s.depth <= kMostDepth && s.depth % pack == 0 && s.b_leading % pack == 0;
}

Refusal ThinGemm::Open(const GemmShape& shape, const Facts& facts) {
  shape_ = shape;
  const int padded = PaddedRows(std::min(shape.rows, kRows)), rows = RowsFor(padded);
  const int64_t pack = PackOf(shape.b), step = kWarp * pack, batch = step * StepsFor(padded);
  // One limit for all plans: a kernel keeps the last it was given. 4 KiB are left for the shares of teams.
  const int budget = std::min(kSharedBudget, facts.shared_bytes - (4 << 10));
  const int64_t most = budget / (padded * 4) / pack * pack;
  chunk_ = static_cast<int>(shape.depth <= most ? shape.depth : most / batch * batch);
  shared_ = chunk_ * padded * 4;
  const int64_t items = (shape.columns + rows - 1) / rows, batches = (shape.depth + batch - 1) / batch;
  team_ = 1;
  while (team_ < kWarps && team_ < batches && items * team_ < int64_t{facts.multiprocessors} * kWarps * 3 / 4) {
    team_ *= 2;
  }
  blocks_ = static_cast<int>(std::min<int64_t>(facts.multiprocessors, items));
  Refusal refusal;
  for (int m : {padded, PaddedRows((shape.rows - 1) % kRows + 1)}) {
    WithKernel(shape.b, m, [&](auto kernel) { refusal = AllowShared(kernel, budget, facts); });
    if (refusal.code != 0) return refusal;
  }
  return refusal;
}

void ThinGemm::Run(const Launch& launch, const void* a, const void* b, const void* bias, void* d) const {
  const int64_t a_bytes = shape_.a == XH_BF16 ? 2 : 4, d_bytes = shape_.d == XH_BF16 ? 2 : 4;
  for (int64_t row = 0; row < shape_.rows; row += kRows) {
    ThinArgs args = {};
    args.x = static_cast<const char*>(a) + row * shape_.a_leading * a_bytes;
    args.w = b;
    args.bias = bias;
    args.y = static_cast<char*>(d) + row * shape_.d_leading * d_bytes;
    args.x_leading = shape_.a_leading;
    args.w_leading = shape_.b_leading;
    args.y_leading = shape_.d_leading;
    args.n = shape_.columns;
    args.k = shape_.depth;
    args.m = static_cast<int>(std::min(kRows, shape_.rows - row));
    args.team = team_;
    args.chunk = chunk_;
    args.x_dtype = shape_.a;
    args.bias_dtype = shape_.bias;
    args.y_dtype = shape_.d;
    args.x_in_fours = reinterpret_cast<uintptr_t>(args.x) % static_cast<uintptr_t>(4 * a_bytes) == 0 &&
                      (args.m == 1 || shape_.a_leading % 4 == 0);
    WithKernel(shape_.b, PaddedRows(args.m), [&](auto kernel) {
      LaunchEarly(launch, kernel, static_cast<unsigned>(blocks_), kThreads, shared_, args);
    });
  }
}

}  // namespace xh::gpu
