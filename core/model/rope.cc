#include <algorithm>
#include <cmath>

#include "core/model/model.h"

namespace xh {
namespace {

// Turns over the original context: many are kept, few are slowed by the factor, in between a blend of both.
double Llama3Frequency(const RopeConfig& rope, double frequency) {
  const double turns = static_cast<double>(rope.original_context) * frequency / (2 * M_PI);
  if (turns < rope.low_freq_factor) return frequency / rope.factor;
  if (turns > rope.high_freq_factor) return frequency;
  const double kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - kept) * frequency / rope.factor + kept * frequency;
}

// The pair (not whole) that makes `turns` over the original context.
double YarnPair(const RopeConfig& rope, double turns, int64_t dim) {
  return static_cast<double>(dim) * std::log(static_cast<double>(rope.original_context) / (turns * 2 * M_PI)) /
         (2 * std::log(rope.theta));
}

// YaRN (Peng et al. 2023): the same blend, linear in the pair's number.
double YarnFrequency(const RopeConfig& rope, double frequency, int64_t pair, int64_t dim) {
  double first = YarnPair(rope, rope.beta_fast, dim), last = YarnPair(rope, rope.beta_slow, dim);
  if (rope.truncate) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  first = std::max(first, 0.0);
  last = std::min(last, static_cast<double>(dim - 1));
  if (first == last) last += 0.001;
  const double slowed = std::clamp((static_cast<double>(pair) - first) / (last - first), 0.0, 1.0);
  return slowed * frequency / rope.factor + (1 - slowed) * frequency;
}

// Frequency of pair `i` of the head dimension, after scaling.
double Frequency(const RopeConfig& rope, int64_t i, int64_t dim) {
  const double frequency = std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
  if (rope.type == "linear") return frequency / rope.factor;
  if (rope.type == "llama3") return Llama3Frequency(rope, frequency);
  if (rope.type == "yarn") return YarnFrequency(rope, frequency, i, dim);
  return frequency;
}

// [positions, dim] at `table`.
void FillTable(const RopeConfig& rope, int64_t positions, int64_t dim, float* table) {
  const int64_t pairs = dim / 2;
  for (int64_t i = 0; i < pairs; ++i) {
    const double frequency = Frequency(rope, i, dim);
    for (int64_t p = 0; p < positions; ++p) {
      const double angle = static_cast<double>(p) * frequency;
      table[p * dim + i] = static_cast<float>(rope.attention_factor * std::cos(angle));
      table[p * dim + pairs + i] = static_cast<float>(rope.attention_factor * std::sin(angle));
    }
  }
}

}  // namespace

Shape RopeTableShape(const ModelConfig& config, int64_t positions) {
  const int64_t tables = config.sliding.layers.empty() || config.sliding.rope == config.rope ? 1 : 2;
  return {tables * positions, config.head_dim};
}

std::vector<float> RopeTable(const ModelConfig& config, int64_t positions) {
  const Shape shape = RopeTableShape(config, positions);
  std::vector<float> table(static_cast<size_t>(shape[0] * shape[1]));
  FillTable(config.rope, positions, config.head_dim, table.data());
  if (shape[0] > positions) {
    FillTable(config.sliding.rope, positions, config.head_dim, table.data() + positions * config.head_dim);
  }
  return table;
}

}  // namespace xh
