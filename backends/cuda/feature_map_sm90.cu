// FEATURE_MAP in bf16 with d and n of 64 or 128, by wgmma and the bulk copy engine. Memory sets the time: every tile of
// 64 tokens is fetched while the tiles before it are computed, and written back while those after it are.
#include "backends/cuda/feature_map.h"

#ifdef XH_SM90

#include <algorithm>

#include "backends/cuda/sm90.cuh"

namespace xh::gpu {
namespace feature_map {
namespace {

using namespace sm90;

constexpr int kTokens = 64;                 // of a tile: what a warpgroup multiplies at a time
constexpr int kBlockBytes = kTokens * 128;  // of a block of 64 columns of a tile
constexpr int kMostShared = 227 << 10;
constexpr float kLog2E = 1.4426950408889634f;

// What kernels know of the sizes.
struct Problem {
  int heads, inputs, t;
  int sequence_tiles;  // of a sequence
  int tiles;           // of all sequences
};

__device__ inline char* AlignedShared(char* raw) { return raw + (1024 - (SharedAddress(raw) & 1023) & 1023); }

__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// A pair of neighbours (2 i, 2 i + 1) of a_h as bf16, and its place in the tile of kN / 64 blocks [kD][64].
template <int kD, int kN>
__device__ void PlaceMapPair(const Map& a, int64_t h, int i, char* tile) {
  const int row = i / (kN / 2), column = i % (kN / 2) * 2;
  *reinterpret_cast<uint32_t*>(tile + column / 64 * (kD * 128) + TileOffset(row, column % 64)) =
      PackPair(a.Get(h, row, column), a.Get(h, row, column + 1));
}

// Loads a tile of kColumns columns; one thread.
template <int kColumns>
__device__ void LoadTile(char* tile, const CUtensorMap& map, int t, int h, int b, uint64_t* barrier) {
#pragma unroll
  for (int c = 0; c < kColumns / 64; ++c) LoadBox(tile + c * kBlockBytes, map, c * 64, t, h, b, barrier);
}

// ---- forward ----

template <int kD, int kN, bool kHedgehog>
struct ForwardLayout {
  static constexpr int kGroups = 3, kThreads = kGroups * kWarpgroup, kStages = 2;
  static constexpr int kMap = kD * kN * 2, kInput = kTokens * kD * 2, kOutput = kTokens * kN * 2 * (kHedgehog ? 2 : 1);
  static constexpr int kGroup = kStages * kInput + kOutput, kBarriers = kMap + kGroups * kGroup;
  static constexpr int kBytes = kBarriers + kGroups * kStages * 8 + 1024;  // 1024: to align
  static_assert(kBytes <= kMostShared);
};

// The softmax of sign * scores to a tile in shared memory. A row lies in the four threads of a quad.
template <int kN>
__device__ void PutSoftmax(const float (&scores)[kN / 2], float sign, int thread, char* tile) {
  const int row = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {  // rows `row` and 8 more
    float most = -kInfinity, sum = 0.0f, e[kN / 4];
#pragma unroll
    for (int i = 0; i < kN / 4; ++i) most = fmaxf(most, sign * scores[i / 2 * 4 + half * 2 + i % 2]);
    most = fmaxf(most, XH_SHUFFLE_XOR(most, 1));
    most = fmaxf(most, XH_SHUFFLE_XOR(most, 2));
    const float base = most * kLog2E;
#pragma unroll
    for (int i = 0; i < kN / 4; ++i) {
      e[i] = Exp2(fmaf(scores[i / 2 * 4 + half * 2 + i % 2], sign * kLog2E, -base));
      sum += e[i];
    }
    sum += XH_SHUFFLE_XOR(sum, 1);
    sum += XH_SHUFFLE_XOR(sum, 2);
    const float scale = 1.0f / sum;
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) {
      *reinterpret_cast<uint32_t*>(tile + j / 8 * kBlockBytes + TileOffset(row + half * 8, j % 8 * 8 + column)) =
          PackPair(e[j * 2] * scale, e[j * 2 + 1] * scale);
    }
  }
}

// A block has one head and a range of tiles; its warpgroups take turns, each with its own buffers.
template <int kD, int kN, bool kHedgehog>
__global__ void __launch_bounds__(ForwardLayout<kD, kN, kHedgehog>::kThreads, 1)
    ForwardKernel(const __grid_constant__ CUtensorMap u, const __grid_constant__ CUtensorMap phi, Map a, Problem p) {
  using L = ForwardLayout<kD, kN, kHedgehog>;
  extern __shared__ char raw[];
  char* const memory = AlignedShared(raw);
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup, thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  char* const input = memory + L::kMap + group * L::kGroup;
  char* const output = input + L::kStages * L::kInput;
  uint64_t* const full = reinterpret_cast<uint64_t*>(memory + L::kBarriers) + group * L::kStages;
  // Blocks next to each other run at the same time: heads that share an input find it in the cache.
  const int h = static_cast<int>(blockIdx.x) % p.heads, input_head = h / (p.heads / p.inputs);
  const int64_t part = blockIdx.x / p.heads, parts = gridDim.x / p.heads;
  const int last = static_cast<int>((part + 1) * p.tiles / parts);
  int tile = static_cast<int>(part * p.tiles / parts) + group;
  const auto load = [&](int which, int stage) {
    BarrierExpect(full + stage, L::kInput);
    LoadTile<kD>(input + stage * L::kInput, u, which % p.sequence_tiles * kTokens, input_head, which / p.sequence_tiles,
                 full + stage);
  };
  if (thread == 0) {
    for (int stage = 0; stage < L::kStages; ++stage) BarrierInit(full + stage, 1);
    BarrierInitFence();
    for (int stage = 0; stage < L::kStages; ++stage) {
      if (tile + stage * L::kGroups < last) load(tile + stage * L::kGroups, stage);
    }
  }
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kD * kN / 2; i += L::kThreads) PlaceMapPair<kD, kN>(a, h, i, memory);
  FenceForAsync();
  __syncthreads();
  for (int step = 0; tile < last; ++step, tile += L::kGroups) {
    const int stage = step % L::kStages;
    BarrierWait(full + stage, static_cast<uint32_t>(step / L::kStages % 2));
    float scores[kN / 2] = {};
    ProductFence();
#pragma unroll
    for (int k = 0; k < kD; k += 16) {
      Product<kN>::template Shared<0, 1>(scores, RowOperand(input + stage * L::kInput, kBlockBytes, 0, k),
                                         ColumnOperand(memory, kD * 128, k, 0), k > 0 ? 1 : 0);
    }
    ProductCommit();
    ProductWait<0>();
    Hold(scores);
    if (thread == 0) StoreWaitRead<0>();
    NamedBarrier(1 + group, kWarpgroup);  // the input has been read, the output is free
    if (thread == 0 && tile + L::kStages * L::kGroups < last) load(tile + L::kStages * L::kGroups, stage);
    PutSoftmax<kN>(scores, 1.0f, thread, output);
    if constexpr (kHedgehog) PutSoftmax<kN>(scores, -1.0f, thread, output + kN / 64 * kBlockBytes);
    FenceForAsync();
    NamedBarrier(1 + group, kWarpgroup);
    if (thread == 0) {
      const int t = tile % p.sequence_tiles * kTokens, b = tile / p.sequence_tiles;
      for (int c = 0; c < L::kOutput / kBlockBytes; ++c) StoreBox(phi, output + c * kBlockBytes, c * 64, t, h, b);
      StoreCommit();
    }
  }
  if (thread == 0) StoreWait();
}

// ---- backward ----
//
// ds, the gradient of the scores, is made of phi and dphi in place of phi; then du = ds a^T and da = u^T ds. A step is
// a tile of tokens of one head. Where several heads share an input its gradient is summed in registers over steps, and
// da has a kernel of its own; else one kernel makes both.

template <int kD, int kN, bool kHedgehog, bool kDu, bool kDa>
struct BackwardLayout {
  static constexpr int kGroups = 2, kThreads = kGroups * kWarpgroup;
  static constexpr int kMap = kDu ? kD * kN * 2 : 0, kMaps = kDa ? 1 : 2;
  static constexpr int kFeatures = kTokens * kN * 2 * (kHedgehog ? 2 : 1), kInput = kDa ? kTokens * kD * 2 : 0;
  static constexpr int kStage = 2 * kFeatures + kInput;  // phi, dphi, u
  static constexpr int kRest = 1024 + 8 * (kMaps + kGroups * 2);
  static constexpr int kStages = kMaps * kMap + kGroups * 2 * kStage + kRest <= kMostShared ? 2 : 1;
  static constexpr int kBarriers = kMaps * kMap + kGroups * kStages * kStage, kBytes = kBarriers + kRest;
  static_assert(kBytes <= kMostShared);
};

// Every map as the tile that kernels use.
template <int kD, int kN>
__global__ void __launch_bounds__(256) PrepareMapsKernel(Map a, char* tiles) {
  const int i = static_cast<int>(blockIdx.x) * 256 + static_cast<int>(threadIdx.x);
  PlaceMapPair<kD, kN>(a, blockIdx.y, i, tiles + static_cast<int64_t>(blockIdx.y) * (kD * kN * 2));
}

__device__ inline void Unpack(const uint4& bits, float (&x)[8]) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = UnpackPair(words[i]);
    x[2 * i] = pair.x;
    x[2 * i + 1] = pair.y;
  }
}

