// CAST and FILL: tensors of any rank and any strides.
#include "backends/cuda/ops.h"
#include "backends/cuda/rows.cuh"

namespace xh::gpu {
namespace {

bool IsFloat(xh_dtype dtype) { return dtype == XH_F32 || dtype == XH_BF16; }

// Both tensors of a copy as nested loops: dimensions of size 1 dropped, neighbours joined where both sides allow it.
struct Walk {
  int rank = 0;
  int64_t total = 1;
  int64_t size[XH_MAX_RANK], to[XH_MAX_RANK], from[XH_MAX_RANK];

  Walk() = default;
  Walk(const xh_tensor& a, const xh_tensor& b) {
    for (int i = 0; i < a.rank; ++i) {
      total *= a.shape[i];
      if (a.shape[i] != 1) Append(a.shape[i], a.stride[i], b.stride[i]);
    }
  }
  bool flat() const { return rank == 0 || (rank == 1 && to[0] == 1 && from[0] == 1); }

  // Offsets in elements of element `index`.
  __device__ void Find(int64_t index, int64_t* at_to, int64_t* at_from) const {
    *at_to = *at_from = 0;
    for (int i = rank - 1; i >= 0; --i) {
      const int64_t place = index % size[i];
      *at_to += place * to[i];
      *at_from += place * from[i];
      index /= size[i];
    }
  }

 private:
  void Append(int64_t n, int64_t to_stride, int64_t from_stride) {
    if (rank > 0 && to[rank - 1] == n * to_stride && from[rank - 1] == n * from_stride) {
      size[rank - 1] *= n;
      to[rank - 1] = to_stride;
      from[rank - 1] = from_stride;
      return;
    }
    size[rank] = n;
    to[rank] = to_stride;
    from[rank] = from_stride;
    ++rank;
  }
};

// from NULL: zero, or nothing where it is added.
template <class TTo, class TFrom>
__global__ void __launch_bounds__(kRowThreads) CastStrided(TTo* to, const TFrom* from, Walk walk, bool adds) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (index >= walk.total) return;
  int64_t at_to, at_from;
  walk.Find(index, &at_to, &at_from);
  PutGradient(to + at_to, from == nullptr ? 0.0f : ToFloat(from[at_from]), adds);
}

template <class TTo, class TFrom, int N>
struct CastFlat {
  TTo* to;
  const TFrom* from;
  bool adds;
  __device__ void operator()(int64_t row, int) const {
    float value[N];
    LoadPack<TFrom, N>(from + row * N, value);
    StoreGradient<TTo, N>(to + row * N, value, adds);
  }
};

template <class T>
__global__ void __launch_bounds__(kRowThreads) MoveStrided(T* to, const T* from, Walk walk) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (index >= walk.total) return;
  int64_t at_to, at_from;
  walk.Find(index, &at_to, &at_from);
  to[at_to] = from == nullptr ? T{} : from[at_from];
}

class CastPlan final : public Plan {
 public:
  CastPlan(const xh_tensor& from, const xh_tensor& to, int from_index, int to_index)
      : from_(from), to_(to), from_index_(from_index), to_index_(to_index) {
    if (Present(to)) walk_ = Walk(to, Present(from) ? from : to);
    implementation = "packs";
  }

  void Run(const Launch& launch) const override {
    if (!Present(to_) || walk_.total == 0) return;
    void* const to = launch.args[to_index_].data;
    const void* const from = Present(from_) ? launch.args[from_index_].data : nullptr;
    if (IsFloat(to_.dtype)) {
      WithType(to_.dtype, [&](auto a) {
        WithType(Present(from_) ? from_.dtype : XH_F32, [&](auto b) {
          Convert(launch, static_cast<decltype(a)*>(to), static_cast<const decltype(b)*>(from));
        });
      });
      return;
    }
    switch (backend::ElementBytes(to_.dtype)) {
      case 1:
        return Move<uint8_t>(launch.stream, to, from);
      case 2:
        return Move<uint16_t>(launch.stream, to, from);
      case 4:
        return Move<uint32_t>(launch.stream, to, from);
      default:
        return Move<uint64_t>(launch.stream, to, from);
    }
  }

