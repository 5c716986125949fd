#include "backends/cpu/panel_gemm.h"

#include <algorithm>

#include "backends/cpu/micro_tile.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"

namespace xh::cpu::XH_ISA {
namespace {

constexpr int64_t kBlockRows = 12 * 8;      // rows of A that stay in the second-level cache
constexpr int64_t kBlockDepth = 512;        // a panel of B [kBlockDepth, kTileColumns] stays in the first-level cache
constexpr int64_t kPackedFloats = 1 << 20;  // most floats of B packed at once

int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// A part of op(A) as f32: element (i, k) at data[i * row + k * step].
struct Block {
  const float* data;
  int64_t row, step;
};

template <class TA, class TB, class TC>
class PanelGemm final : public Gemm {
 public:
  PanelGemm(const GemmShape& shape, int threads) : s_(shape), threads_(threads) {
    // A bf16 C is written once, so that partial sums are not rounded.
    depth_ = sizeof(TC) == 2 ? s_.k : std::min(s_.k, kBlockDepth);
    width_ = std::clamp(kPackedFloats / depth_ / kTileColumns * kTileColumns, int64_t{kTileColumns},
                        RoundUp(s_.n, kTileColumns));
    rows_ = std::clamp(kBlockRows * kBlockDepth / depth_ / kTileRows * kTileRows, int64_t{kTileRows}, kBlockRows);
    packed_ = Reserve(&scratch_bytes, depth_ * width_ * 4);
    block_floats_ = RoundUp(rows_ * depth_, 16);
    blocks_ = Reserve(&scratch_bytes, kCopiesA(shape) ? threads_ * block_floats_ * 4 : 0);
    implementation = "panel";
  }

  void Run(const void* a, const void* b, const float* bias, void* c, void* scratch) const override {
    float* const packed = At<float>(scratch, packed_);
    for (int64_t n0 = 0; n0 < s_.n; n0 += width_) {
      const int64_t width = std::min(width_, s_.n - n0);
      for (int64_t k0 = 0; k0 < s_.k; k0 += depth_) {
        const int64_t depth = std::min(depth_, s_.k - k0);
        PackB(static_cast<const TB*>(b), n0, width, k0, depth, packed);
        Multiply(static_cast<const TA*>(a), packed, bias, n0, width, k0, depth, static_cast<TC*>(c),
                 At<float>(scratch, blocks_));
      }
    }
  }

 private:
  static bool kCopiesA(const GemmShape& shape) { return shape.transpose_a || sizeof(TA) == 2; }

  // Panels of kTileColumns columns: [panel][k][column], zero past the width.
  void PackB(const TB* b, int64_t n0, int64_t width, int64_t k0, int64_t depth, float* packed) const {
    const int64_t panels = (width + kTileColumns - 1) / kTileColumns;
    RunParts(Parts(threads_, panels, width * depth), panels, [&](int64_t first, int64_t last, int) {
      for (int64_t p = first; p < last; ++p) {
        const int64_t n = n0 + p * kTileColumns;
        const int columns = static_cast<int>(std::min<int64_t>(kTileColumns, n0 + width - n));
        float* const panel = packed + p * depth * kTileColumns;
        if (s_.transpose_b) {
          PackStored(b + n * s_.ldb + k0, columns, depth, panel);
        } else {
          PackRows(b + k0 * s_.ldb + n, columns, depth, panel);
        }
      }
    });
  }

  void PackRows(const TB* b, int columns, int64_t depth, float* panel) const {
    const int low = std::min(columns, kLanes), high = columns - low;
    for (int64_t k = 0; k < depth; ++k) {
      Store(panel + k * kTileColumns, LoadPartialOrFull(b + k * s_.ldb, low));
      Store(panel + k * kTileColumns + kLanes, LoadPartialOrFull(b + k * s_.ldb + kLanes, high));
    }
  }
  static Vec LoadPartialOrFull(const TB* p, int count) { return count == kLanes ? Load(p) : LoadPartial(p, count); }

  // B stored [N,K]: a transposition, eight steps of k at a time so that both sides use whole cache lines.
  void PackStored(const TB* b, int columns, int64_t depth, float* panel) const {
    for (int64_t k = 0; k < depth; k += 8) {
      const int64_t steps = std::min<int64_t>(8, depth - k);
      for (int j = 0; j < kTileColumns; ++j) {
        for (int64_t s = 0; s < steps; ++s) {
          panel[(k + s) * kTileColumns + j] = j < columns ? ToFloat(b[j * s_.ldb + k + s]) : 0.0f;
        }
      }
    }
  }

