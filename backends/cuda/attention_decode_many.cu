// One token of so many sequences that the pairs of sequence and key/value head fill the device: a block a pair, whose
// warps take turns at the keys, 16 at a time. Memory sets the time, so each warp keeps a ring of copies to shared
// memory under way; the products go to the tensor cores, with keys as rows and the heads of the group as columns. The
// order of every sum is fixed.
#include <algorithm>

#include "backends/cuda/attention.h"

#ifdef XH_HIP

namespace xh::gpu::attention {
std::unique_ptr<Plan> MakeAttentionDecodeMany(const Shape&, const Request&, std::unique_ptr<Plan> plan) { return plan; }
}  // namespace xh::gpu::attention

#else

#include "backends/cuda/warp_product.cuh"

namespace xh::gpu::attention {
namespace {

using namespace warp;

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kBlocks = 4;  // of a multiprocessor: with fewer the pairs of 64 sequences and 8 heads come in two waves
constexpr int kKeys = 16;   // of a piece
constexpr int kMostGroup = 8;    // columns of a product
constexpr int kRing = 12 << 10;  // bytes of a warp: a block has what it may have without asking
constexpr float kLog2E = 1.4426950408889634f;

struct Args {
  View<const bf16> q, k, v;
  View<bf16> cache_k, cache_v, o;
  View<const int32_t> position;
  View<const float> gate;  // [B, H] with x [B, H, d], or absent: what is written is gate x + (1 - gate) o
  View<const bf16> x;
  Windows windows;
  int64_t batch, sinks, capacity, most_position;
  unsigned kv_heads;
  int group;
  float scale;  // for powers of two
  FaultSink sink;
};

template <int kDim>
struct Layout {
  static constexpr int kRow = kDim * 2, kPacks = kRow / 16, kPiece = kKeys * kRow, kSlots = kRing / kPiece;
  static constexpr int kSums = kDim + 4;  // floats of a head's sums: what a quad writes lies in different banks
  static_assert(kSlots >= 3 && kMostGroup * (kSums + 2) * 4 <= kRing);
};

// What a block attends to. The token's own slot is not read from the cache: the block is writing it.
struct Stretch {
  const bf16 *own_k, *own_v;
  bf16 *cache_k, *cache_v;  // the head's first slot
  int own, visible;         // slots

  __device__ Stretch(const Args& a, int64_t b, int64_t kv_head, int64_t first, int32_t position) {
    const int64_t window = a.windows.at[kv_head];
    own_k = a.k.At(b, kv_head);
    own_v = a.v.At(b, kv_head);
    cache_k = a.cache_k.At(b, first);
    cache_v = a.cache_v.At(b, first);
    own = static_cast<int>(SlotOf(position, window, a.sinks));
    visible = static_cast<int>(VisibleSlots(position, window, a.sinks));
  }
};

// A warp's copies: the keys of 16 slots are a piece, their values the next. As many as the ring holds are under way.
template <int kDim>
class Ring {
  using L = Layout<kDim>;

 public:
  __device__ Ring(const Args& a, const Stretch& s, char* memory)
      : memory_(SharedAddress(memory)), own_(s.own), visible_(s.visible) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, column = lane % L::kPacks * 8;
    first_ = static_cast<int>(threadIdx.x) / kWarp * kKeys;
    cache_k_ = s.cache_k + column;
    cache_v_ = s.cache_v + column;
    own_k_ = s.own_k + column;
    own_v_ = s.own_v + column;
    stride_k_ = a.cache_k.stride[1];
    stride_v_ = a.cache_v.stride[1];
#pragma unroll
    for (int i = 0; i < L::kSlots; ++i) Fetch();
  }
  // The next piece; it stays until Release.
  __device__ uint32_t Acquire() {
    WaitForCopies<L::kSlots - 1>();
    __syncwarp();  // what the other lanes have copied
    return memory_ + at_;
  }
  __device__ void Release() {
    __syncwarp();
    Fetch();
  }

