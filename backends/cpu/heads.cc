// MIX and SELECT_HEADS: tensors [B,H,T,d] of which only some heads take part.
#include <algorithm>
#include <vector>

#include "backends/cpu/ops.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"
#include "backends/cpu/simd.h"

namespace xh::cpu::XH_ISA {
namespace {

struct Token {
  int64_t b, t;
};

// Element (b, h, t, 0) of an argument whose layout is [B,H,T(,d)]; null when it is absent.
template <class U>
U* Place(const xh_tensor& layout, const xh_tensor& arg, Token token, int64_t h) {
  if (!Present(layout)) return nullptr;
  return static_cast<U*>(arg.data) + token.b * layout.stride[0] + h * layout.stride[1] + token.t * layout.stride[2];
}

// Where a head stands in a list: places [first, last), most often one or none.
struct Places {
  int64_t first, last;
};
std::vector<Places> PlacesInList(const std::vector<int32_t>& list, int64_t heads) {
  std::vector<Places> places;
  const int64_t count = static_cast<int64_t>(list.size());
  for (int64_t head = 0, at = 0; head < heads; ++head) {
    const int64_t first = at;
    while (at < count && list[at] == head) ++at;
    places.push_back({first, at});
  }
  return places;
}

// h = o x + (1 - o) y with one o a head and token; do = sum over d of dh (x - y). Heads without o are y's.
template <class T>
class MixPlan final : public Plan {
 public:
  MixPlan(const Request& request, const Dims& dims, std::vector<Places> places)
      : args_(request.args),
        places_(std::move(places)),
        t_(dims['T']),
        d_(dims['d']),
        tokens_(dims['B'] * t_),
        parts_(Parts(request.threads, tokens_, tokens_ * dims['H'] * d_)),
        backward_(request.pass == XH_BACKWARD) {
    implementation = "vector";
  }

  void Run(const xh_tensor* args, void*, void*) const override {
    RunParts(parts_, tokens_, [&](int64_t first, int64_t last, int) {
      for (int64_t i = first; i < last; ++i) {
        for (size_t h = 0; h < places_.size(); ++h) Head(args, {i / t_, i % t_}, static_cast<int64_t>(h));
      }
    });
  }

 private:
  enum { kO, kX, kY, kH, kDh, kDo, kDx, kDy };

  template <class U>
  U* At(const xh_tensor* args, int index, Token token, int64_t h) const {
    return Place<U>(args_[index], args[index], token, h);
  }

  void Head(const xh_tensor* args, Token token, int64_t h) const {
    if (places_[h].first == places_[h].last) return Pass(args, token, h);
    const int64_t mixed = places_[h].first;
    const float o = *At<float>(args, kO, token, mixed);
    const T *x = At<T>(args, kX, token, mixed), *y = At<T>(args, kY, token, h);
    if (backward_) return Backward(args, token, h, o, x, y);
    T* const out = At<T>(args, kH, token, h);
    ForLanes(d_, [&](int64_t j, auto lanes) {
      Put(out + j, o * Get(x + j, lanes) + (1.0f - o) * Get(y + j, lanes), lanes);
    });
  }

  // A head of y alone.
  void Pass(const xh_tensor* args, Token token, int64_t h) const {
    const T* const from = At<T>(args, backward_ ? kDh : kY, token, h);
    T* const to = At<T>(args, backward_ ? kDy : kH, token, h);
    if (to == nullptr) return;
    ForLanes(d_, [&](int64_t j, auto lanes) {
      const Vec value = from == nullptr ? Vec{} : Get(from + j, lanes);
      PutGradient(to + j, value, backward_ && Accumulates(args_[kDy]), lanes);
    });
  }

