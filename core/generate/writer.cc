#include "core/generate/writer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/checkpoint/names.h"

namespace xh {
namespace {

Status CheckSampler(const SamplerOptions& options) {
  if (!std::isfinite(options.temperature) || options.temperature < 0) {
    return InvalidArgument("sampler: \"temperature\" is ", options.temperature, "; allowed: 0 or more");
  }
  if (options.top_k < 0) return InvalidArgument("sampler: \"top_k\" is ", options.top_k, "; allowed: 0 or more");
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return InvalidArgument("sampler: \"top_p\" is ", options.top_p, "; allowed: more than 0, at most 1");
  }
  if (options.max_tokens < 1) {
    return InvalidArgument("sampler: \"max_tokens\" is ", options.max_tokens, "; allowed: 1 or more");
  }
  for (const std::string& stop : options.stop) {
    if (stop.empty() || !IsUtf8(stop)) {
      return InvalidArgument("sampler: \"stop\" is ", Quoted(stop), "; allowed: UTF-8 text that is not empty");
    }
  }
  return absl::OkStatus();
}

}  // namespace

Writer::Writer(std::shared_ptr<const Model> model) : model_(std::move(model)) { tail_.fill(-1); }

Writer::Writer(const Writer& other)
    : model_(other.model_),
      sampler_(other.sampler_),
      finished_(other.finished_),
      tail_(other.tail_),
      stop_filter_(other.stop_filter_) {}

Writer& Writer::operator=(const Writer& other) {
  if (this != &other) *this = Writer(other);
  return *this;
}

Status Writer::Set(const SamplerOptions& options) {
  XH_RETURN_IF_ERROR(CheckSampler(options));
  if (!options.stop.empty() && model_->tokenizer == nullptr) {
    return InvalidState("sampler: \"stop\" needs a tokenizer, and there is none: ", model_->tokenizer_problem);
  }
  Sampler sampler(options);
  stop_filter_ = StopFilter(options.stop);
  sampler_ = std::move(sampler);
  finished_ = false;
  return absl::OkStatus();
}

void Writer::Begin() {
  finished_ = false;
  stream_.reset();
  stop_filter_.Flush();
}

void Writer::Restart(const Tail& tail) {
  Begin();
  tail_ = tail;
}

void Writer::Read(const int32_t* ids, int64_t count) {
  const int64_t fresh = std::min(count, static_cast<int64_t>(tail_.size()));
  std::rotate(tail_.begin(), tail_.begin() + fresh, tail_.end());
  std::copy(ids + count - fresh, ids + count, tail_.end() - fresh);
}

Writer::Attempt::Attempt(Attempt&& other) noexcept
    : writer_(std::exchange(other.writer_, nullptr)),
      sampler_(std::move(other.sampler_)),
      stop_filter_(std::move(other.stop_filter_)) {}

Writer::Attempt::~Attempt() {
  if (writer_ == nullptr) return;
  writer_->sampler_ = std::move(sampler_);
  writer_->stop_filter_ = std::move(stop_filter_);
  writer_->stream_.reset();  // opened again from the last tokens
}

void Writer::Attempt::Keep(const Chosen& chosen) {
  writer_->Read(&chosen.token, 1);
  writer_->finished_ = chosen.finished;
  writer_ = nullptr;
}

// The text that `token` completes; ids beyond the tokenizer's, which pad a vocabulary, have none.
StatusOr<std::string> Writer::PieceOf(int32_t token, bool* stopped) {
  *stopped = false;
  const std::shared_ptr<const Tokenizer>& tokenizer = model_->tokenizer;
  if (tokenizer == nullptr) return std::string();
  if (stream_ == nullptr) {
    XH_ASSIGN_OR_RETURN(Tokenizer::Stream stream, Tokenizer::OpenStream(tokenizer));
    stream_ = std::make_unique<Tokenizer::Stream>(std::move(stream));
    for (int32_t id : tail_) {  // what came before decides on the space in front of the first piece
      if (id >= 0 && id < tokenizer->vocab_size()) XH_RETURN_IF_ERROR(stream_->Push(id).status());
    }
  }
  if (token >= tokenizer->vocab_size()) return std::string();
  XH_ASSIGN_OR_RETURN(const std::string piece, stream_->Push(token));
  return stop_filter_.Push(piece, stopped);
}

StatusOr<Chosen> Writer::Choose(int32_t best, absl::Span<const float> logits) {
  Chosen chosen{is_greedy() ? sampler_.Take(best) : sampler_.Choose(logits), "", false};
  const std::vector<int32_t>& ends = model_->config.eos_ids;
  const bool is_end = std::find(ends.begin(), ends.end(), chosen.token) != ends.end();
  bool stopped = false;
  if (!is_end) {
    XH_ASSIGN_OR_RETURN(chosen.piece, PieceOf(chosen.token, &stopped));
  }
  chosen.finished = is_end || stopped || sampler_.chosen() >= sampler_.options().max_tokens;
  if (chosen.finished && !stopped) chosen.piece += stop_filter_.Flush();
  return chosen;
}

}  // namespace xh
