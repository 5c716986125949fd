#include <cmath>

#include "core/model/model.h"

namespace xh {
namespace {

// Frequency of pair `i` of the head dimension, after scaling.
double Frequency(const ModelConfig& config, int64_t i) {
  const RopeConfig& rope = config.rope;
  const double frequency = std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
  if (rope.type == "linear") return frequency / rope.factor;
  if (rope.type != "llama3") return frequency;
  // Turns over the original context: many are kept, few are slowed by the factor, in between a blend of both.
  const double turns = static_cast<double>(rope.original_context) * frequency / (2 * M_PI);
  if (turns < rope.low_freq_factor) return frequency / rope.factor;
  if (turns > rope.high_freq_factor) return frequency;
  const double kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - kept) * frequency / rope.factor + kept * frequency;
}

}  // namespace

std::vector<float> RopeTable(const ModelConfig& config, int64_t positions) {
  const int64_t pairs = config.head_dim / 2;
  std::vector<float> table(static_cast<size_t>(positions * config.head_dim));
  for (int64_t i = 0; i < pairs; ++i) {
    const double frequency = Frequency(config, i);
    for (int64_t p = 0; p < positions; ++p) {
      const double angle = static_cast<double>(p) * frequency;
      table[p * config.head_dim + i] = static_cast<float>(std::cos(angle));
      table[p * config.head_dim + pairs + i] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

}  // namespace xh
