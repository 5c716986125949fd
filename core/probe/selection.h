// Which heads to keep, chosen from measured masks one pass at a time.
#ifndef XHYBRID_CORE_PROBE_SELECTION_H_
#define XHYBRID_CORE_PROBE_SELECTION_H_

#include <functional>
#include <string>
#include <vector>

#include "core/probe/ablation.h"

namespace xh {

struct Head {
  int64_t layer = 0;
  int64_t head = -1;  // -1: every head of the layer
};

// How much of the gap between everything cut and everything kept a set closes alone, and how much opens again when it
// alone is cut; 1 is all of it.
struct Importance {
  Head head;
  double gain = 0;
  double drop = 0;
};

// Asks for masks to be measured and learns their values until it has chosen. The value of a mask is a mean
// log-probability. One thread at a time.
class Selection {
 public:
  struct Options {
    int64_t most_heads = -1;  // key/value heads to keep; -1: as many as `target` takes
    double target = 0.95;     // share of the gap at which enough is kept
  };
  Selection(const ModelConfig& config, const Options& options);

  // The masks to be measured next, in an order that does not depend on time; none left: the choice is made.
  std::vector<Mask> Wanted() const;
  const char* phase() const;  // "layers", "heads", "choose"
  // The values of what Wanted gave.
  void Learn(const std::vector<double>& values);

  const Mask& kept() const { return kept_; }
  double recovered() const { return recovered_; }  // share of the gap that the choice closes
  bool has_gap() const { return full_ - cut_ > 0; }
  const std::vector<Importance>& layers() const { return layers_; }
  const std::vector<Importance>& heads() const { return heads_; }

 private:
  enum class Phase { kLayers, kHeads, kChoose, kDone };

  Mask With(const Mask& mask, const Head& head, bool kept) const;
  std::vector<Importance> Measured(const std::vector<Head>& heads, const std::vector<double>& values,
                                   size_t first) const;
  void ChooseCandidates();
  void StartChoosing();
  void KeepBest(const std::vector<double>& values);
  void FillBudget();
  bool Enough() const;

  ModelConfig config_;
  Options options_;
  Phase phase_ = Phase::kLayers;
  double full_ = 0, cut_ = 0, recovered_ = 0;
  std::vector<Importance> layers_, heads_;
  std::vector<Head> candidates_;  // single heads, most important first
  Mask kept_;
  int64_t kept_count_ = 0;
};

}  // namespace xh

#endif  // XHYBRID_CORE_PROBE_SELECTION_H_