  void Backward(const xh_tensor* args, Token token, int64_t h, float o, const T* x, const T* y) const {
    const int64_t mixed = places_[h].first;
    const T* const dh = At<T>(args, kDh, token, h);
    T *dx = At<T>(args, kDx, token, mixed), *dy = At<T>(args, kDy, token, h);
    Vec dot = {};
    ForLanes(d_, [&](int64_t j, auto lanes) {
      const Vec g = dh == nullptr ? Vec{} : Get(dh + j, lanes);
      if (dx != nullptr) PutGradient(dx + j, o * g, Accumulates(args_[kDx]), lanes);
      if (dy != nullptr) PutGradient(dy + j, (1.0f - o) * g, Accumulates(args_[kDy]), lanes);
      dot = dot + g * (Get(x + j, lanes) - Get(y + j, lanes));
    });
    if (float* target = At<float>(args, kDo, token, mixed)) {
      *target = Sum(dot) + (Accumulates(args_[kDo]) ? *target : 0.0f);
    }
  }

  std::vector<xh_tensor> args_;
  std::vector<Places> places_;
  int64_t t_, d_, tokens_;
  int parts_;
  bool backward_;
};

// y's heads are some of x's; dx of a head is the sum over where it stands.
template <class T>
class SelectPlan final : public Plan {
 public:
  SelectPlan(const Request& request, const Dims& dims, std::vector<Places> places)
      : args_(request.args),
        places_(std::move(places)),
        t_(dims['T']),
        d_(dims['d']),
        tokens_(dims['B'] * t_),
        parts_(Parts(request.threads, tokens_, tokens_ * dims['U'] * d_)),
        backward_(request.pass == XH_BACKWARD) {
    implementation = "vector";
  }

  void Run(const xh_tensor* args, void*, void*) const override {
    if (!Present(args_[backward_ ? kDx : kY])) return;
    RunParts(parts_, tokens_, [&](int64_t first, int64_t last, int) {
      for (int64_t i = first; i < last; ++i) {
        for (size_t u = 0; u < places_.size(); ++u) {
          backward_ ? Backward(args, {i / t_, i % t_}, static_cast<int64_t>(u))
                    : Forward(args, {i / t_, i % t_}, static_cast<int64_t>(u));
        }
      }
    });
  }

 private:
  enum { kX, kY, kDy, kDx };

  void Forward(const xh_tensor* args, Token token, int64_t u) const {
    const T* const x = Place<T>(args_[kX], args[kX], token, u);
    for (int64_t place = places_[u].first; place < places_[u].last; ++place) {
      T* const y = Place<T>(args_[kY], args[kY], token, place);
      ForLanes(d_, [&](int64_t j, auto lanes) { Put(y + j, Get(x + j, lanes), lanes); });
    }
  }

  void Backward(const xh_tensor* args, Token token, int64_t u) const {
    T* const dx = Place<T>(args_[kDx], args[kDx], token, u);
    ForLanes(d_, [&](int64_t j, auto lanes) {
      Vec sum = {};
      for (int64_t place = places_[u].first; place < places_[u].last; ++place) {
        const T* const dy = Place<T>(args_[kDy], args[kDy], token, place);
        if (dy != nullptr) sum = sum + Get(dy + j, lanes);
      }
      PutGradient(dx + j, sum, Accumulates(args_[kDx]), lanes);
    });
  }

  std::vector<xh_tensor> args_;
  std::vector<Places> places_;
  int64_t t_, d_, tokens_;
  int parts_;
  bool backward_;
};

}  // namespace

Refusal OpenMix(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  std::vector<int32_t> heads;
  const Refusal refusal = backend::CheckMix(request, &dims, &heads);
  if (refusal.code != 0) return refusal;
  const std::vector<Places> places = PlacesInList(heads, dims['H']);
  WithType(dims.activation, [&](auto t) { *out = std::make_unique<MixPlan<decltype(t)>>(request, dims, places); });
  return {};
}

Refusal OpenSelectHeads(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  std::vector<int32_t> heads;
  const Refusal refusal = backend::CheckSelectHeads(request, &dims, &heads);
  if (refusal.code != 0) return refusal;
  const std::vector<Places> places = PlacesInList(heads, dims['U']);
  WithType(dims.activation, [&](auto t) { *out = std::make_unique<SelectPlan<decltype(t)>>(request, dims, places); });
  return {};
}

}  // namespace xh::cpu::XH_ISA
