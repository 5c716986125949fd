#include "core/probe/selection.h"

#include <algorithm>

namespace xh {
namespace {

constexpr double kMatters = 0.05;   // share of the gap from which a layer's heads are looked at one by one
constexpr double kWorthIt = 0.005;  // share of the gap that a further head must close
constexpr size_t kFewest = 2;       // layers that are looked at where none matters alone

double Share(const Importance& importance) { return std::max(importance.gain, importance.drop); }

bool MoreImportant(const Importance& a, const Importance& b) { return Share(a) > Share(b); }

}  // namespace

Selection::Selection(const ModelConfig& config, const Options& options)
    : config_(config), options_(options), kept_(UniformMask(config, false)) {}

const char* Selection::phase() const {
  return phase_ == Phase::kLayers ? "layers" : phase_ == Phase::kHeads ? "heads" : "choose";
}

Mask Selection::With(const Mask& mask, const Head& head, bool kept) const {
  Mask changed = mask;
  for (int64_t h = 0; h < config_.kv_heads; ++h) {
    if (head.head < 0 || head.head == h) changed[head.layer][h] = kept;
  }
  return changed;
}

std::vector<Mask> Selection::Wanted() const {
  const Mask full = UniformMask(config_, true), cut = UniformMask(config_, false);
  std::vector<Mask> masks;
  if (phase_ == Phase::kLayers) {
    masks = {full, cut};
    for (int64_t layer = 0; layer < config_.layer_count; ++layer) {
      masks.push_back(With(cut, {layer, -1}, true));
      masks.push_back(With(full, {layer, -1}, false));
    }
  } else if (phase_ == Phase::kHeads) {
    for (const Head& head : candidates_) {
      masks.push_back(With(cut, head, true));
      masks.push_back(With(full, head, false));
    }
  } else if (phase_ == Phase::kChoose) {
    for (const Head& head : candidates_) masks.push_back(With(kept_, head, true));
  }
  return masks;
}

std::vector<Importance> Selection::Measured(const std::vector<Head>& heads, const std::vector<double>& values,
                                            size_t first) const {
  std::vector<Importance> measured;
  const double gap = full_ - cut_;
  for (size_t i = 0; i < heads.size(); ++i) {
    Importance importance{heads[i]};
    if (gap > 0) {
      importance.gain = (values[first + 2 * i] - cut_) / gap;
      importance.drop = (full_ - values[first + 2 * i + 1]) / gap;
    }
    measured.push_back(importance);
  }
  return measured;
}

void Selection::Learn(const std::vector<double>& values) {
  if (phase_ == Phase::kLayers) {
    full_ = values[0];
    cut_ = values[1];
    std::vector<Head> layers;
    for (int64_t layer = 0; layer < config_.layer_count; ++layer) layers.push_back({layer, -1});
    layers_ = Measured(layers, values, 2);
    ChooseCandidates();
  } else if (phase_ == Phase::kHeads) {
    heads_ = Measured(candidates_, values, 0);
    StartChoosing();
  } else if (phase_ == Phase::kChoose) {
    KeepBest(values);
  }
}

// The heads of the layers that matter. With one key/value head a layer is its head.
void Selection::ChooseCandidates() {
  std::vector<Importance> ordered = layers_;
  std::stable_sort(ordered.begin(), ordered.end(), MoreImportant);
  for (size_t i = 0; i < ordered.size(); ++i) {
    if (Share(ordered[i]) < kMatters && i >= kFewest) break;
    for (int64_t h = 0; h < config_.kv_heads; ++h) candidates_.push_back({ordered[i].head.layer, h});
  }
  phase_ = Phase::kHeads;
  if (config_.kv_heads > 1) return;
  for (const Head& head : candidates_) {
    heads_.push_back(layers_[head.layer]);
    heads_.back().head = head;
  }
  StartChoosing();
}

void Selection::StartChoosing() {
  std::vector<Importance> ordered = heads_;
  std::stable_sort(ordered.begin(), ordered.end(), MoreImportant);
  for (size_t i = 0; i < ordered.size(); ++i) candidates_[i] = ordered[i].head;
  phase_ = has_gap() && options_.most_heads != 0 ? Phase::kChoose : Phase::kDone;
  if (phase_ == Phase::kDone) FillBudget();
}

bool Selection::Enough() const {
  return recovered_ >= options_.target || candidates_.empty() || kept_count_ == options_.most_heads;
}

void Selection::KeepBest(const std::vector<double>& values) {
  const size_t best = static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin());
  const double recovered = (values[best] - cut_) / (full_ - cut_);
  const bool worth_it = recovered > recovered_ + kWorthIt;
  if (worth_it) {
    kept_ = With(kept_, candidates_[best], true);
    ++kept_count_;
    recovered_ = recovered;
    candidates_.erase(candidates_.begin() + static_cast<int64_t>(best));
  }
  if (worth_it && !Enough()) return;
  phase_ = Phase::kDone;
  FillBudget();
}

// A budget that was asked for is used up: by the heads of the most important layers first.
void Selection::FillBudget() {
  std::vector<Head> rest = candidates_;
  std::vector<Importance> ordered = layers_;
  std::stable_sort(ordered.begin(), ordered.end(), MoreImportant);
  for (const Importance& layer : ordered) {
    for (int64_t h = 0; h < config_.kv_heads; ++h) rest.push_back({layer.head.layer, h});
  }
  for (const Head& head : rest) {
    if (kept_count_ >= options_.most_heads) return;
    if (kept_[head.layer][head.head]) continue;
    kept_ = With(kept_, head, true);
    ++kept_count_;
  }
}

}  // namespace xh
