// ROPE: rotates the pairs (x[j], x[j + d/2]) by the angle of row position[b] + t; BACKWARD rotates back.
#include "backends/cpu/ops.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"

namespace xh::cpu::XH_ISA {
namespace {

enum { kX, kTable, kPosition, kY, kDy, kDx };

template <class T>
class RopePlan final : public Plan {
 public:
  RopePlan(const Request& request, const Dims& dims)
      : backward_(request.pass == XH_BACKWARD),
        from_index_(backward_ ? kDy : kX),
        to_index_(backward_ ? kDx : kY),
        from_(request.args[from_index_]),
        to_(request.args[to_index_]),
        table_stride_(request.args[kTable].stride[0]),
        position_stride_(request.args[kPosition].stride[0]),
        b_(dims['B']),
        t_(dims['T']),
        h_(dims['H']),
        d_(dims['d']),
        rows_(dims['P']),
        threads_(request.threads) {
    implementation = "vector";
  }

  void Run(const xh_tensor* args, void*, void*) const override {
    if (!Present(to_)) return;
    const int32_t* const position = static_cast<const int32_t*>(args[kPosition].data);
    for (int64_t b = 0; b < b_; ++b) {
      const int64_t p = position[b * position_stride_];
      if (p < 0 || p + t_ > rows_) {
        throw RunError{XH_INVALID_ARGUMENT, "ROPE: position[" + std::to_string(b) + "] is " + std::to_string(p) +
                                                ", allowed is 0 to " + std::to_string(rows_ - t_) + " for " +
                                                std::to_string(t_) + " tokens of a table of " + std::to_string(rows_) +
                                                " rows"};
      }
    }
    const T* const from = Present(from_) ? static_cast<const T*>(args[from_index_].data) : nullptr;
    const float* const table = static_cast<const float*>(args[kTable].data);
    RunParts(Parts(threads_, b_ * t_, b_ * t_ * h_ * d_), b_ * t_, [&](int64_t first, int64_t last, int) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t b = i / t_, t = i % t_;
        const float* const angles = table + (position[b * position_stride_] + t) * table_stride_;
        for (int64_t h = 0; h < h_; ++h) {
          T* const to = static_cast<T*>(args[to_index_].data) + Offset(to_, b, t, h);
          Rotate(from == nullptr ? nullptr : from + Offset(from_, b, t, h), angles, to);
        }
      }
    });
  }

 private:
  static int64_t Offset(const xh_tensor& x, int64_t b, int64_t t, int64_t h) {
    return b * x.stride[0] + t * x.stride[1] + h * x.stride[2];
  }

  void Rotate(const T* from, const float* angles, T* to) const {
    const int64_t half = d_ / 2;
    const bool add = Accumulates(to_);
    if (from == nullptr) {
      if (!add) ForLanes(d_, [&](int64_t j, auto lanes) { Put(to + j, Vec{}, lanes); });
      return;
    }
    ForLanes(half, [&](int64_t j, auto lanes) {
      const Vec low = Get(from + j, lanes), high = Get(from + half + j, lanes);
      const Vec cosine = Get(angles + j, lanes);
      const Vec sine = backward_ ? -Get(angles + half + j, lanes) : Get(angles + half + j, lanes);
      PutGradient(to + j, low * cosine - high * sine, add, lanes);
      PutGradient(to + half + j, high * cosine + low * sine, add, lanes);
    });
  }

  bool backward_;
  int from_index_, to_index_;
  xh_tensor from_, to_;
  int64_t table_stride_, position_stride_, b_, t_, h_, d_, rows_;
  int threads_;
};

}  // namespace

Refusal OpenRope(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  const Refusal refusal = backend::CheckRope(request, &dims);
  if (refusal.code != 0) return refusal;
  WithType(dims.activation, [&](auto t) { *out = std::make_unique<RopePlan<decltype(t)>>(request, dims); });
  return {};
}

}  // namespace xh::cpu::XH_ISA
