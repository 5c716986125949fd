// One sequence being read and written: all state in one object with one position (SPEC.md 1.2).
#ifndef XHYBRID_CORE_GENERATE_SESSION_H_
#define XHYBRID_CORE_GENERATE_SESSION_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/generate/sampler.h"
#include "core/model/model.h"

namespace xh {

// Used by one thread at a time.
class Session {
 public:
  // `capacity`: most positions; 0 takes the model's context.
  static StatusOr<std::unique_ptr<Session>> Open(std::shared_ptr<const Model> model, int64_t capacity = 0);

  Status Feed(const int32_t* ids, int64_t count);      // all or nothing
  StatusOr<const std::vector<float>*> Logits() const;  // [V] after the last token; InvalidState before any
  // Chooses a token by the sampler and feeds it; see xh_session_next.
  struct Chosen {
    int32_t token;
    std::string piece;
    bool finished;
  };
  Status SetSampler(const SamplerOptions& options);
  StatusOr<Chosen> Next();

  int64_t position() const { return position_; }
  int64_t state_bytes() const;  // constant parts plus what capacity reserves
  Status Reset();
  StatusOr<std::string> Snapshot() const;  // versioned bytes; unlimited heads store used slots only
  Status Restore(const void* bytes, int64_t size);
  StatusOr<std::unique_ptr<Session>> Fork() const;
  const Model& model() const { return *model_; }

 private:
  struct Program;  // a compiled graph for one number of tokens
  explicit Session(std::shared_ptr<const Model> model);
  StatusOr<Program*> ProgramFor(int64_t tokens);

  std::shared_ptr<const Model> model_;
  int64_t capacity_ = 0;
  int64_t position_ = 0;
  std::vector<std::vector<Buffer>> state_;  // by layer, in the order of MixerState
  Buffer rope_table_;
  std::map<int64_t, std::unique_ptr<Program>> programs_;
  std::vector<float> logits_;
  Sampler sampler_;
  // Text held back until it forms whole characters or can no longer begin a stop text.
  std::unique_ptr<Tokenizer::Stream> stream_;
  std::string held_text_;

 public:
  ~Session();
};

}  // namespace xh

#endif  // XHYBRID_CORE_GENERATE_SESSION_H_
