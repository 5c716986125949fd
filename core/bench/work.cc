#include "core/bench/work.h"

#include <algorithm>

#include "core/model/mixer.h"

namespace xh {
namespace {

// Keys that token t sees, averaged over t in [0, tokens).
double AverageKeys(int32_t window, int32_t sinks, int64_t tokens) {
  double total = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t seen = t + 1;
    total += static_cast<double>(window == 0 ? seen : std::min<int64_t>(seen, window + sinks));
  }
  return total / static_cast<double>(tokens);
}

}  // namespace

ForwardWork CountForward(const ModelConfig& config, int64_t tokens) {
  const auto D = static_cast<double>(config.hidden_size), F = static_cast<double>(config.intermediate_size);
  const auto H = static_cast<double>(config.heads), KV = static_cast<double>(config.kv_heads);
  const auto d = static_cast<double>(config.head_dim);
  ForwardWork work;
  work.head = 2 * static_cast<double>(config.vocab_size) * D;
  for (int64_t layer = 0; layer < config.layer_count; ++layer) {
    const MixerConfig& mixer = config.mixers[static_cast<size_t>(layer)];
    const MixerKind& kind = *FindMixerKind(mixer.kind);
    work.projections += 2 * D * (2 * H * d + 2 * KV * d) + 2 * 3 * D * F;
    for (int32_t window : mixer.windows) {
      work.attention += 4 * d * H / KV * AverageKeys(window, mixer.sinks, tokens);
    }
    if (!kind.has_mlstm) continue;
    const bool maps = mixer.feature_map != "none";
    const double n = (maps ? static_cast<double>(mixer.features) : d) * (mixer.feature_map == "hedgehog" ? 2 : 1);
    const auto mixed = static_cast<double>(MlstmHeadsOf(config, mixer).query.size());
    if (maps) work.maps += 2 * 2 * mixed * d * static_cast<double>(mixer.features);
    work.recurrence += 4 * mixed * n * d;
    work.projections += 2 * 2 * mixed * D + (kind.has_window ? 2 * 3 * mixed * d : 0);
  }
  return work;
}

double AlignFlops(const ModelConfig& teacher, const ModelConfig& student, int64_t tokens) {
  const ForwardWork t = CountForward(teacher, tokens);
  const ForwardWork s = CountForward(student, tokens);
  // The last block's MLP and W_o and the head are not needed for the teacher's last mixer.
  const auto D = static_cast<double>(teacher.hidden_size);
  const double tail = 2 * D * static_cast<double>(teacher.heads * teacher.head_dim) +
                      6 * D * static_cast<double>(teacher.intermediate_size);
  const double gates = s.projections - CountForward(teacher, tokens).projections;
  return t.projections - tail + t.attention + s.attention + 2 * s.maps + 3 * s.recurrence + 2 * gates;
}

double DistillFlops(const ModelConfig& teacher, const ModelConfig& student, int64_t tokens) {
  auto forward = [&](const ModelConfig& config) {
    const ForwardWork work = CountForward(config, tokens);
    return work.projections + work.head + work.maps + work.recurrence + work.attention;
  };
  return forward(teacher) + 3 * forward(student);
}

}  // namespace xh
