// Sequences that are written together: the weights are read once for all of them.
#ifndef XHYBRID_CORE_GENERATE_BATCH_H_
#define XHYBRID_CORE_GENERATE_BATCH_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/generate/session.h"

namespace xh {

// A row of slots; each is empty or holds one sequence, put there from a session that has read its prompt. A sequence
// that ends leaves its slot. Used by one thread at a time.
class Batch {
 public:
  // `capacity` as of a session: most positions of a sequence.
  static StatusOr<std::unique_ptr<Batch>> Open(std::shared_ptr<const Model> model, int64_t slots, int64_t capacity = 0);

  // Copies state, sampler and text of a session of the same model, which stays as it is; what the slot held is dropped.
  Status Put(int64_t slot, const Session& session);
  Status Drop(int64_t slot);
  // One token for every sequence, [slots]; nothing where the slot is empty. Where one sequence cannot go on (capacity,
  // logits that are not finite) the call names its slot and changes nothing: drop it and call again. When the device
  // fails every sequence is lost.
  StatusOr<std::vector<std::optional<Chosen>>> Next();

  void Profile(std::map<std::string, OpTime>* times) { program_->Profile(times); }  // as of a session
  int64_t slots() const { return state_.batch(); }
  int64_t capacity() const { return state_.capacity(); }
  int64_t state_bytes() const { return state_.bytes(); }

 private:
  struct Sequence {
    Writer writer;
    int32_t best = 0;           // the most probable next token
    std::vector<float> logits;  // [V], where the sampler needs them
    bool stepping = false;      // a step began that has not finished, whatever was thrown
    bool finite = true;         // the logits
  };
  Batch(std::shared_ptr<const Model> model, DecodeState state);
  Status CheckSlot(int64_t slot) const;
  Status CheckSequences() const;
  Status Advance();
  Status KeepAnswer();
  Status ReadLogits();
  bool AnyNeedsLogits() const;

  std::shared_ptr<const Model> model_;
  DecodeState state_;
  std::unique_ptr<DecodeProgram> program_;
  std::vector<std::optional<Sequence>> sequences_;
  std::vector<int32_t> ids_, positions_;  // of the step in hand; empty slots read token 0 at position 0
  DecodeProgram::Answer answer_;
  std::vector<float> logits_;  // [slots, V] of the last step, where one of them is needed
};

}  // namespace xh

#endif  // XHYBRID_CORE_GENERATE_BATCH_H_
