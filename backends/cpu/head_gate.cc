// HEAD_GATE (SPEC.md 1.2): o = sigmoid([q|k|v] w_h + b_h), one scalar a head and token.
#include <cmath>

#include "backends/cpu/ops.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"

namespace xh::cpu::XH_ISA {
namespace {

enum { kQ, kK, kV, kW, kB, kO, kDo, kDq, kDk, kDv, kDw, kDb };

struct Sizes {
  int64_t b, heads, kv_heads, t, d;
  explicit Sizes(const Dims& dims) : b(dims['B']), heads(dims['H']), kv_heads(dims['K']), t(dims['T']), d(dims['d']) {}
  int64_t tokens() const { return b * t; }
  int64_t work() const { return tokens() * heads * d * 3; }
};

// Shared by both passes: where a row lies, and w as f32 [H][3d].
class GatePlan : public Plan {
 protected:
  GatePlan(const Request& request, const Sizes& sizes)
      : args_(request.args), s_(sizes), parts_(Parts(request.threads, sizes.tokens(), sizes.work())) {
    maps_ = Reserve(&workspace_bytes, s_.heads * 3 * s_.d * 4);
    implementation = "vector";
  }

  const float* CopyMaps(const xh_tensor* args, void* workspace) const {
    float* const maps = At<float>(workspace, maps_);
    WithType(args_[kW].dtype, [&](auto t) {
      for (int64_t h = 0; h < s_.heads; ++h) {
        const auto* const from = static_cast<const decltype(t)*>(args[kW].data) + h * args_[kW].stride[0];
        float* const to = maps + h * 3 * s_.d;
        ForLanes(3 * s_.d, [&](int64_t i, auto lanes) { Put(to + i, Get(from + i, lanes), lanes); });
      }
    });
    return maps;
  }

  struct Token {
    int64_t b, t;
  };

  // Element (b, h, t, 0) of argument `index`; null when it is absent.
  template <class U>
  U* Place(const xh_tensor* args, int index, Token token, int64_t h) const {
    const xh_tensor& a = args_[index];
    if (!Present(a)) return nullptr;
    return static_cast<U*>(args[index].data) + token.b * a.stride[0] + h * a.stride[1] + token.t * a.stride[2];
  }

  std::vector<xh_tensor> args_;
  Sizes s_;
  int parts_;

 private:
  int64_t maps_ = 0;
};

template <class T>
class GateForward final : public GatePlan {
 public:
  GateForward(const Request& request, const Sizes& sizes) : GatePlan(request, sizes) {}

  void Run(const xh_tensor* args, void* workspace, void*) const override {
    const float* const maps = CopyMaps(args, workspace);
    RunParts(parts_, s_.tokens(), [&](int64_t first, int64_t last, int) {
      for (int64_t i = first; i < last; ++i) {
        const Token token = {i / s_.t, i % s_.t};
        for (int64_t h = 0; h < s_.heads; ++h) Gate(args, maps + h * 3 * s_.d, token, h);
      }
    });
  }

 private:
  void Gate(const xh_tensor* args, const float* w, Token token, int64_t h) const {
    const int64_t kv = h / (s_.heads / s_.kv_heads), d = s_.d;
    const T *q = Place<T>(args, kQ, token, h), *k = Place<T>(args, kK, token, kv), *v = Place<T>(args, kV, token, kv);
    Vec from_q = {}, from_k = {}, from_v = {};
    ForLanes(d, [&](int64_t i, auto lanes) {
      from_q = Fma(Get(q + i, lanes), Get(w + i, lanes), from_q);
      from_k = Fma(Get(k + i, lanes), Get(w + d + i, lanes), from_k);
      from_v = Fma(Get(v + i, lanes), Get(w + 2 * d + i, lanes), from_v);
    });
    float bias = 0.0f;
    WithType(args_[kB].dtype, [&](auto t) { bias = ToFloat(static_cast<const decltype(t)*>(args[kB].data)[h]); });
    *Place<float>(args, kO, token, h) = 1.0f / (1.0f + std::exp(-(Sum(from_q + from_k + from_v) + bias)));
  }
};

// With g = do o (1 - o): dq = g w_q; dk and dv sum g w over the heads that read them; dw_h = sum over tokens of g
// [q|k|v], by part, parts added in order.
template <class T>
class GateBackward final : public GatePlan {
 public:
  GateBackward(const Request& request, const Sizes& sizes) : GatePlan(request, sizes) {
    sum_floats_ = s_.heads * (3 * s_.d + 1);  // dw, then db
    sums_ = Reserve(&workspace_bytes, parts_ * sum_floats_ * 4);
    slopes_ = Reserve(&workspace_bytes, parts_ * s_.heads * 4);
    want_sums_ = Present(args_[kDw]) || Present(args_[kDb]);
  }