 private:
  // A group is committed even where nothing is left to copy, so that Acquire may count groups.
  __device__ void Fetch() {
    if (first_ < visible_) {
      const int lane = static_cast<int>(threadIdx.x) % kWarp;
      const bf16* const cache = values_ ? cache_v_ : cache_k_;
      const bf16* const own = values_ ? own_v_ : own_k_;
      const int64_t stride = values_ ? stride_v_ : stride_k_;
#pragma unroll
      for (int i = 0; i < kKeys * L::kPacks / kWarp; ++i) {
        const int row = i * (kWarp / L::kPacks) + lane / L::kPacks, slot = first_ + row;
        const bool seen = slot < visible_;
        CopyPack(memory_ + at_ + PackOffset<L::kRow>(row, lane % L::kPacks),
                 seen && slot != own_ ? cache + slot * stride : own, seen);
      }
    }
    CommitCopies();
    at_ = at_ + L::kPiece == L::kSlots * L::kPiece ? 0 : at_ + L::kPiece;
    if (values_) first_ += kWarps * kKeys;
    values_ = !values_;
  }

  const bf16 *cache_k_, *cache_v_, *own_k_, *own_v_;
  int64_t stride_k_, stride_v_;
  uint32_t memory_, at_ = 0;
  int own_, visible_;
  int first_;  // slot of the piece that is fetched next
  bool values_ = false;
};

// Running softmax sums over the keys of a warp. A lane has heads 2 (lane % 4) and the next, and of `out` the columns
// lane / 4 and 8 more of every 16; its sums are of the keys it has seen.
template <int kDim>
struct Sums {
  float most[2] = {-kInfinity, -kInfinity}, sum[2] = {}, out[kDim / 16][4] = {};
};

// The heads of the group as columns; zero past the last.
template <int kDim>
__device__ void LoadQueries(const Args& a, int64_t b, int64_t kv_head, uint32_t (&q)[kDim / 16][2]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, head = lane / 4;
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    q[i][0] = q[i][1] = 0;
    if (head >= a.group) continue;
    const bf16* const from = a.q.At(b, kv_head * a.group + head) + i * 16 + lane % 4 * 2;
    q[i][0] = *reinterpret_cast<const uint32_t*>(from);
    q[i][1] = *reinterpret_cast<const uint32_t*>(from + 8);
  }
}

// Scores of 16 keys: of key lane / 4 for two heads, then of the key 8 further on.
template <int kDim>
__device__ void Score(uint32_t keys, const uint32_t (&q)[kDim / 16][2], float (&score)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float odd[4] = {};  // two sums: half as many products wait for each other
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    uint32_t tiles[4];
    LoadTiles(keys + PackOffset<kDim * 2>(lane % 16, 2 * i + lane / 16), tiles);
    AddProduct(i % 2 == 0 ? score : odd, tiles, q[i][0], q[i][1]);
  }
#pragma unroll
  for (int e = 0; e < 4; ++e) score[e] += odd[e];
}

// Makes weights of the scores of `count` keys, rows of the second operand of the next product.
template <int kDim>
__device__ void Weigh(float (&score)[4], int count, float scale, Sums<kDim>* s, uint32_t (&weights)[2]) {
  const int key = static_cast<int>(threadIdx.x) % kWarp / 4;
  float decay[2];
#pragma unroll
  for (int e = 0; e < 4; ++e) score[e] = key + e / 2 * 8 < count ? scale * score[e] : -kInfinity;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float most = fmaxf(s->most[h], fmaxf(score[h], score[h + 2]));
#pragma unroll
    for (int mask = 4; mask < kWarp; mask *= 2) most = fmaxf(most, XH_SHUFFLE_XOR(most, mask));
    decay[h] = exp2f(s->most[h] - most);
    s->most[h] = most;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t pair = PackPair(exp2f(score[2 * i] - s->most[0]), exp2f(score[2 * i + 1] - s->most[1]));
    // The sums are of what the values are multiplied with.
    s->sum[0] = fmaf(s->sum[0], i == 0 ? decay[0] : 1.0f, LowOf(pair));
    s->sum[1] = fmaf(s->sum[1], i == 0 ? decay[1] : 1.0f, HighOf(pair));
    weights[i] = Turn(pair);
  }
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) s->out[i][e] *= decay[e % 2];
  }
}

