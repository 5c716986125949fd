// Products of a few rows, as decoding makes them: y[m,n] = sum over k of x[m,k] w[n,k], m up to 8 at a time. The time
// is that of reading w, so every byte of w is read once, in 16-byte loads of which a thread always has several under
// way: what it has used makes room for what comes next, across the ends of rows.
//
// A block keeps x in shared memory as f32, in as few chunks of k as it must. Its warps work in teams; a team takes
// kRows rows of w at a time (an item), each of its members a share of k: teams of one where there are rows enough to
// fill the device. Items go around the blocks, so that the multiprocessors read the same amount to within an item.
//
// A norm before the product costs no pass of its own: x is multiplied by the norm's weights on its way to shared
// memory, where the sum of its squares is made as well, and 1 / sqrt(mean + eps) scales the sums of an item. With a
// gate an item has as many rows of gate as of up.
#ifndef XHYBRID_BACKENDS_CUDA_MATMUL_THIN_CUH_
#define XHYBRID_BACKENDS_CUDA_MATMUL_THIN_CUH_

#include "backends/cuda/gpu.h"

namespace xh::gpu::thin {

constexpr int kThreads = 512, kWarps = kThreads / kWarp;

struct Args {
  const void *x, *w, *bias, *norm, *residual;
  void* y;
  int64_t x_leading, w_leading, y_leading, residual_leading;
  int64_t jump;           // elements of w between the halves of an item's rows
  int items, n;           // n: columns of y
  int m, k, team, chunk;  // chunk: of k, as many as shared memory holds
  float eps;
  xh_dtype x_dtype, bias_dtype, norm_dtype, residual_dtype, y_dtype;
  bool x_in_fours;  // four neighbours of x move as one
  bool gated, constants;
};

// ---- x to shared memory ----

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

// Elements as they come: floats are made of them where they are used, as a register holds two bf16 until then.
__device__ inline float4 TwoAndTwo(unsigned a, unsigned b) {
  return make_float4(__uint_as_float(a << 16), __uint_as_float(a & 0xffff0000u), __uint_as_float(b << 16),
                     __uint_as_float(b & 0xffff0000u));
}
__device__ inline float4 AsFloats(float4 four) { return four; }
__device__ inline float4 AsFloats(uint2 four) { return TwoAndTwo(four.x, four.y); }
// kAsOne: four neighbours lie where they can be loaded as one.
template <bool kAsOne>
__device__ float4 LoadFour(const float* p) {
  if constexpr (kAsOne) return *reinterpret_cast<const float4*>(p);
  return make_float4(p[0], p[1], p[2], p[3]);
}
template <bool kAsOne>
__device__ uint2 LoadFour(const bf16* p) {
  if constexpr (kAsOne) return *reinterpret_cast<const uint2*>(p);
  const uint16_t* const bits = reinterpret_cast<const uint16_t*>(p);
  return make_uint2(bits[0] | unsigned{bits[1]} << 16, bits[2] | unsigned{bits[3]} << 16);
}
__device__ inline float4 operator*(float4 a, float4 b) {
  return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}
__device__ inline float Squares(float4 a) { return a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w; }

// Columns [first, first + count) of the norm's weights to where row 0 of x will lie: each thread puts, and will find,
// its own.
template <class TW>
__device__ void StageNorm(const Args& args, int first, int count, float* shared) {
  for (int four = static_cast<int>(threadIdx.x); four < count / 4; four += kThreads) {
    float4 norm;
    if (args.norm_dtype == XH_BF16) {
      norm = AsFloats(LoadFour<false>(static_cast<const bf16*>(args.norm) + first + four * 4));
    } else {
      norm = AsFloats(LoadFour<false>(static_cast<const float*>(args.norm) + first + four * 4));
    }
    reinterpret_cast<float4*>(shared)[PlaceOfFour<TW>(four, count)] = norm;
  }
}

// Columns [first, first + count) of x, times the norm's weights if there is one, to shared memory; rows past m are
// zero. Adds the squares of what the thread has seen of x.
template <class TW, int kM, class TX, bool kAsOne>
__device__ void StageRows(const Args& args, int first, int count, float* shared, float (&squares)[kM]) {
  constexpr int kSteps = kM < 4 ? 4 / kM : 1;  // with kM, the loads under way
  const TX* const x = static_cast<const TX*>(args.x) + first;
  const int fours = count / 4;
  for (int base = static_cast<int>(threadIdx.x); base < fours; base += kThreads * kSteps) {
    decltype(LoadFour<kAsOne>(x)) batch[kSteps][kM] = {};
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int four = base + s * kThreads;
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        if (four < fours && m < args.m) batch[s][m] = LoadFour<kAsOne>(x + m * args.x_leading + four * 4);
      }
    }
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int four = base + s * kThreads;
      if (four >= fours) break;
      float4* const to = reinterpret_cast<float4*>(shared) + PlaceOfFour<TW>(four, count);
      const float4 norm = args.norm_dtype != 0 ? *to : make_float4(1.0f, 1.0f, 1.0f, 1.0f);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const float4 value = AsFloats(batch[s][m]);
        squares[m] += Squares(value);
        to[m * args.chunk / 4] = value * norm;
      }
    }
  }
}
template <class TW, int kM>
__device__ void StageRows(const Args& args, int first, int count, float* shared, float (&squares)[kM]) {
  if (args.x_dtype == XH_BF16) {
    args.x_in_fours ? StageRows<TW, kM, bf16, true>(args, first, count, shared, squares)
                    : StageRows<TW, kM, bf16, false>(args, first, count, shared, squares);
  } else {
    args.x_in_fours ? StageRows<TW, kM, float, true>(args, first, count, shared, squares)
                    : StageRows<TW, kM, float, false>(args, first, count, shared, squares);
  }
}

