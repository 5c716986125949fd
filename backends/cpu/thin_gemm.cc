#include "backends/cpu/thin_gemm.h"

#include "backends/cpu/micro_tile.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"

namespace xh::cpu::XH_ISA {
namespace {

// Rows of a matrix as f32, `width` apart: copied when they are bf16.
template <class T>
const float* Copied(const T* from, int64_t ld, int64_t rows, int64_t width, float* buffer) {
  for (int64_t i = 0; i < rows; ++i) {
    ForLanes(width, [&](int64_t k, auto lanes) { Put(buffer + i * width + k, Get(from + i * ld + k, lanes), lanes); });
  }
  return buffer;
}

// C = A B^T where A or B has few rows: the short side stays in cache, the long side is read once, several rows at a
// time.
template <class TShort, class TLong, class TC>
class DotGemm final : public Gemm {
 public:
  DotGemm(const GemmShape& shape, int threads) : s_(shape), threads_(threads), short_is_a_(shape.m <= kThinRows) {
    short_rows_ = static_cast<int>(short_is_a_ ? s_.m : s_.n);
    long_rows_ = short_is_a_ ? s_.n : s_.m;
    copy_ = Reserve(&scratch_bytes, short_rows_ * s_.k * 4);
    implementation = short_is_a_ ? "stream-weights" : "stream-rows";
  }

  void Run(const void* a, const void* b, const float* bias, void* c, void* scratch) const override {
    const TShort* const few = static_cast<const TShort*>(short_is_a_ ? a : b);
    const TLong* const many = static_cast<const TLong*>(short_is_a_ ? b : a);
    const float* const rows = Copied(few, short_is_a_ ? s_.lda : s_.ldb, short_rows_, s_.k, At<float>(scratch, copy_));
    const float* const shift = s_.bias ? bias : nullptr;
    RunParts(Parts(threads_, long_rows_, long_rows_ * s_.k), long_rows_, [&](int64_t first, int64_t last, int) {
      // Four long rows at a time meet all short ones, three by three: the long ones come from memory once.
      int64_t i = first;
      if (short_rows_ == 1) {  // one sum a row: more rows, so that sums do not wait for each other
        for (; i + 2 * kLongRows <= last; i += 2 * kLongRows) {
          Stripe<2 * kLongRows>(rows, many, shift, static_cast<TC*>(c), i);
        }
      }
      for (; i + kLongRows <= last; i += kLongRows) Stripe<kLongRows>(rows, many, shift, static_cast<TC*>(c), i);
      for (; i < last; ++i) Stripe<1>(rows, many, shift, static_cast<TC*>(c), i);
    });
  }

 private:
  static constexpr int kLongRows = 4;
  static constexpr int kShortRows = 3;

  template <int R>
  void Stripe(const float* few, const TLong* many, const float* bias, TC* c, int64_t i) const {
    for (int s = 0; s < short_rows_; s += kShortRows) {
      WithRows<kShortRows>(std::min(kShortRows, short_rows_ - s),
                           [&]<int S>() { Dots<S, R>(few, many, bias, c, i, s); });
    }
  }

  template <int S, int R>
  void Dots(const float* few, const TLong* many, const float* bias, TC* c, int64_t i, int first) const {
    const int64_t ld = short_is_a_ ? s_.ldb : s_.lda;
    Vec sum[S][R] = {};
    ForLanes(s_.k, [&](int64_t k, auto lanes) {
      Vec x[R];
      for (int r = 0; r < R; ++r) x[r] = Get(many + (i + r) * ld + k, lanes);
      for (int s = 0; s < S; ++s) {
        const Vec y = Get(few + (first + s) * s_.k + k, lanes);
        for (int r = 0; r < R; ++r) sum[s][r] = Fma(x[r], y, sum[s][r]);
      }
    });
    for (int s = 0; s < S; ++s) {
      for (int r = 0; r < R; ++r) {
        const int64_t m = short_is_a_ ? first + s : i + r, n = short_is_a_ ? i + r : first + s;
        TC* const target = c + m * s_.ldc + n;
        const float value = Sum(sum[s][r]) + (bias == nullptr ? 0.0f : bias[n]);
        *target = FromFloat<TC>(s_.accumulate ? ToFloat(*target) + value : value);
      }
    }
  }

  GemmShape s_;
  int threads_;
  bool short_is_a_;
  int short_rows_ = 0;
  int64_t long_rows_ = 0, copy_ = 0;
};

// C = A B with few steps of k: each row of C is a sum of few rows of B.
template <class TA, class TB, class TC>
class OuterGemm final : public Gemm {
 public:
  OuterGemm(const GemmShape& shape, int threads) : s_(shape), threads_(threads) {
    copy_ = Reserve(&scratch_bytes, s_.k * s_.n * 4);
    implementation = "outer";
  }

