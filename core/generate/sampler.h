// Choosing the next token from logits: greedy, temperature, top-k, top-p; deterministic by seed.
#ifndef XHYBRID_CORE_GENERATE_SAMPLER_H_
#define XHYBRID_CORE_GENERATE_SAMPLER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace xh {

struct SamplerOptions {
  double temperature = 0;  // 0: greedy
  int64_t top_k = 0;       // 0: all
  double top_p = 1;
  uint64_t seed = 0;
  int64_t max_tokens = 256;
  std::vector<std::string> stop;
};

class Sampler {
 public:
  Sampler() = default;
  explicit Sampler(const SamplerOptions& options) : options_(options), state_(options.seed) {}
  // Ties go to the lower id. Logits must be finite (checked by the caller).
  int32_t Choose(absl::Span<const float> logits);
  // Whether it takes the most probable token, whatever the others are.
  bool is_greedy() const { return options_.temperature <= 0 || options_.top_k == 1; }
  // Notes that the most probable token was taken.
  int32_t Take(int32_t best);
  const SamplerOptions& options() const { return options_; }
  int64_t chosen() const { return chosen_; }

 private:
  double NextUniform();
  SamplerOptions options_;
  uint64_t state_ = 0;
  int64_t chosen_ = 0;
};

}  // namespace xh

#endif  // XHYBRID_CORE_GENERATE_SAMPLER_H_
