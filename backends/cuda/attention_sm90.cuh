// What the Hopper kernels of ATTENTION share: the work item, the visible set inside a tile, plans.
#ifndef XHYBRID_BACKENDS_CUDA_ATTENTION_SM90_CUH_
#define XHYBRID_BACKENDS_CUDA_ATTENTION_SM90_CUH_

#include <algorithm>
#include <initializer_list>

#include "backends/cuda/attention.h"
#include "backends/cuda/sm90.cuh"

namespace xh::gpu::attention {

inline constexpr int kRows = 64;      // query rows of a warpgroup
inline constexpr int kSinkRows = 16;  // rows of the tile of sinks: the most sinks that there can be
inline constexpr int kWorkers = 2;    // warpgroups that compute; another one feeds them
inline constexpr int kBlockThreads = (kWorkers + 1) * sm90::kWarpgroup;
inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

// Sizes as a kernel sees them. All heads have one window; without a cache one of at least T is unlimited.
struct Sizes {
  int batch, heads, kv_heads, group, tokens;
  int window;  // 0: unlimited
  int sinks;   // 0 where the window is unlimited
  float scale;
  // With a cache: the tokens before the call, by sequence. Rows of keys are then those of attention_stage.h, or those
  // of the cache itself where the window is unlimited.
  const int32_t* position;
  int64_t position_stride, most_position;

  static Sizes Of(const Shape& s) {
    Sizes sizes = {};
    sizes.batch = static_cast<int>(s.batch);
    sizes.heads = static_cast<int>(s.heads);
    sizes.kv_heads = static_cast<int>(s.kv_heads);
    sizes.group = static_cast<int>(s.group());
    sizes.tokens = static_cast<int>(s.tokens);
    sizes.window = !s.cached && s.windows.at[0] >= s.tokens ? 0 : s.windows.at[0];
    sizes.sinks = sizes.window == 0 ? 0 : static_cast<int>(s.sinks);
    sizes.scale = s.scale;
    sizes.most_position = s.MostPosition();
    return sizes;
  }
  // The first row of keys in the window of the query that is at row t of them itself.
  __host__ __device__ int Oldest(int t) const { return window == 0 || t < window ? 0 : t - window + 1; }
};

// Query blocks, dealt out to the blocks of a grid that stays: item i, then i + gridDim.x. The two warpgroups of a block
// take the same 64 tokens of two heads that share keys, where groups are even, else 128 tokens of one head.
struct Items {
  int count;
  int blocks;    // of a stream: one head, or two
  int streams;   // of all sequences
  int together;  // streams whose keys and values stay in the cache of the device at once; their blocks come together
  bool paired;

  static Items Of(const Sizes& s, int64_t dim) {
    constexpr int64_t kCacheBytes = 24 << 20;
    Items items = {};
    items.paired = s.group % 2 == 0;
    const int tokens = items.paired ? kRows : 2 * kRows;
    items.blocks = (s.tokens + tokens - 1) / tokens;
    const int of_kv_head = items.paired ? s.group / 2 : s.group;
    items.streams = s.batch * s.kv_heads * of_kv_head;
    items.count = items.streams * items.blocks;
    // Blocks of a window are all alike, and neighbours share keys. Without one the late blocks, which see most keys,
    // go first.
    const int64_t kv_heads = std::max<int64_t>(1, kCacheBytes / (s.tokens * dim * 4));
    items.together = s.window > 0 ? 1 : static_cast<int>(std::min<int64_t>(items.streams, kv_heads * of_kv_head));
    return items;
  }
};

// One item: what its warpgroups compute and which keys they visit. Columns of tiles are rows of keys from `first` on;
// the sinks before it are a tile of their own.
struct Item {
  int b, kv_head;
  int head, head_step;  // of the first warpgroup; from it to the second
  int t, t_step;        // the same of its first token
  int first, tiles, sinks;
  int shift;   // token t has row t + shift among the keys
  int offset;  // the row of position 0

