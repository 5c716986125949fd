// What sequences carry from token to token (SPEC.md 1.2): mLSTM states and caches by layer, and the rotary table.
#ifndef XHYBRID_CORE_GENERATE_DECODE_STATE_H_
#define XHYBRID_CORE_GENERATE_DECODE_STATE_H_

#include <memory>
#include <vector>

#include "core/model/mixer.h"
#include "core/model/model.h"

namespace xh {

// Of `batch` sequences, each at a position of its own that is kept elsewhere. Used by one thread at a time.
class DecodeState {
 public:
  // `capacity`: most positions of a sequence; 0 takes the model's context. Holds nothing defined until Reset.
  static StatusOr<DecodeState> Open(std::shared_ptr<const Model> model, int64_t batch, int64_t capacity);
  // Every sequence at position 0, when the device gets there.
  Status Reset();

  std::vector<LayerState> Declare(Graph& graph, Value position) const;  // position i32[batch]
  Value DeclareRope(Graph& graph) const;

  // A contiguous part of a state tensor that holds something at a position.
  struct UsedPart {
    char* data;
    int64_t bytes;
  };
  // Of one sequence, layer by layer in the order of MixerState; the same whatever the capacity.
  std::vector<UsedPart> UsedParts(int64_t sequence, int64_t position) const;

  int64_t batch() const { return batch_; }
  int64_t capacity() const { return capacity_; }
  int64_t bytes() const;  // constant parts plus what the capacity reserves

 private:
  struct StateTensor {
    StateSpec spec;
    Buffer buffer;
  };
  DecodeState(std::shared_ptr<const Model> model, int64_t batch, int64_t capacity)
      : model_(std::move(model)), batch_(batch), capacity_(capacity) {}
  Status Allocate();

  std::shared_ptr<const Model> model_;
  int64_t batch_, capacity_;
  std::vector<std::vector<StateTensor>> layers_;  // in the order of MixerState
  Buffer rope_table_;
  std::vector<float> zeros_, lowest_;  // how one sequence's S and z, and its m, begin
};

}  // namespace xh

#endif  // XHYBRID_CORE_GENERATE_DECODE_STATE_H_
