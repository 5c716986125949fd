// FEATURE_MAP of one token of many sequences, in bf16 with d and n of 64 or 128: a block has a head and 32 sequences as
// the rows of one product, so that a map is read once for all of them.
#include "backends/cuda/feature_map.h"

#ifdef XH_HIP

namespace xh::gpu::feature_map {
void TakeManySequences(const Request&, const Sizes&, std::unique_ptr<Plan>*) {}
}  // namespace xh::gpu::feature_map

#else

#include "backends/cuda/feature_map_rows.cuh"

namespace xh::gpu::feature_map {
namespace {

using namespace warp;

constexpr int kWarps = 2, kThreads = kWarps * kWarp;
// With 16 this op alone is faster than a block a head and token, but a step of a whole mixer, whose maps have left the
// cache, is slower (H200).
constexpr int64_t kLeastSequences = 32;

struct ManyArguments {
  Sizes s;
  View<const bf16> u, a;
  View<bf16> phi;
};

// The map and the rows of u to shared memory, zero past the last sequence.
template <int kD, int kN>
__device__ void CopyOperands(const ManyArguments& x, int64_t h, int64_t b0, char* map, char* rows) {
  constexpr int kRowPacks = kD / 8;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t input = static_cast<unsigned>(h) / static_cast<unsigned>(x.s.group());
  CopyMap<kD, kN, kThreads>(x.a, h, map);
#pragma unroll 4
  for (int i = thread; i < kWarps * kRows * kRowPacks; i += kThreads) {
    const int row = i / kRowPacks, pack = i % kRowPacks;
    const bool inside = b0 + row < x.s.b;
    CopyPack(SharedAddress(rows) + PackOffset<kD * 2>(row, pack), x.u.At(inside ? b0 + row : b0, input) + pack * 8,
             inside);
  }
  CommitCopies();
  WaitForCopies<0>();
  __syncthreads();
}

template <int kD, int kN>
__global__ void __launch_bounds__(kThreads) ManySequences(const ManyArguments x) {
  __shared__ alignas(128) char map[kD * kN * 2];
  __shared__ alignas(128) char rows[kWarps * kRows * kD * 2];
  LetNextBegin();
  const auto heads = static_cast<unsigned>(x.s.heads);
  const int64_t h = blockIdx.x % heads, b0 = int64_t{blockIdx.x / heads} * (kWarps * kRows);
  for (int i = static_cast<int>(threadIdx.x); i < kD; i += kThreads) PrefetchBytes(x.a.At(h, i), kN * 2);
  WaitForEarlier();
  CopyOperands<kD, kN>(x, h, b0, map, rows);
  float scores[kN / 8][4] = {};
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  Score<kD, kN>(map, rows, warp * kRows, scores);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t b = b0 + warp * kRows + lane / 4 + half * 8;
    bf16* const phi = x.phi.At(b, h) + lane % 4 * 2;
    PutSoftmax<kN>(scores, half, 1.0f, b < x.s.b, phi);
    if (x.s.hedgehog) PutSoftmax<kN>(scores, half, -1.0f, b < x.s.b, phi + kN);
  }
}

class ManyPlan final : public Plan {
 public:
  ManyPlan(const Sizes& sizes, std::unique_ptr<Plan> plain) : s_(sizes), plain_(std::move(plain)) {
    workspace_bytes = plain_->workspace_bytes;
    implementation = "one token of many sequences";
  }
  void Run(const Launch& launch) const override {
    for (int i : {kU, kA, kPhi}) {
      if (!MovesInPacks(launch.args[i])) return plain_->Run(launch);
    }
    const ManyArguments x = {s_, ViewOf<const bf16>(launch.args[kU]), ViewOf<const bf16>(launch.args[kA]),
                             ViewOf<bf16>(launch.args[kPhi])};
    const unsigned blocks = static_cast<unsigned>(s_.heads) * Blocks(s_.b, kWarps * kRows);
    const auto narrow = s_.d == 64 ? ManySequences<64, 64> : ManySequences<128, 64>;
    const auto wide = s_.d == 64 ? ManySequences<64, 128> : ManySequences<128, 128>;
    LaunchEarly(launch, s_.n == 64 ? narrow : wide, blocks, kThreads, 0, x);
  }

 private:
  Sizes s_;
  std::unique_ptr<Plan> plain_;  // for rows that are not at multiples of 16 bytes
};

}  // namespace

void TakeManySequences(const Request& request, const Sizes& s, std::unique_ptr<Plan>* plan) {
  const auto size = [](int64_t x) { return x == 64 || x == 128; };
  if (request.pass == XH_BACKWARD || s.t != 1 || s.b < kLeastSequences || !size(s.d) || !size(s.n)) return;
  if (request.args[kU].dtype != XH_BF16 || request.args[kA].dtype != XH_BF16) return;
  if (request.facts->capability < 80) return;
  *plan = std::make_unique<ManyPlan>(s, std::move(*plan));
}

}  // namespace xh::gpu::feature_map

#endif  // XH_HIP