  __device__ Item(const Sizes& s, const Items& items, int index, int keys) {
    const int section = index / (items.together * items.blocks), in_section = index % (items.together * items.blocks);
    const int left = items.streams - section * items.together;
    const int streams = left < items.together ? left : items.together;
    const int block = items.blocks - 1 - in_section / streams;
    const int stream = section * items.together + in_section % streams;
    const int heads = items.paired ? 2 : 1;
    b = stream * heads / s.heads;
    head = stream * heads % s.heads;
    kv_head = head / s.group;
    head_step = items.paired ? 1 : 0;
    t_step = items.paired ? 0 : kRows;
    t = block * (items.paired ? kRows : 2 * kRows);
    const int rows = items.paired ? kRows : 2 * kRows;
    const int before = s.position == nullptr ? 0 : s.position[b * s.position_stride];
    shift = s.position != nullptr && s.window > 0 ? s.window : before;
    offset = shift - before;
    const int end = (t + rows < s.tokens ? t + rows : s.tokens) + shift, oldest = s.Oldest(t + shift);
    first = oldest > offset ? oldest : offset;
    tiles = (end - first + keys - 1) / keys;
    sinks = s.sinks < first - offset ? s.sinks : first - offset;
  }
};

#ifdef __CUDACC__

template <int kRegisters>
__device__ inline void GiveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
inline constexpr int kFeederRegisters = 24, kWorkerRegisters = 240;  // 168 a thread are launched

// Arrives at a named barrier without waiting.
__device__ inline void NamedArrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float Log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// One arrival a warp, when all its lanes are done.
__device__ inline void WarpArrive(uint64_t* barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) sm90::BarrierArrive(barrier);
}
inline constexpr int kWorkerWarps = kWorkers * sm90::kWarpgroup / 32;

// A ring of stages: the n-th use is of stage n % kStages, in phase n / kStages.
template <int kStages>
struct Ring {
  static __device__ int Stage(uint32_t n) { return static_cast<int>(n % kStages); }
  static __device__ uint32_t Parity(uint32_t n) { return n / kStages & 1; }
};

// Descriptors of the steps of a product, from that of the first by a sum: the field of the address never overflows.
// What is computed from `Opaque` is computed where it stands: places that a loop would keep, one for every step or row,
// cost registers.
__device__ inline uint64_t Opaque(uint64_t descriptor) {
  asm volatile("" : "+l"(descriptor));
  return descriptor;
}
__device__ inline int Opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}
__device__ constexpr uint64_t RowStep(int block_bytes, int k) {
  return static_cast<uint64_t>((k >> 6) * block_bytes + (k & 63) * 2) >> 4;
}
__device__ constexpr uint64_t ColumnStep(int k) { return static_cast<uint64_t>(k) * 128 >> 4; }

// Rows [64][kDim] of a tile as A operands, this warpgroup's.
template <int kDim>
__device__ inline void LoadRows(const char* tile, uint32_t (&a)[kDim / 16][4]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x % sm90::kWarpgroup / 32;
  const int row = 16 * warp + lane % 16, column = lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    const uint32_t address =
        sm90::SharedAddress(tile) + k / 4 * kRows * 128 + sm90::TileOffset(row, k % 4 * 16 + column);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[k][0]), "=r"(a[k][1]), "=r"(a[k][2]), "=r"(a[k][3])
                 : "r"(address)
                 : "memory");
  }
}

// Accumulators D[64,kDim] of a warpgroup, rows times `by`, to a tile [64][kDim] of bf16.
template <int kDim>
__device__ inline void StoreTile(const float (&d)[kDim / 2], const float (&by)[2], char* tile) {
  const int thread = Opaque(static_cast<int>(threadIdx.x)), lane = thread % 32;
  const int row = thread % sm90::kWarpgroup / 32 * 16 + lane / 4;
#pragma unroll
  for (int i = 0; i < kDim / 8; ++i) {
    char* const block = tile + i / 8 * kRows * 128;
    const int column = i % 8 * 8 + lane % 4 * 2;
    *reinterpret_cast<uint32_t*>(block + sm90::TileOffset(row, column)) =
        sm90::PackPair(d[4 * i] * by[0], d[4 * i + 1] * by[0]);
    *reinterpret_cast<uint32_t*>(block + sm90::TileOffset(row + 8, column)) =
        sm90::PackPair(d[4 * i + 2] * by[1], d[4 * i + 3] * by[1]);
  }
}

#endif  // __CUDACC__

// Whether the copy engine takes the pointers of these arguments.
inline bool Aligned(const Launch& launch, std::initializer_list<int> slots) {
  return std::all_of(slots.begin(), slots.end(),
                     [&](int slot) { return reinterpret_cast<uintptr_t>(launch.args[slot].data) % 16 == 0; });
}

// The plans, by size; each runs `plain` where a run's pointers are not for the copy engine. NULL: it does not apply.
std::unique_ptr<Plan> MakeForwardSm90(const Shape& shape, const Request& request);
std::unique_ptr<Plan> MakeBackwardSm90(const Shape& shape, const Request& request);

}  // namespace xh::gpu::attention

#endif  // XHYBRID_BACKENDS_CUDA_ATTENTION_SM90_CUH_