  void Run(const xh_tensor* args, void* workspace, void*) const override {
    const float* const maps = CopyMaps(args, workspace);
    float* const sums = At<float>(workspace, sums_);
    RunParts(parts_, s_.tokens(), [&](int64_t first, int64_t last, int part) {
      float* const sum = sums + part * sum_floats_;
      std::fill(sum, sum + sum_floats_, 0.0f);
      float* const slopes = At<float>(workspace, slopes_) + part * s_.heads;
      for (int64_t i = first; i < last; ++i) Gradients(args, maps, {i / s_.t, i % s_.t}, sum, slopes);
    });
    if (want_sums_) AddShares(args, sums);
  }

 private:
  void Gradients(const xh_tensor* args, const float* maps, Token token, float* sum, float* slopes) const {
    const int64_t d = s_.d, group = s_.heads / s_.kv_heads;
    for (int64_t h = 0; h < s_.heads; ++h) {
      const float* const gradient = Place<float>(args, kDo, token, h);
      const float o = *Place<float>(args, kO, token, h);
      slopes[h] = gradient == nullptr ? 0.0f : *gradient * o * (1.0f - o);
    }
    for (int64_t h = 0; h < s_.heads; ++h) {
      const int64_t kv = h / group;
      if (want_sums_) {
        float* const rows = sum + h * 3 * d;
        AddRow(Place<T>(args, kQ, token, h), slopes[h], rows);
        AddRow(Place<T>(args, kK, token, kv), slopes[h], rows + d);
        AddRow(Place<T>(args, kV, token, kv), slopes[h], rows + 2 * d);
        sum[s_.heads * 3 * d + h] += slopes[h];
      }
      Spread(Place<T>(args, kDq, token, h), maps + h * 3 * d, slopes + h, 1, Accumulates(args_[kDq]));
    }
    for (int64_t kv = 0; kv < s_.kv_heads; ++kv) {
      const float* const w = maps + kv * group * 3 * d;
      Spread(Place<T>(args, kDk, token, kv), w + d, slopes + kv * group, group, Accumulates(args_[kDk]));
      Spread(Place<T>(args, kDv, token, kv), w + 2 * d, slopes + kv * group, group, Accumulates(args_[kDv]));
    }
  }

  void AddRow(const T* row, float g, float* sum) const {
    ForLanes(s_.d, [&](int64_t i, auto lanes) { Put(sum + i, Get(sum + i, lanes) + g * Get(row + i, lanes), lanes); });
  }

  // to (+)= sum over `heads` heads of g_h w_h; rows of w are 3d apart.
  void Spread(T* to, const float* w, const float* g, int64_t heads, bool add) const {
    if (to == nullptr) return;
    ForLanes(s_.d, [&](int64_t i, auto lanes) {
      Vec total = {};
      for (int64_t h = 0; h < heads; ++h) total = total + g[h] * Get(w + h * 3 * s_.d + i, lanes);
      PutGradient(to + i, total, add, lanes);
    });
  }

  void AddShares(const xh_tensor* args, const float* sums) const {
    const int64_t width = 3 * s_.d;
    const auto add = [&](const xh_tensor& layout, float* to, int64_t offset, int64_t n) {
      ForLanes(n, [&](int64_t i, auto lanes) {
        Vec total = {};
        for (int p = 0; p < parts_; ++p) total = total + Get(sums + p * sum_floats_ + offset + i, lanes);
        PutGradient(to + i, total, Accumulates(layout), lanes);
      });
    };
    for (int64_t h = 0; h < s_.heads && Present(args_[kDw]); ++h) {
      add(args_[kDw], static_cast<float*>(args[kDw].data) + h * args_[kDw].stride[0], h * width, width);
    }
    if (Present(args_[kDb])) add(args_[kDb], static_cast<float*>(args[kDb].data), s_.heads * width, s_.heads);
  }

  bool want_sums_ = false;
  int64_t sum_floats_ = 0, sums_ = 0, slopes_ = 0;
};

}  // namespace

Refusal OpenHeadGate(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  const Refusal refusal = backend::CheckHeadGate(request, &dims);
  if (refusal.code != 0) return refusal;
  const Sizes sizes(dims);
  WithType(dims.activation, [&](auto t) {
    using T = decltype(t);
    if (request.pass == XH_BACKWARD) {
      *out = std::make_unique<GateBackward<T>>(request, sizes);
    } else {
      *out = std::make_unique<GateForward<T>>(request, sizes);
    }
  });
  return {};
}

}  // namespace xh::cpu::XH_ISA
