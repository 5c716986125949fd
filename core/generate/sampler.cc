#include "core/generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace xh {
namespace {

// How many of the ids, the most probable first, reach `top_p` of the probability; at least one.
size_t NucleusSize(const std::vector<double>& weights, double top_p) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    sum += weights[i];
    if (sum >= top_p * total) return i + 1;
  }
  return weights.size();
}

}  // namespace

// splitmix64 (Steele, Lea, Flood 2014): [0, 1).
double Sampler::NextUniform() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

int32_t Sampler::Take(int32_t best) {
  ++chosen_;
  return best;
}

int32_t Sampler::Choose(absl::Span<const float> logits) {
  ++chosen_;
  const int32_t best = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  if (is_greedy()) return best;

  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const bool cut = options_.top_k > 0 && options_.top_k < static_cast<int64_t>(ids.size());
  if (cut || options_.top_p < 1) {
    auto more_probable = [&](int32_t a, int32_t b) {
      return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
    };
    const size_t kept = cut ? static_cast<size_t>(options_.top_k) : ids.size();
    std::partial_sort(ids.begin(), ids.begin() + static_cast<int64_t>(kept), ids.end(), more_probable);
    ids.resize(kept);
  }
  std::vector<double> weights;
  for (int32_t id : ids) {
    weights.push_back(std::exp((static_cast<double>(logits[id]) - logits[best]) / options_.temperature));
  }
  if (options_.top_p < 1) weights.resize(NucleusSize(weights, options_.top_p));

  double left = NextUniform() * std::accumulate(weights.begin(), weights.end(), 0.0);
  for (size_t i = 0; i < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0) return ids[i];
  }
  return best;  // rounding: the sum was reached by the last subtraction exactly
}

}  // namespace xh