 private:
  template <class TTo, class TFrom>
  void Convert(const Launch& launch, TTo* to, const TFrom* from) const {
    constexpr int kEach = 8;
    const bool adds = Accumulates(to_);
    if (from == nullptr && adds) return;
    const auto aligned = [](const auto* p) { return reinterpret_cast<uintptr_t>(p) % (sizeof(*p) * kEach) == 0; };
    if (from != nullptr && walk_.flat() && walk_.total % kEach == 0 && aligned(to) && aligned(from)) {
      ForPacks<1>(launch, walk_.total / kEach, 1, CastFlat<TTo, TFrom, kEach>{to, from, adds});
      return;
    }
    CastStrided<<<Blocks(walk_.total, kRowThreads), kRowThreads, 0, launch.stream>>>(to, from, walk_, adds);
  }
  template <class T>
  void Move(gpuStream_t stream, void* to, const void* from) const {
    MoveStrided<<<Blocks(walk_.total, kRowThreads), kRowThreads, 0, stream>>>(static_cast<T*>(to),
                                                                              static_cast<const T*>(from), walk_);
  }

  xh_tensor from_, to_;
  int from_index_, to_index_;
  Walk walk_;
};

template <class T>
__global__ void __launch_bounds__(kRowThreads) FillStrided(T* to, T value, Walk walk) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (index >= walk.total) return;
  int64_t at_to, at_from;
  walk.Find(index, &at_to, &at_from);
  to[at_to] = value;
}

template <class T, int N>
struct FillFlat {
  T* to;
  Pack<T, N> pack;
  __device__ void operator()(int64_t row, int) const { reinterpret_cast<Pack<T, N>*>(to)[row] = pack; }
};

class FillPlan final : public Plan {
 public:
  FillPlan(const xh_tensor& to, float value) : to_(to), walk_(to, to), value_(value) { implementation = "packs"; }

  void Run(const Launch& launch) const override {
    if (walk_.total == 0) return;
    if (to_.dtype == XH_I32) {
      Fill(launch, static_cast<int32_t>(value_));
    } else {
      WithType(to_.dtype, [&](auto t) { Fill(launch, FromFloat<decltype(t)>(value_)); });
    }
  }

 private:
  template <class T>
  void Fill(const Launch& launch, T value) const {
    constexpr int N = kPack<T>;
    T* const to = static_cast<T*>(launch.args[0].data);
    if (walk_.flat() && walk_.total % N == 0 && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
      FillFlat<T, N> body = {to, {}};
      for (T& each : body.pack.value) each = value;
      ForPacks<1>(launch, walk_.total / N, 1, body);
      return;
    }
    FillStrided<<<Blocks(walk_.total, kRowThreads), kRowThreads, 0, launch.stream>>>(to, value, walk_);
  }

  xh_tensor to_;
  Walk walk_;
  float value_;
};

}  // namespace

Refusal OpenCast(const Request& request, std::unique_ptr<Plan>* out) {
  const Refusal refusal = backend::CheckCast(request);
  if (refusal.code != 0) return refusal;
  const bool backward = request.pass == XH_BACKWARD;
  const int from = backward ? 2 : 0, to = backward ? 3 : 1;
  *out = std::make_unique<CastPlan>(request.args[from], request.args[to], from, to);
  return {};
}

Refusal OpenFill(const Request& request, std::unique_ptr<Plan>* out) {
  xh_fill_params params = {};
  const Refusal refusal = backend::CheckFill(request, &params);
  if (refusal.code != 0) return refusal;
  *out = std::make_unique<FillPlan>(request.args[0], params.value);
  return {};
}

}  // namespace xh::gpu
