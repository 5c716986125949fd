// RMS_NORM: y = x r w with r = 1 / sqrt(mean(x^2) + eps). FORWARD saves r, one f32 a row.
#include <cmath>

#include "backends/cpu/ops.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"

namespace xh::cpu::XH_ISA {
namespace {

enum { kX, kW, kY, kDy, kDx, kDw };

template <class T>
class NormForward final : public Plan {
 public:
  NormForward(const Request& request, const Dims& dims, float eps)
      : m_(dims['M']),
        d_(dims['D']),
        x_stride_(request.args[kX].stride[0]),
        y_stride_(request.args[kY].stride[0]),
        w_type_(request.args[kW].dtype),
        threads_(request.threads),
        save_(request.pass == XH_FORWARD),
        eps_(eps) {
    implementation = "vector";
    saved_bytes = save_ ? m_ * 4 : 0;
    converted_ = Reserve(&workspace_bytes, w_type_ == XH_BF16 ? d_ * 4 : 0);
  }

  void Run(const xh_tensor* args, void* workspace, void* saved) const override {
    const float* w = nullptr;
    WithType(w_type_, [&](auto t) {
      w = AsFloat(static_cast<const decltype(t)*>(args[kW].data), d_, At<float>(workspace, converted_));
    });
    const T* const x = static_cast<const T*>(args[kX].data);
    T* const y = static_cast<T*>(args[kY].data);
    RunParts(Parts(threads_, m_, m_ * d_), m_, [&](int64_t first, int64_t last, int) {
      for (int64_t m = first; m < last; ++m) {
        const float r = Row(x + m * x_stride_, w, y + m * y_stride_);
        if (save_) static_cast<float*>(saved)[m] = r;
      }
    });
  }

 private:
  float Row(const T* x, const float* w, T* y) const {
    Vec squares = {};
    ForLanes(d_, [&](int64_t i, auto lanes) {
      const Vec v = Get(x + i, lanes);
      squares = Fma(v, v, squares);
    });
    const float r = 1.0f / std::sqrt(Sum(squares) / static_cast<float>(d_) + eps_);
    ForLanes(d_, [&](int64_t i, auto lanes) { Put(y + i, Get(x + i, lanes) * r * Get(w + i, lanes), lanes); });
    return r;
  }

  int64_t m_, d_, x_stride_, y_stride_;
  xh_dtype w_type_;
  int threads_;
  bool save_;
  float eps_;
  int64_t converted_ = 0;
};

// dx = r w dy - x r^3 mean(w dy x); dw = sum over rows of dy x r, every part its rows, parts added in order.
template <class T>
class NormBackward final : public Plan {
 public:
  NormBackward(const Request& request, const Dims& dims)
      : args_(request.args), m_(dims['M']), d_(dims['D']), threads_(request.threads) {
    implementation = "vector";
    saved_bytes = m_ * 4;
    parts_ = Parts(threads_, m_, m_ * d_);
    converted_ = Reserve(&workspace_bytes, args_[kW].dtype == XH_BF16 ? d_ * 4 : 0);
    sums_ = Reserve(&workspace_bytes, Present(args_[kDw]) ? parts_ * d_ * 4 : 0);
  }

  void Run(const xh_tensor* args, void* workspace, void* saved) const override {
    const float* w = nullptr;
    WithType(args_[kW].dtype, [&](auto t) {
      w = AsFloat(static_cast<const decltype(t)*>(args[kW].data), d_, At<float>(workspace, converted_));
    });
    const bool want_dx = Present(args_[kDx]), want_dw = Present(args_[kDw]);
    const T* const dy = Present(args_[kDy]) ? static_cast<const T*>(args[kDy].data) : nullptr;
    float* const sums = At<float>(workspace, sums_);
    RunParts(parts_, m_, [&](int64_t first, int64_t last, int part) {
      float* const sum = sums + part * d_;
      if (want_dw) std::fill(sum, sum + d_, 0.0f);
      for (int64_t m = first; m < last; ++m) {
        const T* const x = static_cast<const T*>(args[kX].data) + m * args_[kX].stride[0];
        const T* const g = dy == nullptr ? nullptr : dy + m * args_[kDy].stride[0];
        const float r = static_cast<const float*>(saved)[m];
        if (want_dx) RowDx(x, w, g, r, static_cast<T*>(args[kDx].data) + m * args_[kDx].stride[0]);
        if (want_dw && g != nullptr) {
          ForLanes(d_, [&](int64_t i, auto lanes) {
            Put(sum + i, Fma(Get(g + i, lanes) * r, Get(x + i, lanes), Get(sum + i, lanes)), lanes);
          });
        }
      }
    });
    if (!want_dw) return;
    float* const dw = static_cast<float*>(args[kDw].data);
    ForLanes(d_, [&](int64_t i, auto lanes) {
      Vec total = {};
      for (int part = 0; part < parts_; ++part) total = total + Get(sums + part * d_ + i, lanes);
      PutGradient(dw + i, total, Accumulates(args_[kDw]), lanes);
    });
  }

 private:
  void RowDx(const T* x, const float* w, const T* g, float r, T* dx) const {
    const bool add = Accumulates(args_[kDx]);
    if (g == nullptr) {
      if (!add) ForLanes(d_, [&](int64_t i, auto lanes) { Put(dx + i, Vec{}, lanes); });
      return;
    }
    Vec dot = {};
    ForLanes(d_,
             [&](int64_t i, auto lanes) { dot = Fma(Get(g + i, lanes) * Get(w + i, lanes), Get(x + i, lanes), dot); });
    const float shrink = Sum(dot) / static_cast<float>(d_) * r * r * r;
    ForLanes(d_, [&](int64_t i, auto lanes) {
      const Vec v = Get(g + i, lanes) * Get(w + i, lanes) * r - Get(x + i, lanes) * shrink;
      PutGradient(dx + i, v, add, lanes);
    });
  }

  std::vector<xh_tensor> args_;
  int64_t m_, d_;
  int threads_, parts_ = 1;
  int64_t converted_ = 0, sums_ = 0;
};

}  // namespace

Refusal OpenRmsNorm(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_norm_params params = {};
  const Refusal refusal = backend::CheckRmsNorm(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  WithType(dims.activation, [&](auto t) {
    using T = decltype(t);
    if (request.pass == XH_BACKWARD) {
      *out = std::make_unique<NormBackward<T>>(request, dims);
    } else {
      *out = std::make_unique<NormForward<T>>(request, dims, params.eps);
    }
  });
  return {};
}

}  // namespace xh::cpu::XH_ISA
