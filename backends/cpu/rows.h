// Walking a contiguous row one vector at a time, whole vectors and the rest by the same code; and choosing a kernel by
// dtype.
#ifndef XHYBRID_BACKENDS_CPU_ROWS_H_
#define XHYBRID_BACKENDS_CPU_ROWS_H_

#include <cstdint>

#include "backends/cpu/simd.h"
#include "xhybrid_plugin.h"

namespace xh::cpu::XH_ISA {

struct Full {};
struct Part {
  int count;
};

template <class T>
inline Vec Get(const T* p, Full) {
  return Load(p);
}
template <class T>
inline Vec Get(const T* p, Part part) {
  return LoadPartial(p, part.count);
}
template <class T>
inline void Put(T* p, Vec v, Full) {
  Store(p, v);
}
template <class T>
inline void Put(T* p, Vec v, Part part) {
  StorePartial(p, v, part.count);
}
// The lanes that count; the others are zero.
inline Vec Keep(Vec v, Full) { return v; }
inline Vec Keep(Vec v, Part part) {
  IVec lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane < part.count ? v : Vec{};
}
// Adds to what is there, or overwrites it: XH_TENSOR_ACCUMULATE.
template <class T, class Lanes>
inline void PutGradient(T* p, Vec v, bool add, Lanes lanes) {
  Put(p, add ? Get(p, lanes) + v : v, lanes);
}

// body(i, lanes) for each vector that begins at element i of a row of n.
template <class Body>
inline void ForLanes(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, Full{});
  if (i < n) body(i, Part{static_cast<int>(n - i)});
}

// A row as f32: where it lies, or converted into `buffer`.
inline const float* AsFloat(const float* row, int64_t, float*) { return row; }
inline const float* AsFloat(const BF16* row, int64_t n, float* buffer) {
  ForLanes(n, [&](int64_t i, auto lanes) { Put(buffer + i, Get(row + i, lanes), lanes); });
  return buffer;
}

// body(T{}) with the C++ type of a float dtype.
template <class Body>
inline void WithType(xh_dtype dtype, Body body) {
  if (dtype == XH_BF16) {
    body(BF16{});
  } else {
    body(float{});
  }
}

// The largest of n >= 1 elements. A NaN may be passed over: sums that follow carry it on.
template <class T>
inline float MaxOf(const T* p, int64_t n) {
  if (n < kLanes) {
    float most = ToFloat(p[0]);
    for (int64_t i = 1; i < n; ++i) most = ToFloat(p[i]) > most ? ToFloat(p[i]) : most;
    return most;
  }
  Vec most = Load(p);
  for (int64_t i = kLanes; i + kLanes <= n; i += kLanes) most = Max(most, Load(p + i));
  return Max(Max(most, Load(p + n - kLanes)));
}

inline Vec Sigmoid(Vec x) { return 1.0f / (1.0f + Exp(-x)); }

}  // namespace xh::cpu::XH_ISA

#endif  // XHYBRID_BACKENDS_CPU_ROWS_H_
