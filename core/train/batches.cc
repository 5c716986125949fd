#include "core/train/batches.h"

#include <algorithm>
#include <numeric>

#include "core/json_fields.h"

namespace xh {
namespace {

// SplitMix64: small, well mixed and the same everywhere, which std::shuffle is not.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    state_ += 0x9E3779B97F4A7C15ull;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  // Uniform below `bound` to within 2^-32: good enough for shuffling at most 2^31 documents.
  uint64_t Below(uint64_t bound) { return (Next() >> 32) * bound >> 32; }

 private:
  uint64_t state_;
};

int32_t IdOf(int32_t held) { return held < 0 ? ~held : held; }
int32_t TargetOf(int32_t held) { return held < 0 ? kIgnoredTarget : held; }

}  // namespace

StatusOr<BatchStream> BatchStream::Open(std::vector<Documents> sources, std::vector<double> weights, int64_t context,
                                        uint64_t seed) {
  BatchStream stream;
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  int64_t tokens = 0;
  std::string names;
  for (size_t i = 0; i < sources.size(); ++i) {
    stream.sources_.emplace_back();
    stream.sources_[i].share = weights[i] / total;
    tokens += static_cast<int64_t>(sources[i].tokens.size());
    absl::StrAppend(&names, i > 0 ? ", " : "", sources[i].path);
  }
  if (sources.empty()) return InvalidArgument("\"data\" is empty; allowed: at least one file");
  if (tokens < context + 1) {
    return InvalidArgument("the data (", names, ") holds ", tokens, " tokens; allowed: at least ", context + 1,
                           ", one row of \"context\" tokens and the one after it");
  }
  stream.documents_ = std::move(sources);
  stream.context_ = context;
  stream.seed_ = seed;
  for (size_t i = 0; i < stream.sources_.size(); ++i) stream.Shuffle(i);
  stream.BeginDocument();
  return stream;
}

// The order of a source's documents in its current epoch depends on the seed, the source and the epoch alone.
void BatchStream::Shuffle(size_t source) {
  Source& s = sources_[source];
  s.order.resize(static_cast<size_t>(documents_[source].count()));
  std::iota(s.order.begin(), s.order.end(), 0);
  Random random(Random(Random(seed_ + source).Next() + static_cast<uint64_t>(s.epoch)).Next());
  for (size_t i = s.order.size(); i > 1; --i) std::swap(s.order[i - 1], s.order[random.Below(i)]);
}

void BatchStream::BeginDocument() {
  int64_t total = 0;
  for (const Source& source : sources_) total += source.taken;
  size_t chosen = 0;
  double furthest = -1e300;
  for (size_t i = 0; i < sources_.size(); ++i) {
    // + 1: at the start the largest share comes first.
    const double behind = sources_[i].share * static_cast<double>(total + 1) - static_cast<double>(sources_[i].taken);
    if (sources_[i].share > 0 && behind > furthest) furthest = behind, chosen = i;
  }
  Source& source = sources_[chosen];
  const Documents& documents = documents_[chosen];
  if (source.next == documents.count()) {
    ++source.epoch;
    source.next = 0;
    Shuffle(chosen);
  }
  const auto document = static_cast<size_t>(source.order[static_cast<size_t>(source.next++)]);
  current_ = chosen;
  at_ = documents.starts[document];
  end_ = documents.starts[document + 1];
  source.taken += end_ - at_;
}

// The tokens of the current document from here on: never none.
const int32_t* BatchStream::Ahead(int64_t* count) {
  if (at_ == end_) BeginDocument();
  *count = end_ - at_;
  return documents_[current_].tokens.data() + at_;
}

void BatchStream::NextRow(int32_t* ids, int32_t* targets, int32_t* starts) {
  int64_t filled = 0;
  while (filled < context_) {
    int64_t count = 0;
    const int32_t* tokens = Ahead(&count);
    count = std::min(count, context_ - filled);
    for (int64_t i = 0; i < count; ++i) {
      ids[filled + i] = IdOf(tokens[i]);
      if (filled + i > 0) targets[filled + i - 1] = TargetOf(tokens[i]);
    }
    // What Ahead gives never goes past the document's end.
    if (starts != nullptr) std::fill_n(starts + filled, count, static_cast<int32_t>(filled));
    filled += count;
    at_ += count;
  }
  int64_t count = 0;
  targets[context_ - 1] = TargetOf(*Ahead(&count));
}

int64_t BatchStream::rows_per_epoch() const {
  int64_t tokens = 0;
  for (const Documents& documents : documents_) tokens += static_cast<int64_t>(documents.tokens.size());
  return tokens / context_;
}

nlohmann::json BatchStream::Position() const {
  nlohmann::json sources = nlohmann::json::array();
  for (const Source& source : sources_) {
    sources.push_back({{"epoch", source.epoch}, {"next", source.next}, {"taken", source.taken}});
  }
  return {{"sources", sources}, {"current", current_}, {"at", at_}, {"end", end_}};
}

Status BatchStream::Restore(const nlohmann::json& position) {
  const std::string where = "the loader's position";
  JsonFields fields(&position, where);
  const nlohmann::json* list = fields.Get("sources");
  if (list == nullptr || !list->is_array() || list->size() != sources_.size()) {
    return Incompatible(where, " does not belong to ", sources_.size(), " data files");
  }
  for (size_t i = 0; i < sources_.size(); ++i) {
    JsonFields entry(&(*list)[i], where);
    XH_ASSIGN_OR_RETURN(sources_[i].epoch, entry.Int("epoch", 0, INT64_MAX));
    XH_ASSIGN_OR_RETURN(sources_[i].next, entry.Int("next", 0, documents_[i].count()));
    XH_ASSIGN_OR_RETURN(sources_[i].taken, entry.Int("taken", 0, INT64_MAX));
    Shuffle(i);
  }
  XH_ASSIGN_OR_RETURN(const int64_t current, fields.Int("current", 0, static_cast<int64_t>(sources_.size()) - 1));
  current_ = static_cast<size_t>(current);
  XH_ASSIGN_OR_RETURN(end_, fields.Int("end", 0, static_cast<int64_t>(documents_[current_].tokens.size())));
  XH_ASSIGN_OR_RETURN(at_, fields.Int("at", 0, end_));
  return absl::OkStatus();
}

}  // namespace xh