// ---- w through registers ----

// 16 bytes of w that nobody reads again.
__device__ inline uint4 LoadOnce(const void* p) {
#ifdef XH_HIP
  return *static_cast<const uint4*>(p);
#else
  return __ldcs(static_cast<const uint4*>(p));
#endif
}
// Elements [4 half, 4 half + 4) of what was loaded.
template <class TW>
__device__ float4 FourOf(const uint4& bits, int half) {
  if constexpr (kPack<TW> == 8) {
    return half == 0 ? TwoAndTwo(bits.x, bits.y) : TwoAndTwo(bits.z, bits.w);
  } else {
    return make_float4(__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
                       __uint_as_float(bits.w));
  }
}

// Fetches bytes, a multiple of 16, to the second-level cache, where one thread can ask for all of them.
__device__ inline void Prefetch(const void* p, int bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes) : "memory");
#endif
}

// Packs of w on their way: a thread's next kSteps steps along k of all rows of an item.
template <class TW, int kM, int kRows, int kSteps>
struct Ring {
  static constexpr int kEach = kPack<TW>, kStep = kWarp * kEach, kHalf = kRows / 2;
  static_assert(kRows % 2 == 0, "half of the rows may be gates");
  uint4 w[kSteps][kRows];

  __device__ void Load(int s, const TW* from, int64_t leading, int64_t jump) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) w[s][r] = LoadOnce(from + (r % kHalf) * leading + (r / kHalf) * jump);
  }
  // sum[r][m] += w[r] x[m]; k: a column of shared memory, which holds `count` of them.
  __device__ void Multiply(int s, int k, int count, int chunk, const float* shared, float (&sum)[kRows][kM]) const {
#pragma unroll
    for (int half = 0; half < kEach / 4; ++half) {
      const int place = PlaceOfFour<TW>(k / 4 + half, count);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const float4 x = reinterpret_cast<const float4*>(shared + m * chunk)[place];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float4 v = FourOf<TW>(w[s][r], half);
          sum[r][m] = fmaf(v.x, x.x, sum[r][m]);
          sum[r][m] = fmaf(v.y, x.y, sum[r][m]);
          sum[r][m] = fmaf(v.z, x.z, sum[r][m]);
          sum[r][m] = fmaf(v.w, x.w, sum[r][m]);
        }
      }
    }
  }
};

// ---- results ----

__device__ inline float LoadAs(const void* p, int64_t i, xh_dtype dtype) {
  return dtype == XH_BF16 ? ToFloat(static_cast<const bf16*>(p)[i]) : static_cast<const float*>(p)[i];
}

// A lane's result of an item, y[m,column]. The residual is fetched before the sums are known.
struct Result {
  int column, m;  // column -1: nothing to put
  float residual;

  // The last item reaches back over columns of the one before, which are left to that: y may be the residual.
  __device__ void Begin(const Args& args, int column0, int first, int kept, int rows_of_x) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    m = lane % rows_of_x;
    column = column0 + lane / rows_of_x;
    if (lane >= kept * rows_of_x || m >= args.m || column < first) column = -1;
    residual = 0.0f;
    if (column >= 0 && args.residual_dtype != 0) {
      residual = LoadAs(args.residual, m * args.residual_leading + column, args.residual_dtype);
    }
  }

  __device__ void Put(const Args& args, float sum, float up) const {
    if (column < 0) return;
    if (args.bias_dtype != 0) sum += LoadAs(args.bias, column, args.bias_dtype);
    if (args.gated) {
      if (args.bias_dtype != 0) up += LoadAs(args.bias, int64_t{column} + args.n, args.bias_dtype);
      sum = sum / (1.0f + __expf(-sum)) * up;
    }
    sum += residual;
    const int64_t at = m * args.y_leading + column;
    if (args.y_dtype == XH_BF16) {
      static_cast<bf16*>(args.y)[at] = FromFloat<bf16>(sum);
    } else {
      static_cast<float*>(args.y)[at] = sum;
    }
  }
};

// ---- the kernel ----

