// One sequence being read and written: all state in one object with one position (SPEC.md 1.2).
#ifndef XHYBRID_CORE_GENERATE_SESSION_H_
#define XHYBRID_CORE_GENERATE_SESSION_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/generate/decode_program.h"
#include "core/generate/decode_state.h"
#include "core/generate/writer.h"
#include "core/model/model.h"

namespace xh {

// Used by one thread at a time.
class Session {
 public:
  // `capacity`: most positions; 0 takes the model's context.
  static StatusOr<std::unique_ptr<Session>> Open(std::shared_ptr<const Model> model, int64_t capacity = 0);

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
  Status SetSampler(const SamplerOptions& options) { return writer_.Set(options); }
  StatusOr<Chosen> Next();

  int64_t position() const { return position_; }
  int64_t capacity() const { return state_.capacity(); }
  int64_t state_bytes() const { return state_.bytes(); }
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
  friend class Batch;  // goes on from a session's state
  Session(std::shared_ptr<const Model> model, DecodeState state);
  StatusOr<DecodeProgram*> ProgramFor(int64_t tokens);
  int64_t ChunkOf(int64_t count) const;
  Status CheckUsable() const;
  Status CheckFeed(const int32_t* ids, int64_t count) const;
  Status Prepare(int64_t count);
  Status Advance(const int32_t* ids, int64_t count);
  Status RunProgram(const int32_t* ids, int64_t tokens, bool last);
  Status ReadLogits() const;
  Status CheckAnswer();
  std::string ShapeDigest() const;

  std::shared_ptr<const Model> model_;
  DecodeState state_;
  int64_t most_tokens_ = 0;  // of one program, a power of two
  int64_t position_ = 0;
  std::string lost_;  // why the state cannot be used; empty when it can
  std::map<int64_t, std::unique_ptr<DecodeProgram>> programs_;
  std::map<std::string, OpTime>* profile_ = nullptr;
  DecodeProgram* answered_ = nullptr;  // whose results are those of the last token; NULL before any, or when restored
  DecodeProgram::Answer answer_;       // after the last token
  mutable std::vector<float> logits_;  // read from the device when asked for; empty until then
  Writer writer_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_GENERATE_SESSION_H_
