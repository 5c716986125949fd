// CAST and FILL: tensors of any rank and any strides.
#include <cstring>

#include "backends/cpu/ops.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"

namespace xh::cpu::XH_ISA {
namespace {

// Both tensors of a copy as rows: dimensions of size 1 dropped, neighbours joined where both sides allow it, the last
// one cut into pieces so that one long row is shared too.
class Walk {
 public:
  Walk() = default;
  Walk(const xh_tensor& to, const xh_tensor& from) {
    for (int i = 0; i < to.rank; ++i) {
      if (to.shape[i] == 0) total_ = 0;
      if (to.shape[i] != 1) Append(to.shape[i], to.stride[i], from.stride[i]);
    }
    if (rank_ == 0) Append(1, 1, 1);
    pieces_ = (size_[rank_ - 1] + kPiece - 1) / kPiece;
    for (int i = 0; i + 1 < rank_; ++i) total_ *= size_[i];
    total_ *= pieces_;
  }

  int64_t pieces() const { return total_; }
  int64_t work() const { return total_ * std::min(size_[rank_ - 1], kPiece); }
  int64_t to_step() const { return to_[rank_ - 1]; }
  int64_t from_step() const { return from_[rank_ - 1]; }

  // Offsets of piece `index` in elements; returns its length.
  int64_t Piece(int64_t index, int64_t* to, int64_t* from) const {
    const int64_t first = index % pieces_ * kPiece;
    index /= pieces_;
    *to = first * to_step();
    *from = first * from_step();
    for (int i = rank_ - 2; i >= 0; --i) {
      *to += index % size_[i] * to_[i];
      *from += index % size_[i] * from_[i];
      index /= size_[i];
    }
    return std::min(kPiece, size_[rank_ - 1] - first);
  }

 private:
  static constexpr int64_t kPiece = 4096;

  void Append(int64_t size, int64_t to, int64_t from) {
    if (rank_ > 0 && to_[rank_ - 1] == size * to && from_[rank_ - 1] == size * from) {
      size_[rank_ - 1] *= size;
      to_[rank_ - 1] = to;
      from_[rank_ - 1] = from;
      return;
    }
    size_[rank_] = size;
    to_[rank_] = to;
    from_[rank_] = from;
    ++rank_;
  }

  int rank_ = 0;
  int64_t size_[XH_MAX_RANK + 1], to_[XH_MAX_RANK + 1], from_[XH_MAX_RANK + 1];
  int64_t pieces_ = 0, total_ = 1;
};

// Calls body(to, from, n) with byte pointers for every piece.
template <class Body>
void ForPieces(const Walk& walk, int threads, void* to, int64_t to_bytes, const void* from, int64_t from_bytes,
               Body body) {
  RunParts(Parts(threads, walk.pieces(), walk.work()), walk.pieces(), [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) {
      int64_t at_to = 0, at_from = 0;
      const int64_t n = walk.Piece(i, &at_to, &at_from);
      body(static_cast<char*>(to) + at_to * to_bytes, static_cast<const char*>(from) + at_from * from_bytes, n);
    }
  });
}

bool IsFloat(xh_dtype dtype) { return dtype == XH_F32 || dtype == XH_BF16; }

class CastPlan final : public Plan {
 public:
  CastPlan(const xh_tensor& from, const xh_tensor& to, int from_index, int to_index, int threads)
      : from_(from), to_(to), from_index_(from_index), to_index_(to_index), threads_(threads) {
    if (Present(to)) walk_ = Walk(to, Present(from) ? from : to);
    implementation = "vector";
  }

  void Run(const xh_tensor* args, void*, void*) const override {
    if (!Present(to_)) return;
    void* const to = args[to_index_].data;
    const void* const from = Present(from_) ? args[from_index_].data : nullptr;
    if (IsFloat(to_.dtype)) {
      WithType(to_.dtype, [&](auto a) {
        WithType(Present(from_) ? from_.dtype : XH_F32, [&](auto b) { Convert<decltype(a), decltype(b)>(to, from); });
      });
    } else {
      Move(to, from);
    }
  }

