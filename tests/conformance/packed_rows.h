// Rows packed from documents, for tests of the sequence mixers.
#ifndef XHYBRID_TESTS_CONFORMANCE_PACKED_ROWS_H_
#define XHYBRID_TESTS_CONFORMANCE_PACKED_ROWS_H_

#include "tests/conformance/backend_check.h"

namespace xh::test {

// The argument `start` [B,T] of rows made of documents of these lengths, which sum up to T in each row.
inline Arg StartsOf(const std::vector<std::vector<int64_t>>& rows) {
  Doubles starts;
  int64_t tokens = 0;
  for (const std::vector<int64_t>& lengths : rows) {
    tokens = 0;
    for (int64_t length : lengths) {
      starts.insert(starts.end(), static_cast<size_t>(length), static_cast<double>(tokens));
      tokens += length;
    }
  }
  return Of(XH_I32, {static_cast<int64_t>(rows.size()), tokens}, starts);
}

// Tokens [from, to) of [B,H,T] or [B,H,T,d], packed.
inline Arg Tokens(const Arg& arg, int64_t from, int64_t to) {
  const int64_t rows = arg.shape[0] * arg.shape[1], tokens = arg.shape[2];
  const int64_t columns = arg.shape.size() == 4 ? arg.shape[3] : 1;
  Arg out = arg;
  out.shape[2] = to - from;
  out.values.clear();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t e = (row * tokens + from) * columns; e < (row * tokens + to) * columns; ++e) {
      out.values.push_back(arg.values[static_cast<size_t>(e)]);
    }
  }
  return out;
}

// Rows of six tokens that are no documents.
inline std::vector<Doubles> HostileStarts() {
  return {{1, 1, 2, 2, 2, 2},        // the first token belongs to none
          {-1, -1, -1, -1, -1, -1},  // before the row
          {0, 0, 2, 0, 0, 0},        // decreasing
          {0, 0, 3, 3, 3, 3},        // after its token
          {0, 0, 0, 2, 2, 2},        // begins where no document begins
          {0, 0, 0, 0, 0, 6},        // past the row
          {0, 0, 0, 0, 0, 2147483647}};
}
// [2, 6]: a good row first.
inline Doubles WithGoodRow(const Doubles& row) {
  Doubles both = {0, 1, 1, 1, 4, 4};
  both.insert(both.end(), row.begin(), row.end());
  return both;
}

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_PACKED_ROWS_H_