// scores += sign * phi (dphi - <phi, dphi>) of eight features; the kLanes threads next to each other have a row.
template <int kLanes>
__device__ void AddScores(const char* phi, const char* dphi, float sign, float (&scores)[8]) {
  float p[8], g[8], dot = 0.0f;
  Unpack(*reinterpret_cast<const uint4*>(phi), p);
  Unpack(*reinterpret_cast<const uint4*>(dphi), g);
#pragma unroll
  for (int i = 0; i < 8; ++i) dot = fmaf(p[i], g[i], dot);
#pragma unroll
  for (int mask = kLanes / 2; mask > 0; mask /= 2) dot += XH_SHUFFLE_XOR(dot, mask);
#pragma unroll
  for (int i = 0; i < 8; ++i) scores[i] = fmaf(sign * p[i], g[i] - dot, scores[i]);
}

// The tile of phi becomes that of ds.
template <int kN, bool kHedgehog>
__device__ void ScoreGradients(char* phi, const char* dphi, int thread) {
  constexpr int kLanes = kN / 8, kRows = kWarpgroup / kLanes, kHalf = kN / 64 * kBlockBytes;
  const int piece = thread % kLanes;
#pragma unroll 2
  for (int row = thread / kLanes; row < kTokens; row += kRows) {
    const uint32_t at = piece / 8 * kBlockBytes + TileOffset(row, piece % 8 * 8);
    float scores[8] = {};
    AddScores<kLanes>(phi + at, dphi + at, 1.0f, scores);
    if constexpr (kHedgehog) AddScores<kLanes>(phi + kHalf + at, dphi + kHalf + at, -1.0f, scores);
    *reinterpret_cast<uint4*>(phi + at) = make_uint4(PackPair(scores[0], scores[1]), PackPair(scores[2], scores[3]),
                                                     PackPair(scores[4], scores[5]), PackPair(scores[6], scores[7]));
  }
}