  void Multiply(const TA* a, const float* packed, const float* bias, int64_t n0, int64_t width, int64_t k0,
                int64_t depth, TC* c, float* blocks) const {
    const int64_t tiles = (s_.m + kTileRows - 1) / kTileRows;
    const int64_t panels = (width + kTileColumns - 1) / kTileColumns;
    const int64_t work = s_.m * width * depth / 4;
    const bool by_rows = tiles >= panels;  // split the longer side
    const int64_t units = by_rows ? tiles : panels;
    RunParts(Parts(threads_, units, work), units, [&](int64_t first, int64_t last, int part) {
      float* const copy = blocks + part * block_floats_;
      const int64_t m_first = by_rows ? first * kTileRows : 0;
      const int64_t m_last = by_rows ? std::min(last * kTileRows, s_.m) : s_.m;
      const int64_t p_first = by_rows ? 0 : first, p_last = by_rows ? panels : last;
      for (int64_t m = m_first; m < m_last; m += rows_) {
        const int64_t rows = std::min(rows_, m_last - m);
        const Block block = BlockOf(a, m, rows, k0, depth, copy);
        for (int64_t p = p_first; p < p_last; ++p) {
          const int64_t n = p * kTileColumns;
          Columns(block, rows, packed + p * depth * kTileColumns, depth, k0 == 0,
                  bias == nullptr || !s_.bias ? nullptr : bias + n0 + n, c + m * s_.ldc + n0 + n,
                  static_cast<int>(std::min<int64_t>(kTileColumns, width - n)));
        }
      }
    });
  }

  Block BlockOf(const TA* a, int64_t m, int64_t rows, int64_t k0, int64_t depth, float* copy) const {
    if (s_.transpose_a) {  // stored [K,M]: rows of the copy are steps of k
      for (int64_t k = 0; k < depth; ++k) {
        const TA* const from = a + (k0 + k) * s_.lda + m;
        ForLanes(rows, [&](int64_t i, auto lanes) { Put(copy + k * rows + i, Get(from + i, lanes), lanes); });
      }
      return {copy, 1, rows};
    }
    const TA* const from = a + m * s_.lda + k0;
    if constexpr (sizeof(TA) == 4) {
      return {from, s_.lda, 1};
    } else {
      for (int64_t i = 0; i < rows; ++i) AsFloat(from + i * s_.lda, depth, copy + i * depth);
      return {copy, depth, 1};
    }
  }

  // One panel's columns of C for the rows of a block.
  void Columns(const Block& block, int64_t rows, const float* panel, int64_t depth, bool first, const float* bias,
               TC* c, int columns) const {
    const bool add = !first || s_.accumulate;
    const float* const shift = first ? bias : nullptr;
    for (int64_t i = 0; i < rows; i += kTileRows) {
      WithRows(static_cast<int>(std::min<int64_t>(kTileRows, rows - i)), [&]<int R>() {
        const Tile<R> tile =
            MultiplyTile<R>(block.data + i * block.row, block.row, block.step, panel, kTileColumns, depth);
        for (int r = 0; r < R; ++r) {
          TC* const row = c + (i + r) * s_.ldc;
          if (columns == kTileColumns) {
            Finish(row, tile.at[r][0], shift, add, Full{});
            Finish(row + kLanes, tile.at[r][1], shift == nullptr ? nullptr : shift + kLanes, add, Full{});
            continue;
          }
          Finish(row, tile.at[r][0], shift, add, Part{std::min(columns, kLanes)});
          if (columns > kLanes) {
            Finish(row + kLanes, tile.at[r][1], shift == nullptr ? nullptr : shift + kLanes, add,
                   Part{columns - kLanes});
          }
        }
      });
    }
  }

  template <class Lanes>
  static void Finish(TC* c, Vec sum, const float* bias, bool add, Lanes lanes) {
    if (bias != nullptr) sum = sum + Get(bias, lanes);
    PutGradient(c, sum, add, lanes);
  }

  GemmShape s_;
  int threads_;
  int64_t depth_, width_, rows_, block_floats_;
  int64_t packed_ = 0, blocks_ = 0;
};

}  // namespace

std::unique_ptr<Gemm> OpenPanelGemm(const GemmShape& shape, int threads) {
  std::unique_ptr<Gemm> gemm;
  WithType(shape.a, [&](auto a) {
    WithType(shape.b, [&](auto b) {
      WithType(shape.c, [&](auto c) {
        gemm = std::make_unique<PanelGemm<decltype(a), decltype(b), decltype(c)>>(shape, threads);
      });
    });
  });
  return gemm;
}

}  // namespace xh::cpu::XH_ISA
