#include "core/generate/batch.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace xh {
namespace {

constexpr int64_t kMostSlots = 1024;

}  // namespace

Batch::Batch(std::shared_ptr<const Model> model, DecodeState state)
    : model_(std::move(model)), state_(std::move(state)) {
  const auto slots = static_cast<size_t>(state_.batch());
  sequences_.resize(slots);
  ids_.assign(slots, 0);
  positions_.assign(slots, 0);
  answer_.best.assign(slots, 0);
}

StatusOr<std::unique_ptr<Batch>> Batch::Open(std::shared_ptr<const Model> model, int64_t slots, int64_t capacity) {
  if (slots < 1 || slots > kMostSlots) {
    return InvalidArgument("batch: \"slots\" is ", slots, "; allowed: 1 to ", kMostSlots);
  }
  XH_ASSIGN_OR_RETURN(DecodeState state, DecodeState::Open(model, slots, capacity));
  std::unique_ptr<Batch> batch(new Batch(std::move(model), std::move(state)));
  XH_RETURN_IF_ERROR(batch->state_.Reset());  // empty slots are computed too
  XH_ASSIGN_OR_RETURN(batch->program_, DecodeProgram::Compile(*batch->model_, batch->state_, 1));
  return batch;
}

Status Batch::CheckSlot(int64_t slot) const {
  if (slot >= 0 && slot < slots()) return absl::OkStatus();
  return InvalidArgument("slot ", slot, "; allowed: 0 to ", slots() - 1);
}

Status Batch::Put(int64_t slot, const Session& session) {
  XH_RETURN_IF_ERROR(CheckSlot(slot));
  if (session.model_ != model_) return InvalidArgument("slot ", slot, ": the session is of another model");
  XH_RETURN_IF_ERROR(session.CheckUsable());
  if (session.position() == 0) return InvalidState("slot ", slot, ": the session has read no token yet");
  if (session.position() > capacity()) {
    return InvalidArgument("slot ", slot, ": position ", session.position(), " of the session exceeds capacity ",
                           capacity());
  }
  if (session.writer_.finished()) return InvalidState("slot ", slot, ": the session's text has ended");
  Sequence sequence{session.writer_, session.answer_.best[0], {}};
  if (!sequence.writer.is_greedy()) {
    XH_ASSIGN_OR_RETURN(const std::vector<float>* logits, session.Logits());
    sequence.logits = *logits;
  }
  const std::vector<DecodeState::UsedPart> from = session.state_.UsedParts(0, session.position());
  const std::vector<DecodeState::UsedPart> to = state_.UsedParts(slot, session.position());
  XH_RETURN_IF_ERROR(Drop(slot));  // what it held is overwritten
  for (size_t i = 0; i < from.size(); ++i) {
    XH_RETURN_IF_ERROR(model_->device->Copy(to[i].data, from[i].data, from[i].bytes));
  }
  XH_RETURN_IF_ERROR(model_->device->Synchronize());
  sequences_[slot] = std::move(sequence);
  positions_[slot] = static_cast<int32_t>(session.position());
  return absl::OkStatus();
}

Status Batch::Drop(int64_t slot) {
  XH_RETURN_IF_ERROR(CheckSlot(slot));
  sequences_[slot].reset();
  ids_[slot] = positions_[slot] = 0;
  return absl::OkStatus();
}

Status Batch::CheckSequences() const {
  for (size_t slot = 0; slot < sequences_.size(); ++slot) {
    if (!sequences_[slot].has_value()) continue;
    if (sequences_[slot]->stepping) return InvalidState("slot ", slot, " is lost: a step did not finish; drop it");
    if (!sequences_[slot]->finite) {
      return InvalidState("slot ", slot, " is lost: the logits at position ", positions_[slot] - 1,
                          " are not finite; drop it");
    }
    if (positions_[slot] >= capacity()) {
      return InvalidArgument("slot ", slot, ": position ", positions_[slot] + 1, " exceeds capacity ", capacity());
    }
  }
  return absl::OkStatus();
}

bool Batch::AnyNeedsLogits() const {
  return std::any_of(sequences_.begin(), sequences_.end(), [](const std::optional<Sequence>& sequence) {
    return sequence.has_value() && !sequence->writer.is_greedy();
  });
}

Status Batch::ReadLogits() {
  XH_RETURN_IF_ERROR(program_->ReadLogits(&logits_));
  const auto vocab_size = static_cast<size_t>(model_->config.vocab_size);
  for (size_t slot = 0; slot < sequences_.size(); ++slot) {
    if (!sequences_[slot].has_value()) continue;
    Sequence& sequence = *sequences_[slot];
    const auto row = logits_.begin() + static_cast<std::ptrdiff_t>(slot * vocab_size);
    const auto end = row + static_cast<std::ptrdiff_t>(vocab_size);
    sequence.finite = std::all_of(row, end, [](float logit) { return std::isfinite(logit); });
    if (!sequence.writer.is_greedy()) std::copy(row, end, sequence.logits.begin());
  }
  return absl::OkStatus();
}

Status Batch::KeepAnswer() {
  for (size_t slot = 0; slot < sequences_.size(); ++slot) {
    if (!sequences_[slot].has_value()) continue;
    sequences_[slot]->best = answer_.best[slot];
    ++positions_[slot];
  }
  // A sum that is not finite may be that of large logits, or of an empty slot.
  return AnyNeedsLogits() || !std::isfinite(answer_.squares) ? ReadLogits() : absl::OkStatus();
}

// Everything was checked and prepared: from here on a failure loses the sequences.
Status Batch::Advance() {
  const auto stepping = [this](bool yes) {
    for (std::optional<Sequence>& sequence : sequences_) {
      if (sequence.has_value()) sequence->stepping = yes;
    }
  };
  stepping(true);
  XH_RETURN_IF_ERROR(program_->Run(ids_.data(), positions_.data()));
  XH_RETURN_IF_ERROR(program_->Read(&answer_));
  XH_RETURN_IF_ERROR(KeepAnswer());
  stepping(false);
  return absl::OkStatus();
}

StatusOr<std::vector<std::optional<Chosen>>> Batch::Next() {
  XH_RETURN_IF_ERROR(CheckSequences());
  std::vector<std::optional<Chosen>> all(sequences_.size());
  std::vector<Writer::Attempt> attempts;
  attempts.reserve(sequences_.size());
  for (size_t slot = 0; slot < sequences_.size(); ++slot) {
    if (!sequences_[slot].has_value()) continue;
    Sequence& sequence = *sequences_[slot];
    attempts.emplace_back(&sequence.writer);
    XH_ASSIGN_OR_RETURN(all[slot], sequence.writer.Choose(sequence.best, sequence.logits));
    ids_[slot] = all[slot]->token;
  }
  if (attempts.empty()) return all;
  XH_RETURN_IF_ERROR(Advance());
  auto attempt = attempts.begin();
  for (size_t slot = 0; slot < sequences_.size(); ++slot) {
    if (!all[slot].has_value()) continue;
    (attempt++)->Keep(*all[slot]);
    if (all[slot]->finished) XH_RETURN_IF_ERROR(Drop(static_cast<int64_t>(slot)));
  }
  return all;
}

}  // namespace xh