struct BackwardArgs {
  const char* maps;  // as tiles
  View<bf16> du;
  bool accumulate_du;
  float* da_parts;  // [parts * kGroups][heads][kD][kN]
};

// A tile of du to global memory; rows past the end of the sequence are not written.
template <int kD>
__device__ void PutInputGradient(const BackwardArgs& args, const float (&du)[kD / 2], int b, int input, int t0,
                                 int t_end, int thread) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int t = t0 + thread / 32 * 16 + thread % 32 / 4 + half * 8;
    if (t >= t_end) continue;
    uint32_t* const row = reinterpret_cast<uint32_t*>(args.du.At(b, input, t)) + thread % 4;
#pragma unroll
    for (int j = 0; j < kD / 8; ++j) {
      float2 value = make_float2(du[j * 4 + half * 2], du[j * 4 + half * 2 + 1]);
      if (args.accumulate_du) {
        const float2 before = UnpackPair(row[j * 4]);
        value = make_float2(before.x + value.x, before.y + value.y);
      }
      row[j * 4] = PackPair(value.x, value.y);
    }
  }
}

template <int kD, int kN>
__device__ void PutMapGradient(float* part, const float (&da)[kD / 64][kN / 2], int thread) {
#pragma unroll
  for (int m = 0; m < kD / 64; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = m * 64 + thread / 32 * 16 + thread % 32 / 4 + half * 8;
#pragma unroll
      for (int j = 0; j < kN / 8; ++j) {
        *reinterpret_cast<float2*>(part + row * kN + j * 8 + thread % 4 * 2) =
            make_float2(da[m][j * 4 + half * 2], da[m][j * 4 + half * 2 + 1]);
      }
    }
  }
}

