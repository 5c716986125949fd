// ROPE: rotates the pairs (x[j], x[j + d/2]) by the angle of row position[b] + t; BACKWARD rotates back. A thread a
// pack of pairs of every head of a token: the angles are read once.
#include "backends/cuda/ops.h"
#include "backends/cuda/rows.cuh"

namespace xh::gpu {
namespace {

template <class T>
struct RopeArguments {
  View<const T> from;  // [B,T,H,d]
  View<T> to;
  View<const float> table;
  View<const int32_t> position;
  int64_t tokens, heads, rows;
  int half;
  bool backward, adds;
  FaultSink fault;
};

// Items: (sequence and token, head), pack of pairs.
template <class T, int N>
struct RopeBody {
  RopeArguments<T> a;
  __device__ void operator()(int64_t item, int column) const {
    const int64_t head = item % a.heads, token = item / a.heads, b = token / a.tokens, t = token % a.tokens;
    const int64_t position = *a.position.At(b);
    if (position < 0 || position + a.tokens > a.rows) {
      if (t == 0 && head == 0 && column == 0) {
        Report(a.fault, FaultKind::kPosition, b, -1, position, 0, a.rows - a.tokens);
      }
      return;
    }
    float low[N] = {}, high[N] = {};
    if (a.from.present()) {
      const T* const from = a.from.At(b, t, head);
      LoadPack<T, N>(from + column, low);
      LoadPack<T, N>(from + a.half + column, high);
      const float* const angles = a.table.At(position + t) + column;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float cosine = angles[i], sine = a.backward ? -angles[a.half + i] : angles[a.half + i];
        const float x = low[i], y = high[i];
        low[i] = x * cosine - y * sine;
        high[i] = y * cosine + x * sine;
      }
    }
    T* const to = a.to.At(b, t, head);
    StoreGradient<T, N>(to + column, low, a.adds);
    StoreGradient<T, N>(to + a.half + column, high, a.adds);
  }
};

template <class T>
class RopePlan final : public Plan {
 public:
  RopePlan(const Request& request, const Dims& dims)
      : backward_(request.pass == XH_BACKWARD),
        b_(dims['B']),
        t_(dims['T']),
        h_(dims['H']),
        d_(dims['d']),
        rows_(dims['P']) {
    adds_ = backward_ && Accumulates(request.args[kDx]);
    implementation = "packs";
  }

  void Run(const Launch& launch) const override {
    const xh_tensor &from = launch.args[backward_ ? kDy : kX], &to = launch.args[backward_ ? kDx : kY];
    if (!Present(to)) return;
    const RopeArguments<T> a = {ViewOf<const T>(from),
                                ViewOf<T>(to),
                                ViewOf<const float>(launch.args[kTable]),
                                ViewOf<const int32_t>(launch.args[kPosition]),
                                t_,
                                h_,
                                rows_,
                                static_cast<int>(d_ / 2),
                                backward_,
                                adds_,
                                launch.fault};
    const bool packs = MovesInPacks(from) && MovesInPacks(to) && d_ / 2 % kPack<T> == 0;
    if (packs) {
      ForPacks<kPack<T>>(launch, b_ * t_ * h_, d_ / 2, RopeBody<T, kPack<T>>{a});
    } else {
      ForPacks<1>(launch, b_ * t_ * h_, d_ / 2, RopeBody<T, 1>{a});
    }
  }

 private:
  enum { kX, kTable, kPosition, kY, kDy, kDx };
  bool backward_, adds_;
  int64_t b_, t_, h_, d_, rows_;
};

}  // namespace

Refusal OpenRope(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  const Refusal refusal = backend::CheckRope(request, &dims);
  if (refusal.code != 0) return refusal;
  WithType(dims.activation, [&](auto t) { *out = std::make_unique<RopePlan<decltype(t)>>(request, dims); });
  return {};
}

}  // namespace xh::gpu
