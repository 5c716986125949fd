// Documents packed into the rows of a sequence mixer: the argument `start` i32 [B,T]. The kernels keep their grids of
// blocks and chunks and cut them at the borders, so that plans and their memory do not depend on where documents end.
#ifndef XHYBRID_BACKENDS_CPU_DOCUMENTS_H_
#define XHYBRID_BACKENDS_CPU_DOCUMENTS_H_

#include <algorithm>
#include <string>

#include "backends/cpu/plan.h"

namespace xh::cpu::XH_ISA {

// Throws RunError unless every row is made of whole documents: start[t] is t where one begins, else start[t - 1]. After
// it no start can lead outside its row.
inline void CheckStarts(const char* op, const xh_tensor& start) {
  if (!Present(start)) return;
  for (int64_t b = 0; b < start.shape[0]; ++b) {
    const int32_t* const row = static_cast<const int32_t*>(start.data) + b * start.stride[0];
    for (int64_t t = 0; t < start.shape[1]; ++t) {
      if (row[t] == t || (t > 0 && row[t] == row[t - 1])) continue;
      throw RunError{XH_INVALID_ARGUMENT,
                     std::string(op) + ": start[" + std::to_string(b) + "," + std::to_string(t) + "] is " +
                         std::to_string(row[t]) + ", allowed is " + std::to_string(t) +
                         (t > 0 ? " (a document begins) or " + std::to_string(row[t - 1]) + " (it goes on)" : "")};
    }
  }
}

// The documents of row b of a checked `start`; one document where it is absent.
class Documents {
 public:
  Documents(const xh_tensor& start, int64_t b)
      : row_(Present(start) ? static_cast<const int32_t*>(start.data) + b * start.stride[0] : nullptr) {}

  // The first token of the document of token t.
  int64_t First(int64_t t) const { return row_ == nullptr ? 0 : row_[t]; }
  // Whether nothing may pass from token t - 1 to t; never without `start`.
  bool Begins(int64_t t) const { return row_ != nullptr && row_[t] == t; }
  // One past the last token of [from, to) that belongs to the document of `from`.
  int64_t End(int64_t from, int64_t to) const {
    if (row_ == nullptr) return to;
    return std::find_if(row_ + from, row_ + to, [&](int32_t first) { return first != row_[from]; }) - row_;
  }

 private:
  const int32_t* row_;
};

}  // namespace xh::cpu::XH_ISA

#endif  // XHYBRID_BACKENDS_CPU_DOCUMENTS_H_