template <int kDim>
__device__ void AddValues(uint32_t values, const uint32_t (&weights)[2], Sums<kDim>* s) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    uint32_t tiles[4];
    LoadTurned(values + PackOffset<kDim * 2>(lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2), tiles);
    AddProduct(s->out[i], tiles, weights[0], weights[1]);
  }
}

// A warp's sums to its shared memory: a row a head, behind them the maxima and the sums of weights.
template <int kDim>
__device__ void PutSums(Sums<kDim>* s, float* to) {
  constexpr int kSums = Layout<kDim>::kSums;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, row = lane / 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int head = lane % 4 * 2 + h;
#pragma unroll
    for (int mask = 4; mask < kWarp; mask *= 2) s->sum[h] += XH_SHUFFLE_XOR(s->sum[h], mask);
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      to[head * kSums + i * 16 + row] = s->out[i][h];
      to[head * kSums + i * 16 + row + 8] = s->out[i][h + 2];
    }
    if (row == 0) {
      to[kMostGroup * kSums + head] = s->most[h];
      to[kMostGroup * (kSums + 1) + head] = s->sum[h];
    }
  }
}

// Column `column` of a head's output, of the sums of all warps.
template <int kDim>
__device__ float Combine(const char* memory, int head, int column) {
  constexpr int kSums = Layout<kDim>::kSums;
  float most = -kInfinity, sum = 0.0f, out = 0.0f;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    most = fmaxf(most, reinterpret_cast<const float*>(memory + w * kRing)[kMostGroup * kSums + head]);
  }
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    const float* const sums = reinterpret_cast<const float*>(memory + w * kRing);
    const float weight = exp2f(sums[kMostGroup * kSums + head] - most);
    sum = fmaf(weight, sums[kMostGroup * (kSums + 1) + head], sum);
    out = fmaf(weight, sums[head * kSums + column], out);
  }
  return out / sum;
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, kBlocks) DecodeMany(const Args a) {
  using L = Layout<kDim>;
  __shared__ alignas(128) char memory[kWarps * kRing];
  LetNextBegin();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp;
  const int64_t b = blockIdx.x / a.kv_heads, kv_head = blockIdx.x % a.kv_heads;
  const int64_t first_slot = FirstSlot(a.windows, kv_head, a.sinks, a.capacity);
  WaitForEarlier();
  // Copies begin before all positions are checked, which takes a while; with a bad one that of the own key alone.
  const int32_t position = *a.position.At(b);
  const bool good = position >= 0 && position <= a.most_position;
  const Stretch stretch(a, b, kv_head, first_slot, good ? position : 0);
  Ring<kDim> ring(a, stretch, memory + warp * kRing);
  uint32_t q[kDim / 16][2];
  LoadQueries<kDim>(a, b, kv_head, q);
  if (!PositionsFit(a.position, a.batch, a.most_position, blockIdx.x == 0, a.sink)) return WaitForCopies<0>();
  if (thread < 2 * L::kPacks) {
    const bool value = thread >= L::kPacks;
    bf16* const to = value ? stretch.cache_v + stretch.own * a.cache_v.stride[1]
                           : stretch.cache_k + stretch.own * a.cache_k.stride[1];
    reinterpret_cast<uint4*>(to)[thread % L::kPacks] =
        reinterpret_cast<const uint4*>(value ? stretch.own_v : stretch.own_k)[thread % L::kPacks];
  }
  Sums<kDim> sums;
  for (int first = warp * kKeys; first < stretch.visible; first += kWarps * kKeys) {
    float score[4] = {};
    uint32_t weights[2];
    Score<kDim>(ring.Acquire(), q, score);
    ring.Release();
    Weigh<kDim>(score, stretch.visible - first, a.scale, &sums, weights);
    AddValues<kDim>(ring.Acquire(), weights, &sums);
    ring.Release();
  }
  WaitForCopies<0>();
  PutSums<kDim>(&sums, reinterpret_cast<float*>(memory + warp * kRing));
  __syncthreads();
  for (int e = thread; e < a.group * kDim; e += kThreads) {
    const int head = e / kDim, column = e % kDim;
    float out = Combine<kDim>(memory, head, column);
    const int64_t h = kv_head * a.group + head;
    if (a.x.present()) {
      const float gate = *a.gate.At(b, h);
      out = gate * ToFloat(a.x.At(b, h)[column]) + (1.0f - gate) * out;
    }
    a.o.At(b, h)[column] = FromFloat<bf16>(out);
  }
}

