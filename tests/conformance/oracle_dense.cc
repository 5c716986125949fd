#include "tests/conformance/oracle_dense.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "xhybrid_plugin.h"

namespace xh::test::oracle {
namespace {

size_t At(int64_t index) { return static_cast<size_t>(index); }

double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

double LogSumExp(const Doubles& x) {
  const double most = *std::max_element(x.begin(), x.end());
  if (most == -std::numeric_limits<double>::infinity()) return most;
  double sum = 0.0;
  for (double value : x) sum += std::exp(value - most);
  return most + std::log(sum);
}

Doubles Softmax(const Doubles& x) {
  const double norm = LogSumExp(x);
  Doubles out;
  for (double value : x) out.push_back(std::exp(value - norm));
  return out;
}

// KL of softmax(p) from softmax(q).
double Divergence(const Doubles& p, const Doubles& q) {
  const double p_norm = LogSumExp(p), q_norm = LogSumExp(q);
  double kl = 0.0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = p[i] - p_norm;
    if (std::exp(log_p) > 0.0) kl += std::exp(log_p) * (log_p - (q[i] - q_norm));
  }
  return kl;
}

}  // namespace

Doubles Matmul(const Doubles& x, const Doubles& w, const Doubles& bias, int64_t m, int64_t n, int64_t k) {
  Doubles y(At(m * n));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias.empty() ? 0.0 : bias[At(j)];
      for (int64_t l = 0; l < k; ++l) sum += x[At(i * k + l)] * w[At(j * k + l)];
      y[At(i * n + j)] = sum;
    }
  }
  return y;
}

Doubles RmsNorm(const Doubles& x, const Doubles& w, int64_t m, int64_t d, double eps) {
  Doubles y(x.size());
  for (int64_t i = 0; i < m; ++i) {
    double squares = 0.0;
    for (int64_t j = 0; j < d; ++j) squares += x[At(i * d + j)] * x[At(i * d + j)];
    const double r = 1.0 / std::sqrt(squares / static_cast<double>(d) + eps);
    for (int64_t j = 0; j < d; ++j) y[At(i * d + j)] = x[At(i * d + j)] * r * w[At(j)];
  }
  return y;
}

Doubles Rope(const Doubles& x, const Doubles& table, const Doubles& position, int64_t b, int64_t t, int64_t h,
             int64_t d) {
  Doubles y(x.size());
  for (int64_t i = 0; i < b * t * h; ++i) {
    const int64_t sequence = i / h / t, token = i / h % t;
    const int64_t row = static_cast<int64_t>(position[At(sequence)]) + token;
    for (int64_t j = 0; j < d / 2; ++j) {
      const double cosine = table[At(row * d + j)], sine = table[At(row * d + d / 2 + j)];
      const double low = x[At(i * d + j)], high = x[At(i * d + d / 2 + j)];
      y[At(i * d + j)] = low * cosine - high * sine;
      y[At(i * d + d / 2 + j)] = high * cosine + low * sine;
    }
  }
  return y;
}

Doubles Swiglu(const Doubles& gate, const Doubles& up) {
  Doubles y(gate.size());
  for (size_t i = 0; i < y.size(); ++i) y[i] = gate[i] * Sigmoid(gate[i]) * up[i];
  return y;
}

Doubles FeatureMap(const Doubles& u, const Doubles& a, int64_t b, int64_t inputs, int64_t heads, int64_t t, int64_t d,
                   int64_t n, bool hedgehog) {
  Doubles phi;
  for (int64_t i = 0; i < b * heads * t; ++i) {
    const int64_t head = i / t % heads;
    const int64_t row = (i / t / heads * inputs + head / (heads / inputs)) * t + i % t;
    Doubles scores(At(n), 0.0);
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t l = 0; l < d; ++l) scores[At(j)] += u[At(row * d + l)] * a[At((head * d + l) * n + j)];
    }
    const Doubles positive = Softmax(scores);
    phi.insert(phi.end(), positive.begin(), positive.end());
    if (!hedgehog) continue;
    for (double& score : scores) score = -score;
    const Doubles negative = Softmax(scores);
    phi.insert(phi.end(), negative.begin(), negative.end());
  }
  return phi;
}

Doubles HeadGate(const Doubles& q, const Doubles& k, const Doubles& v, const Doubles& w, const Doubles& bias, int64_t b,
                 int64_t heads, int64_t kv_heads, int64_t t, int64_t d) {
  Doubles o(At(b * heads * t));
  for (int64_t i = 0; i < b * heads * t; ++i) {
    const int64_t head = i / t % heads;
    const int64_t row = (i / t / heads * kv_heads + head / (heads / kv_heads)) * t + i % t;
    double sum = bias[At(head)];
    for (int64_t j = 0; j < d; ++j) {
      sum += q[At(i * d + j)] * w[At(head * 3 * d + j)] + k[At(row * d + j)] * w[At(head * 3 * d + d + j)] +
             v[At(row * d + j)] * w[At(head * 3 * d + 2 * d + j)];
    }
    o[At(i)] = Sigmoid(sum);
  }
  return o;
}

Doubles Mix(const Doubles& o, const Doubles& x, const Doubles& y, int64_t d) {
  Doubles h(x.size());
  for (size_t i = 0; i < h.size(); ++i) {
    const double gate = o[i / At(d)];
    h[i] = gate * x[i] + (1.0 - gate) * y[i];
  }
  return h;
}

DistillRow Distill(const Doubles& logits, int64_t target, const Doubles& values, const std::vector<int64_t>& ids,
                   const DistillOptions& options) {
  DistillRow row = {LogSumExp(logits) - logits[At(target)], 0.0};
  if (ids.empty()) return row;
  Doubles p, q;
  for (size_t i = 0; i < ids.size(); ++i) {
    p.push_back(values[i] / options.temperature);
    q.push_back(logits[At(ids[i])] / options.temperature);
  }
  if (options.mode == XH_KL_RENORMALIZED) {
    row.kl = Divergence(p, q);
  } else if (options.mode == XH_KL_FULL_STUDENT) {
    Doubles scaled = logits;
    for (double& x : scaled) x /= options.temperature;
    const double p_norm = LogSumExp(p), q_norm = LogSumExp(scaled);
    for (size_t i = 0; i < p.size(); ++i) {
      row.kl += std::exp(p[i] - p_norm) * ((p[i] - p_norm) - (q[i] - q_norm));
    }
  } else {
    double mass = 0.0;
    for (double value : values) mass += std::exp(value);
    Doubles rest;
    for (int64_t j = 0; j < static_cast<int64_t>(logits.size()); ++j) {
      if (std::find(ids.begin(), ids.end(), j) == ids.end()) rest.push_back(logits[At(j)]);
    }
    if (!rest.empty()) {
      p.push_back(std::log1p(-mass) / options.temperature);
      q.push_back(LogSumExp(rest) / options.temperature);
    }
    row.kl = Divergence(p, q);
  }
  return row;
}

}  // namespace xh::test::oracle
