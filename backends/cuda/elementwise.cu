// ADD and SWIGLU.
#include <array>
#include <initializer_list>

#include "backends/cuda/ops.h"
#include "backends/cuda/rows.cuh"

namespace xh::gpu {
namespace {

bool AllMoveInPacks(const xh_tensor* args, std::initializer_list<int> slots) {
  return std::all_of(slots.begin(), slots.end(), [&](int slot) { return MovesInPacks(args[slot]); });
}

// ---- ADD ----

template <class T, int N>
struct AddBody {
  View<const T> a, b;
  View<T> y;
  __device__ void operator()(int64_t row, int column) const {
    float left[N], right[N];
    LoadPack<T, N>(a.At(row) + column, left);
    LoadPack<T, N>(b.At(row) + column, right);
#pragma unroll
    for (int i = 0; i < N; ++i) left[i] += right[i];
    StorePack<T, N>(y.At(row) + column, left);
  }
};

// da = dy and db = dy.
template <class T, int N>
struct AddGradientBody {
  View<const T> dy;
  View<T> da, db;
  bool adds_a, adds_b;
  __device__ void operator()(int64_t row, int column) const {
    float gradient[N] = {};
    if (dy.present()) LoadPack<T, N>(dy.At(row) + column, gradient);
    if (da.present()) StoreGradient<T, N>(da.At(row) + column, gradient, adds_a);
    if (db.present()) StoreGradient<T, N>(db.At(row) + column, gradient, adds_b);
  }
};

template <class T>
class AddPlan final : public Plan {
 public:
  AddPlan(const Request& request, const Dims& dims)
      : backward_(request.pass == XH_BACKWARD), m_(dims['M']), d_(dims['D']) {
    if (backward_) adds_ = {Accumulates(request.args[kDa]), Accumulates(request.args[kDb])};
    implementation = "packs";
  }

  void Run(const Launch& launch) const override {
    if (backward_) {
      AllMoveInPacks(launch.args, {kDy, kDa, kDb}) ? Backward<kPack<T>>(launch) : Backward<1>(launch);
    } else {
      AllMoveInPacks(launch.args, {kA, kB, kY}) ? Forward<kPack<T>>(launch) : Forward<1>(launch);
    }
  }

 private:
  enum { kA, kB, kY, kDy, kDa, kDb };

  template <int N>
  void Forward(const Launch& launch) const {
    const xh_tensor* const args = launch.args;
    ForPacks<N>(launch, m_, d_,
                AddBody<T, N>{ViewOf<const T>(args[kA]), ViewOf<const T>(args[kB]), ViewOf<T>(args[kY])});
  }
  template <int N>
  void Backward(const Launch& launch) const {
    const xh_tensor* const args = launch.args;
    ForPacks<N>(launch, m_, d_,
                AddGradientBody<T, N>{ViewOf<const T>(args[kDy]), ViewOf<T>(args[kDa]), ViewOf<T>(args[kDb]), adds_[0],
                                      adds_[1]});
  }

  bool backward_;
  int64_t m_, d_;
  std::array<bool, 2> adds_ = {};
};

// ---- SWIGLU ----

__device__ inline float Sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

template <class T, int N>
struct SwigluBody {
  View<const T> gate, up;
  View<T> y;
  __device__ void operator()(int64_t row, int column) const {
    float g[N], u[N];
    LoadPack<T, N>(gate.At(row) + column, g);
    LoadPack<T, N>(up.At(row) + column, u);
#pragma unroll
    for (int i = 0; i < N; ++i) u[i] *= g[i] * Sigmoid(g[i]);
    StorePack<T, N>(y.At(row) + column, u);
  }
};

// With s the sigmoid: dup = dy g s, dgate = dy up s (1 + g (1 - s)).
template <class T, int N>
struct SwigluGradientBody {
  View<const T> gate, up, dy;
  View<T> dgate, dup;
  bool adds_gate, adds_up;
  __device__ void operator()(int64_t row, int column) const {
    float g[N], u[N], d[N] = {};
    LoadPack<T, N>(gate.At(row) + column, g);
    LoadPack<T, N>(up.At(row) + column, u);
    if (dy.present()) LoadPack<T, N>(dy.At(row) + column, d);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float s = Sigmoid(g[i]), slope = s * (1.0f + g[i] * (1.0f - s)), silu = g[i] * s;
      g[i] = dy.present() ? d[i] * u[i] * slope : 0.0f;
      u[i] = dy.present() ? d[i] * silu : 0.0f;
    }
    if (dgate.present()) StoreGradient<T, N>(dgate.At(row) + column, g, adds_gate);
    if (dup.present()) StoreGradient<T, N>(dup.At(row) + column, u, adds_up);
  }
};

template <class T>
class SwigluPlan final : public Plan {
 public:
  SwigluPlan(const Request& request, const Dims& dims)
      : backward_(request.pass == XH_BACKWARD), m_(dims['M']), f_(dims['F']) {
    if (backward_) adds_ = {Accumulates(request.args[kDgate]), Accumulates(request.args[kDup])};
    implementation = "packs";
  }

  void Run(const Launch& launch) const override {
    if (backward_) {
      const bool packs = AllMoveInPacks(launch.args, {kGate, kUp, kDy, kDgate, kDup});
      packs ? Backward<kPack<T>>(launch) : Backward<1>(launch);
    } else {
      AllMoveInPacks(launch.args, {kGate, kUp, kY}) ? Forward<kPack<T>>(launch) : Forward<1>(launch);
    }
  }

 private:
  enum { kGate, kUp, kY, kDy, kDgate, kDup };

  template <int N>
  void Forward(const Launch& launch) const {
    const xh_tensor* const args = launch.args;
    ForPacks<N>(launch, m_, f_,
                SwigluBody<T, N>{ViewOf<const T>(args[kGate]), ViewOf<const T>(args[kUp]), ViewOf<T>(args[kY])});
  }
  template <int N>
  void Backward(const Launch& launch) const {
    const xh_tensor* const args = launch.args;
    ForPacks<N>(
        launch, m_, f_,
        SwigluGradientBody<T, N>{ViewOf<const T>(args[kGate]), ViewOf<const T>(args[kUp]), ViewOf<const T>(args[kDy]),
                                 ViewOf<T>(args[kDgate]), ViewOf<T>(args[kDup]), adds_[0], adds_[1]});
  }

  bool backward_;
  int64_t m_, f_;
  std::array<bool, 2> adds_ = {};
};

}  // namespace

Refusal OpenAdd(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  const Refusal refusal = backend::CheckAdd(request, &dims);
  if (refusal.code != 0) return refusal;
  WithType(dims.activation, [&](auto t) { *out = std::make_unique<AddPlan<decltype(t)>>(request, dims); });
  return {};
}

Refusal OpenSwiglu(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  const Refusal refusal = backend::CheckSwiglu(request, &dims);
  if (refusal.code != 0) return refusal;
  WithType(dims.activation, [&](auto t) { *out = std::make_unique<SwigluPlan<decltype(t)>>(request, dims); });
  return {};
}

}  // namespace xh::gpu