// A block has a unit and a range of tiles. A unit is a head, or with du alone and heads that share inputs the `shared`
// heads of an input.
template <int kD, int kN, bool kHedgehog, bool kDu, bool kDa>
__global__ void __launch_bounds__(BackwardLayout<kD, kN, kHedgehog, kDu, kDa>::kThreads, 1)
    BackwardKernel(const __grid_constant__ CUtensorMap u, const __grid_constant__ CUtensorMap phi,
                   const __grid_constant__ CUtensorMap dphi, BackwardArgs args, Problem p, int shared) {
  using L = BackwardLayout<kD, kN, kHedgehog, kDu, kDa>;
  extern __shared__ char raw[];
  char* const memory = AlignedShared(raw);
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup, thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  char* const stages = memory + L::kMaps * L::kMap + group * L::kStages * L::kStage;
  uint64_t* const map_full = reinterpret_cast<uint64_t*>(memory + L::kBarriers);
  uint64_t* const full = map_full + L::kMaps + group * L::kStages;
  const int units = p.heads / shared, unit = static_cast<int>(blockIdx.x) % units;
  const int h0 = unit * shared, input_head = h0 / (p.heads / p.inputs);
  const int64_t part = blockIdx.x / units, parts = gridDim.x / units;
  const int first = static_cast<int>(part * p.tiles / parts), last = static_cast<int>((part + 1) * p.tiles / parts);
  // All groups make the same number of steps, some of them perhaps without a tile.
  const int steps = (last - first + L::kGroups - 1) / L::kGroups * shared;
  const auto tile_of = [&](int step) { return first + step / shared * L::kGroups + group; };
  const auto load = [&](int step) {
    const int tile = tile_of(step), stage = step % L::kStages, h = h0 + step % shared;
    if (step >= steps || tile >= last) return;
    const int t = tile % p.sequence_tiles * kTokens, b = tile / p.sequence_tiles;
    char* const to = stages + stage * L::kStage;
    BarrierExpect(full + stage, L::kStage);
    LoadTile<L::kFeatures / kTokens / 2>(to, phi, t, h, b, full + stage);
    LoadTile<L::kFeatures / kTokens / 2>(to + L::kFeatures, dphi, t, h, b, full + stage);
    if constexpr (kDa) LoadTile<kD>(to + 2 * L::kFeatures, u, t, input_head, b, full + stage);
  };
  const auto load_map = [&](int step) {
    if (!kDu || step >= steps || (shared == 1 && step > 0)) return;
    const int at = step % L::kMaps;
    BarrierExpect(map_full + at, L::kMap);
    LoadBytes(memory + at * L::kMap, args.maps + static_cast<int64_t>(h0 + step % shared) * L::kMap, L::kMap,
              map_full + at);
  };
  if (thread == 0) {
    if (group == 0) {
      for (int i = 0; i < L::kMaps; ++i) BarrierInit(map_full + i, 1);
    }
    for (int stage = 0; stage < L::kStages; ++stage) BarrierInit(full + stage, 1);
    BarrierInitFence();
    for (int step = 0; step < L::kStages; ++step) load(step);
    for (int step = 0; group == 0 && step < L::kMaps; ++step) load_map(step);
  }
  __syncthreads();
  float du[kD / 2] = {}, da[kD / 64][kN / 2] = {};
  for (int step = 0; step < steps; ++step) {
    const int tile = tile_of(step);
    const char* const map = memory + (shared > 1 ? step % L::kMaps * L::kMap : 0);
    if (kDu && (shared > 1 || step == 0)) {
      BarrierWait(map_full + step % L::kMaps, static_cast<uint32_t>(step / L::kMaps % 2));
    }
    if (tile < last) {
      char* const scores = stages + step % L::kStages * L::kStage;
      const char* const input = scores + 2 * L::kFeatures;
      BarrierWait(full + step % L::kStages, static_cast<uint32_t>(step / L::kStages % 2));
      ScoreGradients<kN, kHedgehog>(scores, scores + L::kFeatures, thread);
      FenceForAsync();
      NamedBarrier(1 + group, kWarpgroup);
      ProductFence();
      if constexpr (kDu) {
#pragma unroll
        for (int k = 0; k < kN; k += 16) {
          Product<kD>::template Shared<0, 0>(du, RowOperand(scores, kBlockBytes, 0, k), RowOperand(map, kD * 128, 0, k),
                                             k > 0 || step % shared > 0 ? 1 : 0);
        }
      }
      if constexpr (kDa) {
#pragma unroll
        for (int m = 0; m < kD / 64; ++m) {
#pragma unroll
          for (int k = 0; k < kTokens; k += 16) {
            Product<kN>::template Shared<1, 1>(da[m], ColumnOperand(input, kBlockBytes, k, m * 64),
                                               ColumnOperand(scores, kBlockBytes, k, 0), 1);
          }
        }
      }
      ProductCommit();
      ProductWait<0>();
      if constexpr (kDu) Hold(du);
      if constexpr (kDa) {
#pragma unroll
        for (int m = 0; m < kD / 64; ++m) Hold(da[m]);
      }
      NamedBarrier(1 + group, kWarpgroup);  // the stage has been read
      if (thread == 0) load(step + L::kStages);
      if (kDu && step % shared == shared - 1) {
        PutInputGradient<kD>(args, du, tile / p.sequence_tiles, input_head, tile % p.sequence_tiles * kTokens, p.t,
                             thread);
      }
    }
    if (kDu && shared > 1) {
      __syncthreads();  // the map has been read
      if (threadIdx.x == 0) load_map(step + L::kMaps);
    }
  }
  if constexpr (kDa) {
    const int64_t at = ((part * L::kGroups + group) * p.heads + h0) * (kD * kN);
    PutMapGradient<kD, kN>(args.da_parts + at, da, thread);
  }
}

