// Softmax attention over the visible set, written out in double precision (SPEC.md 1.4), and calls of the op for tests.
#ifndef XHYBRID_TESTS_CONFORMANCE_ATTENTION_ORACLE_H_
#define XHYBRID_TESTS_CONFORMANCE_ATTENTION_ORACLE_H_

#include <algorithm>
#include <cmath>

#include "tests/conformance/backend_check.h"

namespace xh::test {

struct AttentionSize {
  int64_t batch, heads, kv_heads, tokens, dim;
  std::vector<int32_t> windows;  // [kv_heads], 0: unlimited
  int32_t sinks = 0;
  int64_t capacity = 0;

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(dim)); }
  int64_t Slots() const {
    int64_t slots = 0;
    for (int32_t window : windows) slots += window == 0 ? capacity : sinks + window;
    return slots;
  }
  // Valid as long as the size lives.
  xh_attention_params Params() const {
    return {XH_SIZED(xh_attention_params), sinks, scale(), static_cast<int32_t>(kv_heads), windows.data(), capacity};
  }
};

// q, k, v (the absent cache and its position) and start, where rows are packed from documents -> o.
inline std::vector<Doubles> AttentionOracle(const AttentionSize& s, const std::vector<Doubles>& in) {
  const size_t d = static_cast<size_t>(s.dim), tokens = static_cast<size_t>(s.tokens);
  const size_t heads = static_cast<size_t>(s.heads), kv_heads = static_cast<size_t>(s.kv_heads);
  const size_t pairs = static_cast<size_t>(s.batch) * heads, sinks = static_cast<size_t>(s.sinks);
  Doubles out(pairs * tokens * d, 0.0);
  for (size_t pair = 0; pair < pairs; ++pair) {
    const size_t kv_head = pair % heads / (heads / kv_heads), kv = pair / heads * kv_heads + kv_head;
    const size_t window = static_cast<size_t>(s.windows[kv_head]);
    for (size_t t = 0; t < tokens; ++t) {
      const bool packed = in.size() > 6 && !in[6].empty();
      const size_t start = packed ? static_cast<size_t>(in[6][pair / heads * tokens + t]) : 0;
      std::vector<size_t> visible;
      for (size_t p = start; p <= t; ++p) {
        if (window == 0 || t - p < window || p - start < sinks) visible.push_back(p);
      }
      Doubles scores;
      for (size_t p : visible) {
        double score = 0.0;
        for (size_t c = 0; c < d; ++c) score += in[0][(pair * tokens + t) * d + c] * in[1][(kv * tokens + p) * d + c];
        scores.push_back(score * static_cast<double>(s.scale()));
      }
      const double largest = *std::max_element(scores.begin(), scores.end());
      double sum = 0.0;
      for (double& score : scores) sum += score = std::exp(score - largest);
      for (size_t j = 0; j < visible.size(); ++j) {
        for (size_t c = 0; c < d; ++c) {
          out[(pair * tokens + t) * d + c] += scores[j] / sum * in[2][(kv * tokens + visible[j]) * d + c];
        }
      }
    }
  }
  return {out};
}

inline std::vector<Arg> AttentionInputs(const AttentionSize& s, xh_dtype dtype, uint32_t seed = 1) {
  return {Random(dtype, {s.batch, s.heads, s.tokens, s.dim}, seed, 1.5),
          Random(dtype, {s.batch, s.kv_heads, s.tokens, s.dim}, seed + 1, 1.5),
          Random(dtype, {s.batch, s.kv_heads, s.tokens, s.dim}, seed + 2),
          Absent(),
          Absent(),
          Absent(),
          Absent()};
}

inline Doubles RunAttention(const AttentionSize& s, xh_pass pass, const std::vector<Arg>& inputs, int threads = 2) {
  Op op(XH_OP_ATTENTION, s.Params(), threads);
  std::vector<Arg> args = inputs;
  args.push_back(Output(inputs[0].dtype, inputs[0].shape));
  MustRun(op, pass, &args);
  return args[7].values;
}

// Gradients dq, dk, dv for the gradient `d_out` of o.
inline std::vector<Doubles> AttentionGradients(const AttentionSize& s, const std::vector<Arg>& inputs, const Arg& d_out,
                                               int threads = 2) {
  Op op(XH_OP_ATTENTION, s.Params(), threads);
  std::vector<Arg> args = inputs;
  args.push_back(Output(inputs[0].dtype, inputs[0].shape));
  MustRun(op, XH_FORWARD, &args);
  args.push_back(d_out);
  for (size_t i = 0; i < 3; ++i) args.push_back(Output(inputs[i].dtype, inputs[i].shape));
  args.resize(16);
  MustRun(op, XH_BACKWARD, &args);
  return {args[9].values, args[10].values, args[11].values};
}

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_ATTENTION_ORACLE_H_