template <class TW, int kM, int kRows, int kSteps>
__global__ void __launch_bounds__(kThreads, 1) Kernel(const Args args) {
  using Packs = Ring<TW, kM, kRows, kSteps>;
  constexpr int kStep = Packs::kStep, kHalf = Packs::kHalf, kResults = kRows * kM;
  static_assert(kResults <= kWarp, "a lane for each sum of an item");
  extern __shared__ __align__(16) float shared[];
  __shared__ float shares[kWarps][kResults], square_sums[kWarps][kM];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int member = warp % args.team, team = warp / args.team, teams = kWarps / args.team;
  const int kept = args.gated ? kHalf : kRows;  // columns of y that an item makes
  const int batch = args.team * kSteps * kStep, k_first = member * kSteps * kStep + lane * Packs::kEach;
  const int blocks = static_cast<int>(gridDim.x);
  const bool whole = args.chunk >= args.k;
  const auto column0 = [&](int item) { return item * kept < args.n - kept ? item * kept : args.n - kept; };
  const auto rows_of = [&](int item) {
    return static_cast<const TW*>(args.w) + int64_t{column0(item)} * args.w_leading;
  };

  Packs ring;
  int item = team * blocks + static_cast<int>(blockIdx.x);
  const TW* rows = rows_of(item < args.items ? item : 0);
  const auto fill = [&] {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int k = k_first + s * kStep;
      if (item < args.items && k < args.k) ring.Load(s, rows + k, args.w_leading, args.jump);
    }
  };
  // Memory works on a warp's first packs while what makes x still runs: they go to registers where nothing that may
  // still run writes them. More of the item is not fetched ahead: that was measured to be slower.
  if (args.constants) {
    fill();
  } else if (item < args.items && member == 0 && lane < kRows) {
    Prefetch(rows + (lane % kHalf) * args.w_leading + (lane / kHalf) * args.jump,
             (args.k < batch ? args.k : batch) * static_cast<int>(sizeof(TW)));
  }
  if (args.norm_dtype != 0 && whole) StageNorm<TW>(args, 0, args.k, shared);
  WaitForEarlier();
  LetNextBegin();
  if (!args.constants) fill();

  float squares[kM] = {}, scale = 1.0f;
  for (bool first_round = true; item - team * blocks < args.items; first_round = false) {
    const bool mine = item < args.items;
    const int following = item + teams * blocks;
    const TW* const following_rows = rows_of(following < args.items ? following : 0);
    float sum[kRows][kM] = {};
    Result result;
    result.Begin(args, column0(mine ? item : 0), item * kept, mine && member == 0 ? kept : 0, kM);
    for (int first = 0, k = k_first, j = 0; j < args.k; j += batch) {
      const int count = args.k - first < args.chunk ? args.k - first : args.chunk;
      if (j == first && (first_round || !whole)) {
        __syncthreads();  // the chunk before is done with
        if (args.norm_dtype != 0 && !whole) StageNorm<TW>(args, first, count, shared);
        StageRows<TW, kM>(args, first, count, shared, squares);
        if (first_round && args.norm_dtype != 0) {
#pragma unroll
          for (int m = 0; m < kM; ++m) {
            const float total = WarpSum(squares[m]);
            if (lane == 0) square_sums[warp][m] = total;
          }
        }
        __syncthreads();
        if (first_round && args.norm_dtype != 0) {
          float total = 0.0f;
#pragma unroll
          for (int w = 0; w < kWarps; ++w) total += square_sums[w][lane % kM];
          scale = rsqrtf(total / static_cast<float>(args.k) + args.eps);
        }
      }
      const bool last = j + batch >= args.k;
      const TW* const next_rows = last ? following_rows : rows;
      const int next = last ? k_first : k + batch, limit = last && following >= args.items ? 0 : args.k;
      if (mine) {
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          if (k + s * kStep < args.k) ring.Multiply(s, k + s * kStep - first, count, args.chunk, shared, sum);
          if (next + s * kStep < limit) ring.Load(s, next_rows + next + s * kStep, args.w_leading, args.jump);
        }
      }
      k = next;
      if (j + batch - first >= args.chunk) first = j + batch;
    }
    // Lane r kM + m has the sums of row r and, where rows are gated, of the up row that goes with it.
    float sums = 0.0f, up = 0.0f;
#pragma unroll
    for (int i = 0; i < kResults; ++i) {
      const float total = WarpSum(sum[i / kM][i % kM]);
      if (lane == i) sums = total;
      if (lane + kHalf * kM == i) up = total;
    }
    if (args.team > 1) {  // uniform in the block
      if (lane < kResults) shares[warp][lane] = sums;
      __syncthreads();
      if (result.column >= 0) {
        for (int w = 1; w < args.team; ++w) {
          sums += shares[warp + w][lane];
          if (args.gated) up += shares[warp + w][lane + kHalf * kM];
        }
      }
      __syncthreads();
    }
    result.Put(args, sums * scale, up * scale);
    item = following;
    rows = following_rows;
  }
}

}  // namespace xh::gpu::thin

#endif  // XHYBRID_BACKENDS_CUDA_MATMUL_THIN_CUH_