// ---- plans ----

// What both passes have: the way by which this instruction set cannot go is that of the plan before.
class Sm90Plan : public Plan {
 public:
  Sm90Plan(const Request& request, const Sizes& s, std::unique_ptr<Plan> plain)
      : args_(request.args), s_(s), multiprocessors_(request.facts->multiprocessors), plain_(std::move(plain)) {
    problem_.heads = static_cast<int>(s.heads);
    problem_.inputs = static_cast<int>(s.inputs);
    problem_.t = static_cast<int>(s.t);
    problem_.sequence_tiles = static_cast<int>(Blocks(s.t, kTokens));
    problem_.tiles = static_cast<int>(s.b * problem_.sequence_tiles);
    implementation = "wgmma";
  }

  void Run(const Launch& launch) const override {
    for (int i : {kU, kPhi, kDphi, kDu}) {
      if (static_cast<size_t>(i) >= args_.size() || !Present(args_[i])) continue;
      if (!MapsTensor(At(launch, i))) return plain_->Run(launch);
    }
    RunMapped(launch);
  }

 protected:
  virtual void RunMapped(const Launch& launch) const = 0;

  // After the parts of this plan are laid out: memory serves either way.
  void ShareWorkspace() { workspace_bytes = std::max(workspace_bytes, plain_->workspace_bytes); }

