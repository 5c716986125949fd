// Plain double-precision loops for the ops outside the sequence kernels. Row-major; letters as in xhybrid_plugin.h.
#ifndef XHYBRID_TESTS_CONFORMANCE_ORACLE_DENSE_H_
#define XHYBRID_TESTS_CONFORMANCE_ORACLE_DENSE_H_

#include <cstdint>
#include <vector>

namespace xh::test::oracle {

using Doubles = std::vector<double>;

// x[M,K], w[N,K], bias[N] or empty -> [M,N]
Doubles Matmul(const Doubles& x, const Doubles& w, const Doubles& bias, int64_t m, int64_t n, int64_t k);
// x[M,D], w[D] -> [M,D]
Doubles RmsNorm(const Doubles& x, const Doubles& w, int64_t m, int64_t d, double eps);
// x[B,T,H,d], table[P,d], position[B] -> [B,T,H,d]
Doubles Rope(const Doubles& x, const Doubles& table, const Doubles& position, int64_t b, int64_t t, int64_t h,
             int64_t d);
Doubles Swiglu(const Doubles& gate, const Doubles& up);
// u[B,U,T,d], a[H,d,n] -> [B,H,T,n] or [B,H,T,2n]
Doubles FeatureMap(const Doubles& u, const Doubles& a, int64_t b, int64_t inputs, int64_t heads, int64_t t, int64_t d,
                   int64_t n, bool hedgehog);
// q[B,H,T,d], k and v[B,KV,T,d], w[H,3d], bias[H] -> [B,H,T]
Doubles HeadGate(const Doubles& q, const Doubles& k, const Doubles& v, const Doubles& w, const Doubles& bias, int64_t b,
                 int64_t heads, int64_t kv_heads, int64_t t, int64_t d);
// o[rows], x[rows,d], y[rows,d]
Doubles Mix(const Doubles& o, const Doubles& x, const Doubles& y, int64_t d);

struct DistillOptions {
  int mode;  // xh_kl_mode
  double temperature;
};
struct DistillRow {
  double cross_entropy, kl;
};
// One row: logits[V], a target >= 0, the teacher's values and ids [k] or empty.
DistillRow Distill(const Doubles& logits, int64_t target, const Doubles& values, const std::vector<int64_t>& ids,
                   const DistillOptions& options);

}  // namespace xh::test::oracle

#endif  // XHYBRID_TESTS_CONFORMANCE_ORACLE_DENSE_H_
