// A compiled graph that reads some tokens of every sequence of a state and answers with what comes next.
#ifndef XHYBRID_CORE_GENERATE_DECODE_PROGRAM_H_
#define XHYBRID_CORE_GENERATE_DECODE_PROGRAM_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/generate/decode_state.h"

namespace xh {

// Belongs to one state, which must outlive it. Used by one thread at a time.
class DecodeProgram {
 public:
  // `tokens` of each sequence at a time; more than one only of a single sequence.
  static StatusOr<std::unique_ptr<DecodeProgram>> Compile(const Model& model, const DecodeState& state, int64_t tokens);

  // ids [batch * tokens], positions [batch]: tokens that came before. Both must live until the device was waited for.
  Status Run(const int32_t* ids, const int32_t* positions);
  // What choosing greedily needs, of the last token of each sequence; half a megabyte of logits each stays where it is.
  // Waits for the device.
  struct Answer {
    std::vector<int32_t> best;  // [batch], the id of the largest logit
    float squares = 0;          // sum of all logits' squares: finite only if they are
  };
  Status Read(Answer* answer);
  // [batch, V], f32. Waits for the device.
  Status ReadLogits(std::vector<float>* logits);
  void Profile(std::map<std::string, OpTime>* times) { graph_.Profile(times); }

 private:
  explicit DecodeProgram(std::shared_ptr<Device> device) : device_(device), graph_(std::move(device)) {}
  std::shared_ptr<Device> device_;
  Graph graph_;
  Value ids_, position_;
  Value logits_, best_, squares_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_GENERATE_DECODE_PROGRAM_H_