  xh_tensor At(const Launch& launch, int i) const {
    xh_tensor tensor = args_[i];
    tensor.data = launch.args[i].data;
    return tensor;
  }
  CUtensorMap TensorMap(const Launch& launch, int i) const { return MakeTensorMap(At(launch, i), kTokens); }
  Map MapOf(const Launch& launch) const {
    return {launch.args[kA].data, args_[kA].stride[0], args_[kA].stride[1], args_[kA].dtype};
  }
  // Ranges of tiles for each unit, so that all fill the device once.
  int Ranges(int units) const { return std::clamp(multiprocessors_ / units, 1, problem_.tiles); }

  std::vector<xh_tensor> args_;
  Sizes s_;
  Problem problem_ = {};
  int multiprocessors_;

 private:
  std::unique_ptr<Plan> plain_;
};

template <int kD, int kN, bool kHedgehog>
class ForwardPlan final : public Sm90Plan {
  using Layout = ForwardLayout<kD, kN, kHedgehog>;

 public:
  using Sm90Plan::Sm90Plan;

  Refusal Open(const Facts& facts) {
    ShareWorkspace();
    return AllowShared(ForwardKernel<kD, kN, kHedgehog>, Layout::kBytes, facts);
  }

 private:
  void RunMapped(const Launch& launch) const override {
    const int blocks = problem_.heads * Ranges(problem_.heads);
    ForwardKernel<kD, kN, kHedgehog>
        <<<static_cast<unsigned>(blocks), Layout::kThreads, Layout::kBytes, launch.stream>>>(
            TensorMap(launch, kU), TensorMap(launch, kPhi), MapOf(launch), problem_);
  }
};

template <int kD, int kN, bool kHedgehog>
class BackwardPlan final : public Sm90Plan {
 public:
  using Sm90Plan::Sm90Plan;

  Refusal Open(const Facts& facts) {
    constexpr int kGroups = 2;
    const bool want_da = Present(args_[kDa]);
    if (Present(args_[kDu])) maps_ = Reserve(&workspace_bytes, s_.heads * kD * kN, 2);
    count_ = Ranges(problem_.heads) * kGroups;
    if (want_da) parts_ = Reserve(&workspace_bytes, count_ * s_.heads * kD * kN, 4);
    ShareWorkspace();
    for (Refusal refusal : {Allow<true, true>(facts), Allow<true, false>(facts), Allow<false, true>(facts)}) {
      if (refusal.code != 0) return refusal;
    }
    return {};
  }

 private:
  template <bool kDuToo, bool kDaToo>
  Refusal Allow(const Facts& facts) const {
    return AllowShared(BackwardKernel<kD, kN, kHedgehog, kDuToo, kDaToo>,
                       BackwardLayout<kD, kN, kHedgehog, kDuToo, kDaToo>::kBytes, facts);
  }