class ManyPlan final : public Plan {
 public:
  // With `plain`, for rows that are not at multiples of 16 bytes, as the op; without it mixed, and rows are.
  ManyPlan(const Shape& shape, int64_t most_position, std::unique_ptr<Plan> plain)
      : s_(shape), most_position_(most_position), plain_(std::move(plain)) {
    if (plain_ != nullptr) workspace_bytes = plain_->workspace_bytes;
    implementation = "one token of many sequences";
  }

  void Run(const Launch& launch) const override {
    for (int i : {kQ, kK, kV, kCacheK, kCacheV}) {
      if (plain_ != nullptr && !MovesInPacks(launch.args[i])) return plain_->Run(launch);
    }
    const Args a = Arguments(launch);
    const auto blocks = static_cast<unsigned>(s_.batch * s_.kv_heads);
    LaunchEarly(launch, s_.dim == 64 ? DecodeMany<64> : DecodeMany<128>, blocks, kThreads, 0, a);
  }

 private:
  Args Arguments(const Launch& launch) const {
    const xh_tensor* const args = launch.args;
    Args a = {};
    a.q = ViewOf<const bf16>(args[kQ]);
    a.k = ViewOf<const bf16>(args[kK]);
    a.v = ViewOf<const bf16>(args[kV]);
    a.cache_k = ViewOf<bf16>(args[kCacheK]);
    a.cache_v = ViewOf<bf16>(args[kCacheV]);
    a.o = ViewOf<bf16>(args[kO]);
    a.position = ViewOf<const int32_t>(args[kPosition]);
    a.windows = s_.windows;
    a.batch = s_.batch;
    a.kv_heads = static_cast<unsigned>(s_.kv_heads);
    a.sinks = s_.sinks;
    a.capacity = s_.capacity;
    a.most_position = most_position_;
    if (plain_ == nullptr) {
      a.gate = ViewOf<const float>(args[kGate]);
      a.x = ViewOf<const bf16>(args[kX]);
    }
    a.group = static_cast<int>(s_.group());
    a.scale = s_.scale * kLog2E;
    a.sink = launch.fault;
    return a;
  }

  Shape s_;
  int64_t most_position_;
  std::unique_ptr<Plan> plain_;
};

// Shared memory in place of the first-level cache, so that kBlocks find room.
bool PreferShared(void (*kernel)(Args)) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributePreferredSharedMemoryCarveout,
                              cudaSharedmemCarveoutMaxShared) == cudaSuccess;
}

bool Takes(const Shape& s, const Facts& facts) {
  const bool fills = s.batch * s.kv_heads >= facts.multiprocessors;
  const bool takes = s.dtype == XH_BF16 && (s.dim == 64 || s.dim == 128) && s.group() >= 2 && s.group() <= kMostGroup;
  return fills && takes && facts.capability >= 80 && PreferShared(s.dim == 64 ? DecodeMany<64> : DecodeMany<128>);
}

}  // namespace

std::unique_ptr<Plan> MakeAttentionDecodeMany(const Shape& s, const Request& request, std::unique_ptr<Plan> plan) {
  if (!Takes(s, *request.facts)) return plan;
  return std::make_unique<ManyPlan>(s, s.MostPosition(), std::move(plan));
}

std::unique_ptr<Plan> MakeAttentionDecodeMixed(const Shape& s, const Facts& facts, int64_t most_position) {
  if (!Takes(s, facts)) return nullptr;
  return std::make_unique<ManyPlan>(s, most_position, nullptr);
}

}  // namespace xh::gpu::attention

#endif  // XH_HIP
