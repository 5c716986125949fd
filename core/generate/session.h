// One sequence being read and written: all state in one object with one position (SPEC.md 1.2).
#ifndef XHYBRID_CORE_GENERATE_SESSION_H_
#define XHYBRID_CORE_GENERATE_SESSION_H_

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/generate/sampler.h"
#include "core/generate/stop_filter.h"
#include "core/model/mixer.h"
#include "core/model/model.h"

namespace xh {

// Used by one thread at a time.
class Session {
 public:
  // `capacity`: most positions; 0 takes the model's context.
  static StatusOr<std::unique_ptr<Session>> Open(std::shared_ptr<const Model> model, int64_t capacity = 0);
  ~Session();

  // Reads tokens, at most as many at a time as the device finds worth it ("prefill_tokens", else 256): a graph is
  // compiled for each power of two and kept. All or nothing: bad ids and missing capacity (InvalidArgument) change
  // nothing. When the device fails, or the logits are not finite (InvalidState, naming the position), the state is lost
  // and every call says so until Reset or Restore.
  Status Feed(const int32_t* ids, int64_t count);
  // Adds up the time of each kind of op in every call from now on, NULL: no longer. Waits for the device after each op.
  void Profile(std::map<std::string, OpTime>* times);
  StatusOr<const std::vector<float>*> Logits() const;  // [V] after the last token; InvalidState before any
  // Chooses a token by the sampler and feeds it; see xh_session_next. InvalidState after the last token, until more is
  // fed or the sampler is set again.
  struct Chosen {
    int32_t token;
    std::string piece;
    bool finished;
  };
  Status SetSampler(const SamplerOptions& options);
  StatusOr<Chosen> Next();

  int64_t position() const { return position_; }
  int64_t capacity() const { return capacity_; }
  int64_t state_bytes() const;  // constant parts plus what capacity reserves
  Status Reset();
  // The state as bytes: a header with version, a digest of the model's shape and the position; logits; the used part of
  // every state tensor; a checksum. They hold what the position needs, whatever the capacity.
  StatusOr<std::string> Snapshot() const;
  // Corrupt for bytes that are no snapshot or damaged, Incompatible for one of another version or model shape,
  // InvalidArgument when the position exceeds the capacity. The state changes only on success. The sampler stays.
  Status Restore(const void* bytes, int64_t size);
  // Continues from the same state, sampler and text included.
  StatusOr<std::unique_ptr<Session>> Fork() const;
  const Model& model() const { return *model_; }

 private:
  struct Program;  // a compiled graph for one number of tokens
  class Choice;
  struct StateTensor {
    StateSpec spec;
    Buffer buffer;
  };
  // A contiguous part of a state tensor that holds something at a position.
  struct UsedPart {
    char* data;
    int64_t bytes;
  };
  // The last tokens of the sequence, oldest first, -1 where there are fewer: enough to decode the next one in context.
  using Tail = std::array<int32_t, 8>;

  explicit Session(std::shared_ptr<const Model> model);
  Status AllocateState();
  StatusOr<Program*> ProgramFor(int64_t tokens);
  std::vector<LayerState> DeclareState(Graph& graph, Value position) const;
  int64_t ChunkOf(int64_t count) const;
  Status CheckUsable() const;
  Status CheckFeed(const int32_t* ids, int64_t count) const;
  Status Prepare(int64_t count);
  Status Advance(const int32_t* ids, int64_t count);
  Status RunProgram(const int32_t* ids, int64_t tokens, bool last);
  Status ReadAnswer(Program& program);
  Status ReadLogits() const;
  Status CheckAnswer();
  StatusOr<std::string> PieceOf(int32_t token, bool* stopped);
  void Remember(const int32_t* ids, int64_t count);
  std::vector<UsedPart> UsedParts(int64_t position) const;
  std::string ShapeDigest() const;

  std::shared_ptr<const Model> model_;
  int64_t capacity_ = 0;
  int64_t most_tokens_ = 0;  // of one program, a power of two
  int64_t position_ = 0;
  std::string lost_;                             // why the state cannot be used; empty when it can
  std::vector<std::vector<StateTensor>> state_;  // by layer, in the order of MixerState
  Buffer rope_table_;
  std::map<int64_t, std::unique_ptr<Program>> programs_;
  std::map<std::string, OpTime>* profile_ = nullptr;
  Program* answered_ = nullptr;        // whose results are those of the last token; NULL before any, or when restored
  int32_t best_ = 0;                   // the most probable next token, while `answered_`
  float squares_ = 0;                  // sum of the logits' squares, while `answered_`
  mutable std::vector<float> logits_;  // read from the device when asked for; empty until then
  Sampler sampler_;
  bool finished_ = false;
  Tail tail_;
  std::unique_ptr<Tokenizer::Stream> stream_;  // opened by the first Next after a Feed
  StopFilter stop_filter_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_GENERATE_SESSION_H_
