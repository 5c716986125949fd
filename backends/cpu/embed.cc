// EMBED: rows of a table by id. BACKWARD adds rows of dy into the table's gradient; every thread owns some columns, so
// that equal ids are added in the order of the tokens whatever the number of threads.
#include "backends/cpu/ops.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"

namespace xh::cpu::XH_ISA {
namespace {

enum { kTable, kIds, kY, kDy, kDtable };

void CheckIds(const int32_t* ids, int64_t count, int64_t rows) {
  for (int64_t m = 0; m < count; ++m) {
    if (ids[m] < 0 || ids[m] >= rows) {
      throw RunError{XH_INVALID_ARGUMENT, "EMBED: ids[" + std::to_string(m) + "] is " + std::to_string(ids[m]) +
                                              ", allowed is 0 to " + std::to_string(rows - 1)};
    }
  }
}

class EmbedForward final : public Plan {
 public:
  EmbedForward(const Request& request, const Dims& dims)
      : table_(request.args[kTable]),
        y_(request.args[kY]),
        m_(dims['M']),
        d_(dims['D']),
        v_(dims['V']),
        parts_(Parts(request.threads, m_, m_ * d_)) {
    implementation = "vector";
  }

  void Run(const xh_tensor* args, void*, void*) const override {
    const int32_t* const ids = static_cast<const int32_t*>(args[kIds].data);
    CheckIds(ids, m_, v_);
    WithType(table_.dtype, [&](auto a) {
      WithType(y_.dtype, [&](auto b) {
        const auto* const table = static_cast<const decltype(a)*>(args[kTable].data);
        auto* const y = static_cast<decltype(b)*>(args[kY].data);
        RunParts(parts_, m_, [&](int64_t first, int64_t last, int) {
          for (int64_t m = first; m < last; ++m) {
            const auto* const from = table + ids[m] * table_.stride[0];
            auto* const to = y + m * y_.stride[0];
            ForLanes(d_, [&](int64_t i, auto lanes) { Put(to + i, Get(from + i, lanes), lanes); });
          }
        });
      });
    });
  }

 private:
  xh_tensor table_, y_;
  int64_t m_, d_, v_;
  int parts_;
};

class EmbedBackward final : public Plan {
 public:
  EmbedBackward(const Request& request, const Dims& dims)
      : dy_(request.args[kDy]),
        dtable_(request.args[kDtable]),
        m_(dims['M']),
        d_(dims['D']),
        v_(dims['V']),
        blocks_((d_ + kBlock - 1) / kBlock) {
    const int64_t work = d_ * (m_ + (Accumulates(dtable_) ? 0 : v_));
    parts_ = Parts(request.threads, blocks_, work);
    implementation = "columns";
  }

  void Run(const xh_tensor* args, void*, void*) const override {
    if (!Present(dtable_)) return;
    const int32_t* const ids = static_cast<const int32_t*>(args[kIds].data);
    CheckIds(ids, m_, v_);
    float* const table = static_cast<float*>(args[kDtable].data);
    RunParts(parts_, blocks_, [&](int64_t first, int64_t last, int) {
      const int64_t column = first * kBlock, width = std::min(last * kBlock, d_) - column;
      if (!Accumulates(dtable_)) {
        for (int64_t v = 0; v < v_; ++v) {
          float* const row = table + v * dtable_.stride[0] + column;
          std::fill(row, row + width, 0.0f);
        }
      }
      if (!Present(dy_)) return;
      WithType(dy_.dtype, [&](auto t) {
        const auto* const dy = static_cast<const decltype(t)*>(args[kDy].data) + column;
        for (int64_t m = 0; m < m_; ++m) {
          const auto* const from = dy + m * dy_.stride[0];
          float* const to = table + ids[m] * dtable_.stride[0] + column;
          ForLanes(width,
                   [&](int64_t i, auto lanes) { Put(to + i, Get(to + i, lanes) + Get(from + i, lanes), lanes); });
        }
      });
    });
  }

 private:
  static constexpr int64_t kBlock = 16;  // columns: a cache line, so that threads share none

  xh_tensor dy_, dtable_;
  int64_t m_, d_, v_, blocks_;
  int parts_ = 1;
};

}  // namespace

Refusal OpenEmbed(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  const Refusal refusal = backend::CheckEmbed(request, &dims);
  if (refusal.code != 0) return refusal;
  if (request.pass == XH_BACKWARD) {
    *out = std::make_unique<EmbedBackward>(request, dims);
  } else {
    *out = std::make_unique<EmbedForward>(request, dims);
  }
  return {};
}

}  // namespace xh::cpu::XH_ISA
