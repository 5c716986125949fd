// The mLSTM as a plain double-precision recurrence over tokens (SPEC.md 1.1), and calls of the op for tests.
#ifndef XHYBRID_TESTS_CONFORMANCE_MLSTM_ORACLE_H_
#define XHYBRID_TESTS_CONFORMANCE_MLSTM_ORACLE_H_

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/conformance/backend_check.h"

namespace xh::test {

struct MlstmSize {
  int64_t batch, heads, kv_heads, tokens, features, columns;
  bool floored = false;
  double scale = 1.0;
};

// Inputs q, k, v, i, f, S, z, m (empty without a state), start (empty or absent: one document a row) -> h, S', z', m'.
inline std::vector<Doubles> MlstmOracle(const MlstmSize& s, const std::vector<Doubles>& in) {
  const size_t pairs = static_cast<size_t>(s.batch * s.heads), n = static_cast<size_t>(s.features);
  const size_t d = static_cast<size_t>(s.columns), tokens = static_cast<size_t>(s.tokens);
  const size_t heads = static_cast<size_t>(s.heads), kv_heads = static_cast<size_t>(s.kv_heads);
  std::vector<Doubles> out = {Doubles(pairs * tokens * d), Doubles(pairs * n * d), Doubles(pairs * n), Doubles(pairs)};
  for (size_t pair = 0; pair < pairs; ++pair) {
    const size_t kv = pair / heads * kv_heads + pair % heads / (heads / kv_heads);
    Doubles state(n * d, 0.0), z(n, 0.0);
    double m = -std::numeric_limits<double>::infinity();
    if (!in[5].empty()) {
      for (size_t j = 0; j < n * d; ++j) state[j] = in[5][pair * n * d + j];
      for (size_t j = 0; j < n; ++j) z[j] = in[6][pair * n + j];
      m = in[7][pair];
    }
    for (size_t t = 0; t < tokens; ++t) {
      if (in.size() > 8 && !in[8].empty() && in[8][pair / heads * tokens + t] == static_cast<double>(t)) {
        std::fill(state.begin(), state.end(), 0.0);
        std::fill(z.begin(), z.end(), 0.0);
        m = -std::numeric_limits<double>::infinity();
      }
      const double *q = &in[0][(pair * tokens + t) * n], *k = &in[1][(pair * tokens + t) * n];
      const double* v = &in[2][(kv * tokens + t) * d];
      const double i = in[3][pair * tokens + t], f = in[4][pair * tokens + t];
      const double log_forget = std::min(f, 0.0) - std::log1p(std::exp(-std::fabs(f)));
      const double after = std::max(log_forget + m, i);
      const double decay = std::exp(log_forget + m - after), keep = std::exp(i - after);
      m = after;
      double denominator = 0.0;
      for (size_t a = 0; a < n; ++a) {
        z[a] = decay * z[a] + keep * k[a];
        denominator += s.scale * q[a] * z[a];
        for (size_t c = 0; c < d; ++c) state[a * d + c] = decay * state[a * d + c] + keep * k[a] * v[c];
      }
      if (s.floored) denominator = std::max(std::fabs(denominator), std::exp(-m));
      for (size_t c = 0; c < d; ++c) {
        double numerator = 0.0;
        for (size_t a = 0; a < n; ++a) numerator += s.scale * q[a] * state[a * d + c];
        out[0][(pair * tokens + t) * d + c] = numerator / denominator;
      }
    }
    std::copy(state.begin(), state.end(), out[1].begin() + static_cast<int64_t>(pair * n * d));
    std::copy(z.begin(), z.end(), out[2].begin() + static_cast<int64_t>(pair * n));
    out[3][pair] = m;
  }
  return out;
}

// S e^m: what a state means, whatever its stabiliser.
inline Doubles TrueState(const Doubles& state, const Doubles& m) {
  Doubles out = state;
  const size_t each = state.size() / m.size();
  for (size_t j = 0; j < out.size(); ++j) out[j] *= std::exp(m[j / each]);
  return out;
}

inline Arg Positive(Arg arg) {
  for (double& x : arg.values) x = RoundTo(arg.dtype, std::exp(x));
  return arg;
}

// Inputs of a size, q and k positive as feature maps make them; gates around `forget`.
inline std::vector<Arg> MlstmInputs(const MlstmSize& s, xh_dtype dtype, bool state, double forget = 2.0,
                                    uint32_t seed = 1) {
  const std::vector<int64_t> keys = {s.batch, s.heads, s.tokens, s.features}, gates = {s.batch, s.heads, s.tokens};
  Arg f = Random(XH_F32, gates, seed + 4);
  for (double& x : f.values) x = RoundTo(XH_F32, x + forget);
  std::vector<Arg> in = {Random(dtype, keys, seed),
                         Random(dtype, keys, seed + 1),
                         Random(dtype, {s.batch, s.kv_heads, s.tokens, s.columns}, seed + 2),
                         Random(XH_F32, gates, seed + 3),
                         f,
                         Absent(),
                         Absent(),
                         Absent(),
                         Absent()};
  if (!s.floored) {
    in[0] = Positive(in[0]);
    in[1] = Positive(in[1]);
  }
  if (state) {
    in[5] = Random(XH_F32, {s.batch, s.heads, s.features, s.columns}, seed + 5);
    in[6] = Random(XH_F32, {s.batch, s.heads, s.features}, seed + 6);
    in[7] = Random(XH_F32, {s.batch, s.heads}, seed + 7);
    if (!s.floored) in[6] = Positive(in[6]);
  }
  return in;
}

inline xh_mlstm_params MlstmParams(const MlstmSize& s, int32_t chunk = 0) {
  return {XH_SIZED(xh_mlstm_params), s.floored ? XH_NORMALIZER_MAX : XH_NORMALIZER_PLAIN, static_cast<float>(s.scale),
          chunk};
}

inline std::vector<Arg> StateOutputs(const MlstmSize& s) {
  return {Output(XH_F32, {s.batch, s.heads, s.features, s.columns}), Output(XH_F32, {s.batch, s.heads, s.features}),
          Output(XH_F32, {s.batch, s.heads})};
}

// One forward call: h, S', z', m'.
inline std::vector<Doubles> RunMlstm(const MlstmSize& s, xh_pass pass, const std::vector<Arg>& inputs,
                                     int32_t chunk = 0, int threads = 2) {
  Op op(XH_OP_MLSTM, MlstmParams(s, chunk), threads);
  std::vector<Arg> args = inputs;
  args.push_back(Output(inputs[0].dtype, {s.batch, s.heads, s.tokens, s.columns}));
  for (const Arg& arg : StateOutputs(s)) args.push_back(arg);
  MustRun(op, pass, &args);
  return {args[9].values, args[10].values, args[11].values, args[12].values};
}

// Gradients dq, dk, dv, di, df for the gradient `dh` of h.
inline std::vector<Doubles> MlstmGradients(const MlstmSize& s, const std::vector<Arg>& inputs, const Arg& dh,
                                           int32_t chunk = 0, int threads = 2) {
  Op op(XH_OP_MLSTM, MlstmParams(s, chunk), threads);
  std::vector<Arg> args = inputs;
  args.push_back(Output(inputs[0].dtype, dh.shape));
  args.resize(13);
  MustRun(op, XH_FORWARD, &args);
  args.push_back(dh);
  args.resize(17);
  for (size_t i = 0; i < 5; ++i) args.push_back(Output(inputs[i].dtype, inputs[i].shape));
  args.resize(26);
  MustRun(op, XH_BACKWARD, &args);
  std::vector<Doubles> gradients;
  for (size_t i = 0; i < 5; ++i) gradients.push_back(args[17 + i].values);
  return gradients;
}

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_MLSTM_ORACLE_H_