 private:
  template <class TTo, class TFrom>
  void Convert(void* to, const void* from) const {
    const bool add = Accumulates(to_);
    if (from == nullptr && add) return;
    const int64_t to_step = walk_.to_step(), from_step = walk_.from_step();
    ForPieces(walk_, threads_, to, sizeof(TTo), from == nullptr ? to : from, sizeof(TFrom),
              [&](char* to_bytes, const char* from_bytes, int64_t n) {
                TTo* const y = reinterpret_cast<TTo*>(to_bytes);
                const TFrom* const x = reinterpret_cast<const TFrom*>(from_bytes);
                if (from != nullptr && to_step == 1 && from_step == 1) {
                  ForLanes(n, [&](int64_t i, auto lanes) { PutGradient(y + i, Get(x + i, lanes), add, lanes); });
                  return;
                }
                for (int64_t i = 0; i < n; ++i) {
                  const float value = from == nullptr ? 0.0f : ToFloat(x[i * from_step]);
                  y[i * to_step] = FromFloat<TTo>(add ? ToFloat(y[i * to_step]) + value : value);
                }
              });
  }

  // The same dtype on both sides, not a float one.
  void Move(void* to, const void* from) const {
    const int64_t bytes = ElementBytes(to_.dtype);
    const int64_t to_step = walk_.to_step() * bytes, from_step = walk_.from_step() * bytes;
    ForPieces(walk_, threads_, to, bytes, from, bytes, [&](char* y, const char* x, int64_t n) {
      if (to_step == bytes && from_step == bytes) {
        std::memcpy(y, x, static_cast<size_t>(n * bytes));
        return;
      }
      for (int64_t i = 0; i < n; ++i) std::memcpy(y + i * to_step, x + i * from_step, static_cast<size_t>(bytes));
    });
  }

  xh_tensor from_, to_;
  int from_index_, to_index_, threads_;
  Walk walk_;
};

class FillPlan final : public Plan {
 public:
  FillPlan(const xh_tensor& to, float value, int threads) : to_(to), threads_(threads), walk_(to, to), value_(value) {
    implementation = "vector";
  }

  void Run(const xh_tensor* args, void*, void*) const override {
    if (to_.dtype == XH_I32) {
      Fill<int32_t>(args[0].data, static_cast<int32_t>(value_));
    } else {
      WithType(to_.dtype, [&](auto t) {
        using T = decltype(t);
        Fill<T>(args[0].data, FromFloat<T>(value_));
      });
    }
  }

 private:
  template <class T>
  void Fill(void* to, T value) const {
    const int64_t step = walk_.to_step();
    ForPieces(walk_, threads_, to, sizeof(T), to, sizeof(T), [&](char* bytes, const char*, int64_t n) {
      T* const y = reinterpret_cast<T*>(bytes);
      if (step == 1) {
        std::fill(y, y + n, value);
      } else {
        for (int64_t i = 0; i < n; ++i) y[i * step] = value;
      }
    });
  }

  xh_tensor to_;
  int threads_;
  Walk walk_;
  float value_;
};

}  // namespace

Refusal OpenCast(const Request& request, std::unique_ptr<Plan>* out) {
  const Refusal refusal = backend::CheckCast(request);
  if (refusal.code != 0) return refusal;
  const bool backward = request.pass == XH_BACKWARD;
  const int from = backward ? 2 : 0, to = backward ? 3 : 1;
  *out = std::make_unique<CastPlan>(request.args[from], request.args[to], from, to, request.threads);
  return {};
}

Refusal OpenFill(const Request& request, std::unique_ptr<Plan>* out) {
  xh_fill_params params = {};
  const Refusal refusal = backend::CheckFill(request, &params);
  if (refusal.code != 0) return refusal;
  *out = std::make_unique<FillPlan>(request.args[0], params.value, request.threads);
  return {};
}

}  // namespace xh::cpu::XH_ISA
