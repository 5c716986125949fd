// Rows of training tokens: documents of several sources mixed by weight and packed full, the same stream from the same
// seed, wherever it is resumed.
#ifndef XHYBRID_CORE_TRAIN_BATCHES_H_
#define XHYBRID_CORE_TRAIN_BATCHES_H_

#include <vector>

#include "core/error.h"
#include "core/train/dataset.h"
#include "nlohmann/json.hpp"

namespace xh {

inline constexpr int32_t kIgnoredTarget = -100;

// One thread at a time.
//
// Documents follow one another without gaps; state and window run on inside a row or not, as the step says (SPEC.md 4).
// The next document comes
// from the source that is furthest behind its share of the tokens, in an order shuffled anew for every pass through the
// source. A row's targets are its tokens one on, so that the last one is the next row's first.
class BatchStream {
 public:
  // `weights` one a source, relative; InvalidArgument when all sources together do not fill one row.
  static StatusOr<BatchStream> Open(std::vector<Documents> sources, std::vector<double> weights, int64_t context,
                                    uint64_t seed);

  // Writes one row: ids[context]; targets[context] with kIgnoredTarget where nothing is to be predicted; and, unless
  // NULL, starts[context], where in the row each token's document begins (0 where it began in a row before).
  void NextRow(int32_t* ids, int32_t* targets, int32_t* starts = nullptr);

  int64_t context() const { return context_; }
  const std::vector<Documents>& sources() const { return documents_; }
  // Rows of one pass through every source.
  int64_t rows_per_epoch() const;

  // The exact position, a few numbers a source. Restore refuses one that does not belong to these sources.
  nlohmann::json Position() const;
  Status Restore(const nlohmann::json& position);

 private:
  struct Source {
    double share = 0;
    int64_t epoch = 0;
    int64_t next = 0;            // documents of this epoch already begun
    int64_t taken = 0;           // tokens of all documents begun
    std::vector<int32_t> order;  // documents of this epoch, shuffled
  };

  void Shuffle(size_t source);
  void BeginDocument();
  const int32_t* Ahead(int64_t* count);

  std::vector<Documents> documents_;
  std::vector<Source> sources_;
  int64_t context_ = 0;
  uint64_t seed_ = 0;
  // The next token is documents_[current_].tokens[at_]; the document ends before end_.
  size_t current_ = 0;
  int64_t at_ = 0;
  int64_t end_ = 0;
};

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_BATCHES_H_
