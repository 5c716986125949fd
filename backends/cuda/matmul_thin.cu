// Products of a few rows: how the work is laid out, and launches of the kernel.
#include <algorithm>

#include "backends/cuda/matmul.h"
#include "backends/cuda/matmul_thin.cuh"

namespace xh::gpu {
namespace {

using thin::kWarps;

constexpr int kSharedBudget = 200 << 10;

// Rows of w that a team takes at a time: more make less traffic of x from shared memory.
constexpr int kMostRowsOfW = 4;
constexpr int RowsFor(int m) { return m > 2 ? kMostRowsOfW : 2; }
// Packs of a row under way in a thread: what registers allow. For one row 6 of them took 3.80 ms for the products of an
// 8B model's token on an H200, 4 and 8 of them 3.88 and 3.83, one run each: 6 and 8 are the same to within its noise.
constexpr int StepsFor(int m) { return m > 4 ? 1 : m > 2 ? 2 : m > 1 ? 4 : 6; }

int PaddedRows(int64_t m) { return m <= 1 ? 1 : m <= 2 ? 2 : m <= 4 ? 4 : 8; }

// Calls body(kernel) for the dtype of w and the number of rows of x.
template <class Body>
void WithKernel(xh_dtype w, int padded, Body body) {
  WithType(w, [&](auto t) {
    using T = decltype(t);
    switch (padded) {
      case 1:
        return body(thin::Kernel<T, 1, RowsFor(1), StepsFor(1)>);
      case 2:
        return body(thin::Kernel<T, 2, RowsFor(2), StepsFor(2)>);
      case 4:
        return body(thin::Kernel<T, 4, RowsFor(4), StepsFor(4)>);
      default:
        return body(thin::Kernel<T, 8, RowsFor(8), StepsFor(8)>);
    }
  });
}

int64_t PackOf(xh_dtype dtype) { return dtype == XH_BF16 ? 8 : 4; }
int64_t BytesOf(xh_dtype dtype) { return dtype == XH_BF16 ? 2 : 4; }

// Whether four neighbours may be loaded as one, in each of `rows` rows.
bool InFours(const void* data, int64_t leading, int64_t rows, xh_dtype dtype) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(4 * BytesOf(dtype)) == 0 &&
         (rows == 1 || leading % 4 == 0);
}

// Part of a matrix, from `row` on.
const void* RowOf(const void* data, int64_t row, int64_t leading, xh_dtype dtype) {
  return data == nullptr ? nullptr : static_cast<const char*>(data) + row * leading * BytesOf(dtype);
}

}  // namespace

bool ThinGemm::Fits(const GemmShape& s) {
  constexpr int64_t kMostDepth = 1 << 24, kMostColumns = 1 << 30;
  const int64_t pack = PackOf(s.b);
  return !s.a_transposed && s.b_transposed && !s.accumulate && s.rows > 0 && s.columns >= kMostRowsOfW &&
         s.columns <= kMostColumns && s.depth <= kMostDepth && s.depth % pack == 0 && s.b_leading % pack == 0;
}

ThinGemm::Layout ThinGemm::LayOut(int64_t rows_of_a, int budget, const Facts& facts) const {
  const int padded = PaddedRows(rows_of_a), rows = RowsFor(padded);
  const int64_t batch = kWarp * PackOf(shape_.b) * StepsFor(padded), batches = (shape_.depth + batch - 1) / batch;
  const int64_t kept = extras_.gated ? rows / 2 : rows, most = budget / (padded * 4);
  const int64_t columns = extras_.gated ? shape_.columns / 2 : shape_.columns;
  Layout layout = {padded, 0, 1, 0, (columns + kept - 1) / kept};
  while (layout.team < kWarps && layout.team < batches && 2 * layout.team * batch <= most &&
         layout.items * layout.team < int64_t{facts.multiprocessors} * kWarps * 3 / 4) {
    layout.team *= 2;
  }
  layout.blocks = static_cast<int>(std::min<int64_t>(facts.multiprocessors, layout.items));
  layout.chunk =
      static_cast<int>(shape_.depth <= most ? shape_.depth : most / (layout.team * batch) * (layout.team * batch));
  return layout;
}

Refusal ThinGemm::Open(const GemmShape& shape, const ThinExtras& extras, const Facts& facts) {
  shape_ = shape;
  extras_ = extras;
  // One limit for all plans: a kernel keeps the last it was given. 4 KiB are left for the shares of teams.
  const int budget = std::min(kSharedBudget, facts.shared_bytes - (4 << 10));
  eights_ = LayOut(std::min(shape.rows, kRows), budget, facts);
  rest_ = LayOut((shape.rows - 1) % kRows + 1, budget, facts);
  Refusal refusal;
  for (const Layout& layout : {eights_, rest_}) {
    WithKernel(shape.b, layout.padded, [&](auto kernel) { refusal = AllowShared(kernel, budget, facts); });
    if (refusal.code != 0) return refusal;
  }
  return refusal;
}

void ThinGemm::Run(const Launch& launch, const ThinPointers& pointers) const {
  const GemmShape& s = shape_;
  for (int64_t row = 0; row < s.rows; row += kRows) {
    const Layout& layout = row + kRows <= s.rows ? eights_ : rest_;
    const int64_t rows = std::min(kRows, s.rows - row), n = extras_.gated ? s.columns / 2 : s.columns;
    thin::Args args = {};
    args.x = RowOf(pointers.a, row, s.a_leading, s.a);
    args.w = pointers.b;
    args.bias = pointers.bias;
    args.norm = pointers.norm;
    args.residual = RowOf(pointers.residual, row, extras_.residual_leading, extras_.residual);
    args.y = const_cast<void*>(RowOf(pointers.d, row, s.d_leading, s.d));
    args.x_leading = s.a_leading;
    args.w_leading = s.b_leading;
    args.y_leading = s.d_leading;
    args.residual_leading = extras_.residual_leading;
    args.jump = (extras_.gated ? n : RowsFor(layout.padded) / 2) * s.b_leading;
    args.items = static_cast<int>(layout.items);
    args.n = static_cast<int>(n);
    args.m = static_cast<int>(rows);
    args.k = static_cast<int>(s.depth);
    args.team = layout.team;
    args.chunk = layout.chunk;
    args.eps = extras_.eps;
    args.x_dtype = s.a;
    args.bias_dtype = s.bias;
    args.norm_dtype = extras_.norm;
    args.residual_dtype = extras_.residual;
    args.y_dtype = s.d;
    args.x_in_fours = InFours(args.x, s.a_leading, rows, s.a);
    args.gated = extras_.gated;
    args.constants = extras_.constants;
    WithKernel(s.b, layout.padded, [&](auto kernel) {
      LaunchEarly(launch, kernel, static_cast<unsigned>(layout.blocks), thin::kThreads,
                  int64_t{layout.chunk} * layout.padded * 4, args);
    });
  }
}

}  // namespace xh::gpu
