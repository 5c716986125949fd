#include "core/generate/session.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace xh {
namespace {

// Tokens of one program at most: what the device says, as a power of two.
int64_t MostTokens(const Device& device) {
  constexpr int64_t kUnlessSaid = 256, kAtMost = int64_t{1} << 16;
  const int64_t wanted = std::min(device.QueryInt("prefill_tokens").value_or(kUnlessSaid), kAtMost);
  int64_t tokens = 1;
  while (2 * tokens <= wanted) tokens *= 2;
  return tokens;
}

}  // namespace

Session::Session(std::shared_ptr<const Model> model, DecodeState state)
    : model_(std::move(model)), state_(std::move(state)), answer_{{0}, 0}, writer_(model_) {}

StatusOr<std::unique_ptr<Session>> Session::Open(std::shared_ptr<const Model> model, int64_t capacity) {
  XH_ASSIGN_OR_RETURN(DecodeState state, DecodeState::Open(model, 1, capacity));
  std::unique_ptr<Session> session(new Session(std::move(model), std::move(state)));
  session->most_tokens_ = MostTokens(*session->model_->device);
  XH_RETURN_IF_ERROR(session->Reset());
  return session;
}

Status Session::Reset() {
  lost_ = "a reset did not finish";  // until it has
  XH_RETURN_IF_ERROR(state_.Reset());
  position_ = 0;
  lost_.clear();
  answered_ = nullptr;
  logits_.clear();
  Writer::Tail nothing;
  nothing.fill(-1);
  writer_.Restart(nothing);
  return absl::OkStatus();
}

// ---- reading tokens ----

StatusOr<DecodeProgram*> Session::ProgramFor(int64_t tokens) {
  auto found = programs_.find(tokens);
  if (found != programs_.end()) return found->second.get();
  XH_ASSIGN_OR_RETURN(std::unique_ptr<DecodeProgram> program, DecodeProgram::Compile(*model_, state_, tokens));
  program->Profile(profile_);
  return (programs_[tokens] = std::move(program)).get();
}

// The largest power of two up to `count` and most_tokens_: few programs serve every length.
int64_t Session::ChunkOf(int64_t count) const {
  int64_t chunk = most_tokens_;
  while (chunk > count) chunk /= 2;
  return chunk;
}

Status Session::CheckUsable() const {
  if (lost_.empty()) return absl::OkStatus();
  return InvalidState("the session's state is lost (", lost_, "); reset or restore it");
}

Status Session::CheckFeed(const int32_t* ids, int64_t count) const {
  XH_RETURN_IF_ERROR(CheckUsable());
  if (count < 0) return InvalidArgument("the number of tokens is ", count, "; allowed: 0 or more");
  if (count > capacity() - position_) {
    return InvalidArgument("position ", position_ + count, " exceeds capacity ", capacity());
  }
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] < 0 || ids[i] >= model_->config.vocab_size) {
      return InvalidArgument("token id ", ids[i], " at index ", i, "; allowed: 0 to ", model_->config.vocab_size - 1);
    }
  }
  return absl::OkStatus();
}

void Session::Profile(std::map<std::string, OpTime>* times) {
  profile_ = times;
  for (auto& [tokens, program] : programs_) program->Profile(times);
}

Status Session::RunProgram(const int32_t* ids, int64_t tokens, bool last) {
  XH_ASSIGN_OR_RETURN(DecodeProgram * program, ProgramFor(tokens));
  const int32_t position = static_cast<int32_t>(position_);
  XH_RETURN_IF_ERROR(program->Run(ids, &position));
  if (!last) return model_->device->Synchronize();  // `position` must outlive the copy
  answered_ = program;
  logits_.clear();
  return program->Read(&answer_);
}

Status Session::ReadLogits() const {
  if (!logits_.empty() || answered_ == nullptr) return absl::OkStatus();
  std::vector<float> logits = std::move(logits_);  // empty, with the memory that Prepare reserved
  XH_RETURN_IF_ERROR(answered_->ReadLogits(&logits));
  logits_ = std::move(logits);
  return absl::OkStatus();
}

// A sum that is not finite may be that of large logits.
Status Session::CheckAnswer() {
  if (std::isfinite(answer_.squares)) return absl::OkStatus();
  XH_RETURN_IF_ERROR(ReadLogits());
  for (float logit : logits_) {
    if (std::isfinite(logit)) continue;
    lost_ = absl::StrCat("the logits at position ", position_ - 1, " are not finite");
    return InvalidState(lost_);
  }
  return absl::OkStatus();
}

// Makes all that needs memory first: a program that cannot be made loses nothing.
Status Session::Prepare(int64_t count) {
  for (int64_t done = 0; done < count; done += ChunkOf(count - done)) {
    XH_RETURN_IF_ERROR(ProgramFor(ChunkOf(count - done)).status());
  }
  logits_.reserve(static_cast<size_t>(model_->config.vocab_size));
  return absl::OkStatus();
}

// Everything was checked and prepared: from here on a failure loses the state.
Status Session::Advance(const int32_t* ids, int64_t count) {
  lost_ = "a step did not finish";  // until it has, whatever is thrown
  for (int64_t done = 0; done < count;) {
    const int64_t tokens = ChunkOf(count - done);
    const Status status = RunProgram(ids + done, tokens, done + tokens == count);
    if (!status.ok()) {
      lost_ = absl::StrCat("position ", position_, ": ", std::string(status.message()));
      return status;
    }
    done += tokens;
    position_ += tokens;
  }
  XH_RETURN_IF_ERROR(CheckAnswer());
  lost_.clear();
  return absl::OkStatus();
}

Status Session::Feed(const int32_t* ids, int64_t count) {
  XH_RETURN_IF_ERROR(CheckFeed(ids, count));
  if (count == 0) return absl::OkStatus();
  XH_RETURN_IF_ERROR(Prepare(count));
  writer_.Begin();
  XH_RETURN_IF_ERROR(Advance(ids, count));
  writer_.Read(ids, count);
  return absl::OkStatus();
}

StatusOr<const std::vector<float>*> Session::Logits() const {
  XH_RETURN_IF_ERROR(CheckUsable());
  XH_RETURN_IF_ERROR(ReadLogits());
  if (logits_.empty()) return InvalidState("the session has read no token yet: there are no logits");
  return &logits_;
}

// ---- writing tokens ----

StatusOr<Chosen> Session::Next() {
  XH_RETURN_IF_ERROR(writer_.is_greedy() && position_ > 0 ? CheckUsable() : Logits().status());
  if (writer_.finished()) return InvalidState("the text has ended: feed more tokens or set the sampler again");
  if (position_ >= capacity()) return InvalidArgument("position ", position_ + 1, " exceeds capacity ", capacity());
  XH_RETURN_IF_ERROR(Prepare(1));
  Writer::Attempt attempt(&writer_);
  XH_ASSIGN_OR_RETURN(Chosen chosen, writer_.Choose(answer_.best[0], logits_));
  XH_RETURN_IF_ERROR(Advance(&chosen.token, 1));
  attempt.Keep(chosen);
  return chosen;
}

}  // namespace xh