  void RunMapped(const Launch& launch) const override {
    const bool want_du = Present(args_[kDu]), want_da = Present(args_[kDa]);
    if (want_du) {
      PrepareMapsKernel<kD, kN>
          <<<dim3(kD * kN / 2 / 256, static_cast<unsigned>(problem_.heads)), 256, 0, launch.stream>>>(
              MapOf(launch), Part<char>(launch.workspace, maps_));
    }
    const bool together = want_du && want_da && s_.group() == 1;
    if (together) {
      Start<true, true>(launch, 1);
    } else {
      if (want_du) Start<true, false>(launch, static_cast<int>(s_.group()));
      if (want_da) Start<false, true>(launch, 1);
    }
    if (want_da) AddParts(launch.stream, s_, Part<float>(launch.workspace, parts_), count_, At(launch, kDa));
  }

  template <bool kDuToo, bool kDaToo>
  void Start(const Launch& launch, int shared) const {
    using Layout = BackwardLayout<kD, kN, kHedgehog, kDuToo, kDaToo>;
    BackwardArgs args = {};
    args.maps = Part<char>(launch.workspace, maps_);
    args.da_parts = Part<float>(launch.workspace, parts_);
    if (kDuToo) {
      args.du = ViewOf<bf16>(At(launch, kDu));
      args.accumulate_du = Accumulates(args_[kDu]);
    }
    const int units = problem_.heads / shared, blocks = units * Ranges(units);
    BackwardKernel<kD, kN, kHedgehog, kDuToo, kDaToo>
        <<<static_cast<unsigned>(blocks), Layout::kThreads, Layout::kBytes, launch.stream>>>(
            TensorMap(launch, kU), TensorMap(launch, kPhi), TensorMap(launch, kDphi), args, problem_, shared);
  }

  int64_t maps_ = 0, parts_ = 0, count_ = 0;
};

template <class P>
Refusal OpenAs(const Request& request, const Sizes& s, std::unique_ptr<Plan>* plan) {
  auto mine = std::make_unique<P>(request, s, std::move(*plan));
  Refusal refusal = mine->Open(*request.facts);
  *plan = std::move(mine);
  return refusal;
}

template <int kD, int kN, bool kHedgehog>
Refusal OpenPass(const Request& request, const Sizes& s, std::unique_ptr<Plan>* plan) {
  if (request.pass == XH_BACKWARD) return OpenAs<BackwardPlan<kD, kN, kHedgehog>>(request, s, plan);
  return OpenAs<ForwardPlan<kD, kN, kHedgehog>>(request, s, plan);
}

template <int kD, int kN>
Refusal OpenKind(const Request& request, const Sizes& s, std::unique_ptr<Plan>* plan) {
  return s.hedgehog ? OpenPass<kD, kN, true>(request, s, plan) : OpenPass<kD, kN, false>(request, s, plan);
}

bool Takes(const Request& request, const Sizes& s) {
  const auto size = [](int64_t x) { return x == 64 || x == 128; };
  constexpr int64_t kMost = int64_t{1} << 30, kMostHeads = 65535;  // kernels count in 32 bits; blocks along y
  if (!size(s.d) || !size(s.n) || s.b * s.t == 0 || s.b * s.t > kMost || s.heads > kMostHeads) return false;
  if (!MapsTensor(request.args[kU]) || !MapsTensor(request.args[kPhi])) return false;
  if (request.pass != XH_BACKWARD) return true;
  const xh_tensor &dphi = request.args[kDphi], &du = request.args[kDu], &da = request.args[kDa];
  if (!Present(du) && !Present(da)) return false;
  return MapsTensor(dphi) && (!Present(du) || MapsTensor(du));
}

}  // namespace
}  // namespace feature_map

Refusal OpenFeatureMapSm90(const Request& request, const feature_map::Sizes& s, std::unique_ptr<Plan>* plan) {
  using feature_map::OpenKind;
  if (!feature_map::Takes(request, s)) return {};
  if (s.d == 64) return s.n == 64 ? OpenKind<64, 64>(request, s, plan) : OpenKind<64, 128>(request, s, plan);
  return s.n == 64 ? OpenKind<128, 64>(request, s, plan) : OpenKind<128, 128>(request, s, plan);
}

}  // namespace xh::gpu

#endif  // XH_SM90
