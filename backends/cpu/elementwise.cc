// ADD and SWIGLU.
#include "backends/cpu/ops.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"

namespace xh::cpu::XH_ISA {
namespace {

// Row m of argument i; null when it is absent.
template <class T>
T* RowOf(const std::vector<xh_tensor>& layout, const xh_tensor* args, int i, int64_t m) {
  return Present(layout[i]) ? static_cast<T*>(args[i].data) + m * layout[i].stride[0] : nullptr;
}

template <class T>
class AddPlan final : public Plan {
 public:
  AddPlan(const Request& request, const Dims& dims)
      : args_(request.args),
        m_(dims['M']),
        d_(dims['D']),
        parts_(Parts(request.threads, m_, m_ * d_)),
        backward_(request.pass == XH_BACKWARD) {
    implementation = "vector";
  }

  void Run(const xh_tensor* args, void*, void*) const override {
    RunParts(parts_, m_, [&](int64_t first, int64_t last, int) {
      for (int64_t m = first; m < last; ++m) {
        if (backward_) {
          for (int i : {kDa, kDb}) Pass(RowOf<T>(args_, args, kDy, m), RowOf<T>(args_, args, i, m), i);
        } else {
          const T *a = RowOf<T>(args_, args, kA, m), *b = RowOf<T>(args_, args, kB, m);
          T* const y = RowOf<T>(args_, args, kY, m);
          ForLanes(d_, [&](int64_t i, auto lanes) { Put(y + i, Get(a + i, lanes) + Get(b + i, lanes), lanes); });
        }
      }
    });
  }

 private:
  enum { kA, kB, kY, kDy, kDa, kDb };

  void Pass(const T* dy, T* dx, int index) const {
    if (dx == nullptr) return;
    const bool add = Accumulates(args_[index]);
    ForLanes(d_, [&](int64_t i, auto lanes) {
      PutGradient(dx + i, dy == nullptr ? Vec{} : Get(dy + i, lanes), add, lanes);
    });
  }

  std::vector<xh_tensor> args_;
  int64_t m_, d_;
  int parts_;
  bool backward_;
};

template <class T>
class SwigluPlan final : public Plan {
 public:
  SwigluPlan(const Request& request, const Dims& dims)
      : args_(request.args),
        m_(dims['M']),
        f_(dims['F']),
        parts_(Parts(request.threads, m_, 4 * m_ * f_)),
        backward_(request.pass == XH_BACKWARD) {
    implementation = "vector";
  }

  void Run(const xh_tensor* args, void*, void*) const override {
    RunParts(parts_, m_, [&](int64_t first, int64_t last, int) {
      for (int64_t m = first; m < last; ++m) {
        const T *gate = RowOf<T>(args_, args, kGate, m), *up = RowOf<T>(args_, args, kUp, m);
        if (backward_) {
          Backward(gate, up, RowOf<T>(args_, args, kDy, m), RowOf<T>(args_, args, kDgate, m),
                   RowOf<T>(args_, args, kDup, m));
        } else {
          T* const y = RowOf<T>(args_, args, kY, m);
          ForLanes(f_, [&](int64_t i, auto lanes) {
            const Vec g = Get(gate + i, lanes);
            Put(y + i, g * Sigmoid(g) * Get(up + i, lanes), lanes);
          });
        }
      }
    });
  }

 private:
  enum { kGate, kUp, kY, kDy, kDgate, kDup };

  void Backward(const T* gate, const T* up, const T* dy, T* dgate, T* dup) const {
    const bool add_gate = Accumulates(args_[kDgate]), add_up = Accumulates(args_[kDup]);
    ForLanes(f_, [&](int64_t i, auto lanes) {
      const Vec g = Get(gate + i, lanes), v = dy == nullptr ? Vec{} : Get(dy + i, lanes);
      const Vec s = Sigmoid(g);
      if (dup != nullptr) PutGradient(dup + i, v * g * s, add_up, lanes);
      if (dgate != nullptr) {
        PutGradient(dgate + i, v * Get(up + i, lanes) * s * (1.0f + g * (1.0f - s)), add_gate, lanes);
      }
    });
  }

  std::vector<xh_tensor> args_;
  int64_t m_, f_;
  int parts_;
  bool backward_;
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

}  // namespace xh::cpu::XH_ISA
