// How a sequence goes on: which tokens are chosen, the text they make, and where it ends.
#ifndef XHYBRID_CORE_GENERATE_WRITER_H_
#define XHYBRID_CORE_GENERATE_WRITER_H_

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "core/generate/sampler.h"
#include "core/generate/stop_filter.h"
#include "core/model/model.h"

namespace xh {

struct Chosen {
  int32_t token;
  std::string piece;  // the text that became complete by it, whole characters
  bool finished;      // end token, stop text or most tokens
};

// Of one sequence; used by one thread at a time.
class Writer {
 public:
  // The last tokens of the sequence, oldest first, -1 where there are fewer: enough to decode the next one in context.
  using Tail = std::array<int32_t, 8>;

  explicit Writer(std::shared_ptr<const Model> model);
  Writer(const Writer& other);  // goes on from the same text
  Writer& operator=(const Writer& other);
  Writer(Writer&&) = default;
  Writer& operator=(Writer&&) = default;

  Status Set(const SamplerOptions& options);
  bool is_greedy() const { return sampler_.is_greedy(); }
  bool finished() const { return finished_; }
  const Tail& tail() const { return tail_; }

  // A new text after tokens that were read; none are known after `tail` alone.
  void Begin();
  void Restart(const Tail& tail);
  void Read(const int32_t* ids, int64_t count);

  // Puts back what Choose changed unless it is kept: a call that failed can be made again.
  class Attempt {
   public:
    explicit Attempt(Writer* writer)
        : writer_(writer), sampler_(writer->sampler_), stop_filter_(writer->stop_filter_) {}
    Attempt(Attempt&& other) noexcept;
    Attempt(const Attempt&) = delete;
    Attempt& operator=(const Attempt&) = delete;
    ~Attempt();
    // The chosen token was fed.
    void Keep(const Chosen& chosen);

   private:
    Writer* writer_;
    Sampler sampler_;
    StopFilter stop_filter_;
  };
  // Greedily `best`, else by the sampler from `logits` [V], which are not read when greedy.
  StatusOr<Chosen> Choose(int32_t best, absl::Span<const float> logits);

 private:
  StatusOr<std::string> PieceOf(int32_t token, bool* stopped);

  std::shared_ptr<const Model> model_;
  Sampler sampler_;
  bool finished_ = false;
  Tail tail_;
  std::unique_ptr<Tokenizer::Stream> stream_;  // opened by the first Choose after a Begin
  StopFilter stop_filter_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_GENERATE_WRITER_H_
