#include "backends/cpu/mlstm_gates.h"

#include <cmath>
#include <limits>

namespace xh::cpu::XH_ISA::mlstm {
namespace {

// Stands for -inf where differences are taken: exp(-inf - kNone) is 0, where -inf - -inf would be NaN.
constexpr double kNone = -1e30;

// log(1 + y) for y in [0, 1], relative error about 2 ulp: 2 atanh(s) with s = y / (2 + y) <= 1/3, to s^17.
Vec Log1p(Vec y) {
  const Vec s = y / (y + 2.0f);
  const Vec t = s * s;
  Vec p = Set(2.0f / 17.0f);
  for (float divisor = 15.0f; divisor > 2.0f; divisor -= 2.0f) p = Fma(p, t, Set(2.0f / divisor));
  return Fma(p * t, s, s * 2.0f);
}

Vec Abs(Vec x) { return reinterpret_cast<Vec>(reinterpret_cast<UVec>(x) & 0x7fffffffu); }

double Larger(double a, double b) { return a > b || a != a ? a : b; }  // NaN wins

struct ChunkSums {
  alignas(64) float softplus[kLargestChunk + kLanes];  // log(1 + exp(-|f|))
  double b[kLargestChunk], x[kLargestChunk], max[kLargestChunk];
};

void SplitDouble(const double* from, int64_t count, float* high, float* low) {
  for (int64_t u = 0; u < count; ++u) {
    high[u] = static_cast<float>(from[u]);
    low[u] = std::isinf(high[u]) ? 0.0f : static_cast<float>(from[u] - static_cast<double>(high[u]));
  }
}

void ExpInPlace(float* row, int64_t count) {
  int64_t u = 0;
  for (; u + kLanes <= count; u += kLanes) Store(row + u, Exp(Load(row + u)));
  if (u < count) {
    const int rest = static_cast<int>(count - u);
    StorePartial(row + u, Exp(LoadPartial(row + u, rest)), rest);
  }
}

// ChunkGates of tokens that belong to one document.
void PieceGates(const xh_tensor& i, const xh_tensor& f, int64_t b, int64_t head, int64_t first, int64_t tokens,
                int64_t pair, int64_t chunk, int64_t at, Gates* gates, double* m) {
  const float* const in = static_cast<const float*>(i.data) + b * i.stride[0] + head * i.stride[1];
  const float* const forget = static_cast<const float*>(f.data) + b * f.stride[0] + head * f.stride[1];
  float* const slope = gates->Row(pair, kSlope) + at;
  ChunkSums sums;
  for (int64_t u = 0; u < tokens; ++u) slope[u] = forget[(first + u) * f.stride[2]];
  for (int64_t u = 0; u < tokens; u += kLanes) {
    const int count = static_cast<int>(std::min<int64_t>(kLanes, tokens - u));
    const Vec gate = LoadPartial(slope + u, count);
    const Vec y = Exp(-Abs(gate));
    Store(sums.softplus + u, Log1p(y));
    StorePartial(slope + u, (gate >= 0.0f ? y : Set(1.0f)) / (y + 1.0f), count);
  }
  double total = 0.0, max = Larger(*m, kNone);
  for (int64_t u = 0; u < tokens; ++u) {
    const float gate = forget[(first + u) * f.stride[2]];
    total += static_cast<double>(gate < 0.0f ? gate : 0.0f) - static_cast<double>(sums.softplus[u]);
    sums.b[u] = total;
    sums.x[u] = static_cast<double>(in[(first + u) * i.stride[2]]) - total;
    max = Larger(sums.x[u], max);
    sums.max[u] = max;
  }
  // Any stabiliser will do: the one that a float can hold is what the state is given in.
  const double after = static_cast<double>(static_cast<float>(total + max));
  SplitDouble(sums.x, tokens, gates->Row(pair, kInputHigh) + at, gates->Row(pair, kInputLow) + at);
  SplitDouble(sums.max, tokens, gates->Row(pair, kMaxHigh) + at, gates->Row(pair, kMaxLow) + at);
  float* const carry = gates->Row(pair, kCarry) + at;
  float* const keep = gates->Row(pair, kKeep) + at;
  float* const floor = gates->Row(pair, kFloor) + at;
  for (int64_t u = 0; u < tokens; ++u) {
    carry[u] = static_cast<float>(*m - sums.max[u]);
    keep[u] = static_cast<float>(total + sums.x[u] - after);
    floor[u] = static_cast<float>(-sums.b[u] - sums.max[u]);
  }
  ExpInPlace(carry, tokens);
  ExpInPlace(keep, tokens);
  ExpInPlace(floor, tokens);
  gates->decay[pair * gates->chunks + chunk] = std::exp(static_cast<float>(total + *m - after));
  *m = after;
}

}  // namespace

void ChunkGates(const xh_tensor* args, int64_t b, int64_t head, int64_t first, int64_t tokens, int64_t pair,
                int64_t chunk, int64_t at, Gates* gates, double* m) {
  const Documents documents(args[kStart], b);
  const int64_t end = first + tokens;
  for (int64_t from = first, to = 0; from < end; from = to) {
    to = documents.End(from, end);
    if (documents.Begins(from)) *m = -std::numeric_limits<double>::infinity();
    // The decay of the last piece stays: 0 where a document begins in the chunk, for its m is -inf.
    PieceGates(args[kI], args[kF], b, head, from, to - from, pair, chunk, at + from - first, gates, m);
    if (to < end) std::fill_n(gates->Row(pair, kKeep) + at + from - first, to - from, 0.0f);
  }
}

StepGates TokenGates(float i, float f, double m) {
  const double log_forget =
      std::min(static_cast<double>(f), 0.0) - std::log1p(std::exp(-std::fabs(static_cast<double>(f))));
  const double after =
      static_cast<double>(static_cast<float>(Larger(Larger(log_forget + m, static_cast<double>(i)), kNone)));
  return {static_cast<float>(std::exp(log_forget + m - after)),
          static_cast<float>(std::exp(static_cast<double>(i) - after)), static_cast<float>(std::exp(-after)), after};
}

}  // namespace xh::cpu::XH_ISA::mlstm