  void Run(const void* a, const void* b, const float* bias, void* c, void* scratch) const override {
    const float* const rows = Copied(static_cast<const TB*>(b), s_.ldb, s_.k, s_.n, At<float>(scratch, copy_));
    const float* const shift = s_.bias ? bias : nullptr;
    RunParts(Parts(threads_, s_.m, s_.m * s_.n), s_.m, [&](int64_t first, int64_t last, int) {
      WithRows<kThin>(static_cast<int>(s_.k), [&]<int K>() {
        for (int64_t m = first; m < last; ++m) {
          Row<K>(static_cast<const TA*>(a) + m * s_.lda, rows, shift, static_cast<TC*>(c) + m * s_.ldc);
        }
      });
    });
  }

 private:
  template <int K>
  void Row(const TA* a, const float* b, const float* bias, TC* c) const {
    Vec x[K];
    for (int k = 0; k < K; ++k) x[k] = Set(ToFloat(a[k]));
    ForLanes(s_.n, [&](int64_t n, auto lanes) {
      Vec sum = bias == nullptr ? Vec{} : Get(bias + n, lanes);
      for (int k = 0; k < K; ++k) sum = Fma(x[k], Get(b + k * s_.n + n, lanes), sum);
      PutGradient(c + n, sum, s_.accumulate, lanes);
    });
  }

  GemmShape s_;
  int threads_;
  int64_t copy_ = 0;
};

// C = A^T B with few rows of C and a long k: every thread sums its share of k, the shares are added in order.
template <class TA, class TB, class TC>
class GatherGemm final : public Gemm {
 public:
  GatherGemm(const GemmShape& shape, int threads) : s_(shape) {
    parts_ = Parts(threads, s_.k, s_.k * s_.n);
    floats_ = (s_.m * s_.n + 15) / 16 * 16;
    sums_ = Reserve(&scratch_bytes, parts_ * floats_ * 4);
    implementation = "gather";
  }

  void Run(const void* a, const void* b, const float* bias, void* c, void* scratch) const override {
    float* const sums = At<float>(scratch, sums_);
    RunParts(parts_, s_.k, [&](int64_t first, int64_t last, int part) {
      float* const sum = sums + part * floats_;
      std::fill(sum, sum + floats_, 0.0f);
      WithRows<kThin>(static_cast<int>(s_.m), [&]<int M>() {
        int64_t k = first;
        for (; k + kSteps <= last; k += kSteps) Steps<M, kSteps>(a, b, k, sum);
        for (; k < last; ++k) Steps<M, 1>(a, b, k, sum);
      });
    });
    for (int64_t m = 0; m < s_.m; ++m) {
      TC* const row = static_cast<TC*>(c) + m * s_.ldc;
      ForLanes(s_.n, [&](int64_t n, auto lanes) {
        Vec sum = s_.bias ? Get(bias + n, lanes) : Vec{};
        for (int part = 0; part < parts_; ++part) sum = sum + Get(sums + part * floats_ + m * s_.n + n, lanes);
        PutGradient(row + n, sum, s_.accumulate, lanes);
      });
    }
  }

 private:
  static constexpr int kSteps = 4;

  template <int M, int K>
  void Steps(const void* a, const void* b, int64_t k, float* sum) const {
    Vec x[K][M];
    for (int j = 0; j < K; ++j) {
      for (int m = 0; m < M; ++m) x[j][m] = Set(ToFloat(static_cast<const TA*>(a)[(k + j) * s_.lda + m]));
    }
    const TB* const rows = static_cast<const TB*>(b) + k * s_.ldb;
    ForLanes(s_.n, [&](int64_t n, auto lanes) {
      Vec y[K];
      for (int j = 0; j < K; ++j) y[j] = Get(rows + j * s_.ldb + n, lanes);
      for (int m = 0; m < M; ++m) {
        Vec total = Get(sum + m * s_.n + n, lanes);
        for (int j = 0; j < K; ++j) total = Fma(x[j][m], y[j], total);
        Put(sum + m * s_.n + n, total, lanes);
      }
    });
  }

  GemmShape s_;
  int parts_ = 1;
  int64_t floats_ = 0, sums_ = 0;
};

template <template <class, class, class> class G>
std::unique_ptr<Gemm> Make(xh_dtype first, xh_dtype second, const GemmShape& shape, int threads) {
  std::unique_ptr<Gemm> gemm;
  WithType(first, [&](auto a) {
    WithType(second, [&](auto b) {
      WithType(shape.c,
               [&](auto c) { gemm = std::make_unique<G<decltype(a), decltype(b), decltype(c)>>(shape, threads); });
    });
  });
  return gemm;
}

}  // namespace

std::unique_ptr<Gemm> OpenThinGemm(const GemmShape& shape, int threads) {
  if (!shape.transpose_a && shape.transpose_b) {
    if (shape.m <= kThinRows) return Make<DotGemm>(shape.a, shape.b, shape, threads);
    if (shape.n <= kThin) return Make<DotGemm>(shape.b, shape.a, shape, threads);
  }
  if (!shape.transpose_a && !shape.transpose_b && shape.k <= kThin) {
    return Make<OuterGemm>(shape.a, shape.b, shape, threads);
  }
  if (shape.transpose_a && !shape.transpose_b && shape.m <= kThin) {
    return Make<GatherGemm>(shape.a, shape.b, shape, threads);
  }
  return nullptr;
}

}  // namespace xh::cpu::XH_ISA
