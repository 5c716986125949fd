#include "core/generate/session.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/checkpoint/dtype.h"
#include "core/checkpoint/names.h"
#include "core/model/limits.h"

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

struct Session::Program {
  explicit Program(std::shared_ptr<Device> device) : graph(std::move(device)) {}
  Graph graph;
  Value ids;       // i32[T]
  Value position;  // i32[1]
  Value logits;    // f32[1,V], of the last token
  Value best;      // i32[1,1], the id of the largest of them
  Value squares;   // f32[1], the sum of their squares: finite only if they are
};

Session::Session(std::shared_ptr<const Model> model) : model_(std::move(model)) {}
Session::~Session() = default;

StatusOr<std::unique_ptr<Session>> Session::Open(std::shared_ptr<const Model> model, int64_t capacity) {
  if (capacity < 0 || capacity > kMostPositions) {
    return InvalidArgument("session: \"capacity\" is ", capacity, "; allowed: 0 (the model's context) to ",
                           kMostPositions);
  }
  std::unique_ptr<Session> session(new Session(std::move(model)));
  session->most_tokens_ = MostTokens(*session->model_->device);
  session->capacity_ = capacity > 0 ? capacity : session->model_->config.context;
  XH_RETURN_IF_ERROR(session->AllocateState());
  XH_RETURN_IF_ERROR(session->Reset());
  return session;
}

Status Session::AllocateState() {
  const ModelConfig& config = model_->config;
  Device& device = *model_->device;
  for (int64_t layer = 0; layer < config.layer_count; ++layer) {
    std::vector<StateTensor> tensors;
    for (StateSpec& spec : MixerState(config, layer, 1, capacity_)) {
      const xh_dtype dtype = spec.is_cache ? model_->activation_dtype() : XH_F32;
      XH_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(dtype, spec.shape));
      XH_ASSIGN_OR_RETURN(Buffer buffer, device.Allocate(bytes));
      tensors.push_back({std::move(spec), std::move(buffer)});
    }
    state_.push_back(std::move(tensors));
  }
  const std::vector<float> table = RopeTable(config, capacity_);
  const int64_t bytes = static_cast<int64_t>(table.size() * sizeof(float));
  XH_ASSIGN_OR_RETURN(rope_table_, device.Allocate(bytes));
  XH_RETURN_IF_ERROR(device.Copy(rope_table_.data(), table.data(), bytes));
  return device.Synchronize();
}

// S and z begin at 0, m at -inf (SPEC.md 1.1). Caches are read only where they were written.
Status Session::Reset() {
  int64_t largest = 0;
  for (const std::vector<StateTensor>& layer : state_) {
    for (const StateTensor& tensor : layer)
      largest = std::max(largest, tensor.spec.is_cache ? 0 : tensor.buffer.bytes());
  }
  std::vector<float> values(static_cast<size_t>(largest) / sizeof(float));  // before anything changes
  lost_ = "a reset did not finish";                                         // until it has
  for (const std::vector<StateTensor>& layer : state_) {
    for (const StateTensor& tensor : layer) {
      if (tensor.spec.is_cache) continue;
      const float start = tensor.spec.name == "m" ? -std::numeric_limits<float>::infinity() : 0.0f;
      std::fill(values.begin(), values.end(), start);
      XH_RETURN_IF_ERROR(model_->device->Copy(tensor.buffer.data(), values.data(), tensor.buffer.bytes()));
      XH_RETURN_IF_ERROR(model_->device->Synchronize());
    }
  }
  position_ = 0;
  lost_.clear();
  answered_ = nullptr;
  logits_.clear();
  finished_ = false;
  tail_.fill(-1);
  stream_.reset();
  stop_filter_.Flush();
  return absl::OkStatus();
}

int64_t Session::state_bytes() const {
  int64_t bytes = 0;
  for (const std::vector<StateTensor>& layer : state_) {
    for (const StateTensor& tensor : layer) bytes += tensor.buffer.bytes();
  }
  return bytes;
}

// ---- reading tokens ----

std::vector<LayerState> Session::DeclareState(Graph& graph, Value position) const {
  std::vector<LayerState> layers;
  for (const std::vector<StateTensor>& tensors : state_) {
    LayerState layer;
    layer.cache.position = position;
    layer.cache.capacity = capacity_;
    const std::pair<const char*, Value*> places[] = {{"S", &layer.mlstm.S},
                                                     {"z", &layer.mlstm.z},
                                                     {"m", &layer.mlstm.m},
                                                     {"cache_k", &layer.cache.k},
                                                     {"cache_v", &layer.cache.v}};
    for (const StateTensor& tensor : tensors) {
      const xh_dtype dtype = tensor.spec.is_cache ? model_->activation_dtype() : XH_F32;
      for (const auto& [name, place] : places) {
        if (tensor.spec.name == name) *place = graph.External(tensor.buffer.data(), dtype, tensor.spec.shape);
      }
    }
    layers.push_back(layer);
  }
  return layers;
}

StatusOr<Session::Program*> Session::ProgramFor(int64_t tokens) {
  auto found = programs_.find(tokens);
  if (found != programs_.end()) return found->second.get();
  const ModelConfig& config = model_->config;
  auto program = std::make_unique<Program>(model_->device);
  Graph& graph = program->graph;
  program->ids = graph.Input(XH_I32, {tokens});
  program->position = graph.Input(XH_I32, {1});
  const std::vector<LayerState> state = DeclareState(graph, program->position);
  ForwardInput input;
  input.tokens = tokens;
  input.dtype = model_->activation_dtype();
  input.ids = program->ids;
  input.position = program->position;
  input.rope_table = graph.External(rope_table_.data(), XH_F32, RopeTableShape(config, capacity_));
  input.state = &state;
  const Binder bind = FrozenBinder(*model_);
  ForwardOutput output = BuildForward(graph, config, bind, input);
  // In f32: rounded logits would tie.
  Value last = Cast(graph, graph.Rows(output.final_hidden, tokens - 1, 1), XH_F32);
  program->logits = BuildLogits(graph, config, bind, last);
  program->best = SelectTopK(graph, program->logits, 1).ids;
  program->squares = Reduce(graph, graph.View(program->logits, {config.vocab_size, 1}), XH_REDUCE_SUM_SQUARES);
  for (Value kept : {program->logits, program->best, program->squares}) graph.Keep(kept);
  XH_RETURN_IF_ERROR(graph.Compile());
  graph.Profile(profile_);
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
  if (count > capacity_ - position_) {
    return InvalidArgument("position ", position_ + count, " exceeds capacity ", capacity_);
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
  for (auto& [tokens, program] : programs_) program->graph.Profile(times);
}

Status Session::RunProgram(const int32_t* ids, int64_t tokens, bool last) {
  XH_ASSIGN_OR_RETURN(Program * program, ProgramFor(tokens));
  Graph& graph = program->graph;
  const int32_t position = static_cast<int32_t>(position_);
  XH_RETURN_IF_ERROR(graph.Write(program->ids, ids, tokens * static_cast<int64_t>(sizeof(int32_t))));
  XH_RETURN_IF_ERROR(graph.Write(program->position, &position, sizeof(position)));
  XH_RETURN_IF_ERROR(graph.Run());
  if (!last) return model_->device->Synchronize();  // `position` must outlive the copy
  return ReadAnswer(*program);
}

// What every token needs of the answer; half a megabyte of logits stays where it is.
Status Session::ReadAnswer(Program& program) {
  answered_ = &program;
  logits_.clear();
  XH_RETURN_IF_ERROR(program.graph.Fetch(program.best, &best_, sizeof(best_)));
  XH_RETURN_IF_ERROR(program.graph.Fetch(program.squares, &squares_, sizeof(squares_)));
  return model_->device->Synchronize();
}

Status Session::ReadLogits() const {
  if (!logits_.empty() || answered_ == nullptr) return absl::OkStatus();
  std::vector<float> logits = std::move(logits_);  // empty, with the memory that Prepare reserved
  logits.resize(static_cast<size_t>(model_->config.vocab_size));
  const auto bytes = static_cast<int64_t>(logits.size() * sizeof(float));
  XH_RETURN_IF_ERROR(answered_->graph.Read(answered_->logits, logits.data(), bytes));
  logits_ = std::move(logits);
  return absl::OkStatus();
}

// A sum that is not finite may be that of large logits.
Status Session::CheckAnswer() {
  if (std::isfinite(squares_)) return absl::OkStatus();
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
  Remember(ids, count);
  XH_RETURN_IF_ERROR(CheckAnswer());
  lost_.clear();
  return absl::OkStatus();
}

void Session::Remember(const int32_t* ids, int64_t count) {
  const int64_t size = static_cast<int64_t>(tail_.size());
  const int64_t fresh = std::min(count, size);
  std::rotate(tail_.begin(), tail_.begin() + fresh, tail_.end());
  std::copy(ids + count - fresh, ids + count, tail_.end() - fresh);
}

Status Session::Feed(const int32_t* ids, int64_t count) {
  XH_RETURN_IF_ERROR(CheckFeed(ids, count));
  if (count == 0) return absl::OkStatus();
  XH_RETURN_IF_ERROR(Prepare(count));
  finished_ = false;
  stream_.reset();
  stop_filter_.Flush();
  return Advance(ids, count);
}

StatusOr<const std::vector<float>*> Session::Logits() const {
  XH_RETURN_IF_ERROR(CheckUsable());
  XH_RETURN_IF_ERROR(ReadLogits());
  if (logits_.empty()) return InvalidState("the session has read no token yet: there are no logits");
  return &logits_;
}

// ---- writing tokens ----

// What choosing a token changes, put back where it is not kept: a call that failed can be made again.
class Session::Choice {
 public:
  explicit Choice(Session* session)
      : session_(session), sampler_(session->sampler_), stop_filter_(session->stop_filter_) {}
  ~Choice() {
    if (session_ == nullptr) return;
    session_->sampler_ = std::move(sampler_);
    session_->stop_filter_ = std::move(stop_filter_);
    session_->stream_.reset();  // opened again from the last tokens
  }
  Choice(const Choice&) = delete;
  Choice& operator=(const Choice&) = delete;
  void Keep() { session_ = nullptr; }

 private:
  Session* session_;
  Sampler sampler_;
  StopFilter stop_filter_;
};

Status Session::SetSampler(const SamplerOptions& options) {
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

// The text that `token` completes; ids beyond the tokenizer's, which pad a vocabulary, have none.
StatusOr<std::string> Session::PieceOf(int32_t token, bool* stopped) {
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

StatusOr<Session::Chosen> Session::Next() {
  const bool greedy = sampler_.is_greedy() && answered_ != nullptr;
  XH_RETURN_IF_ERROR(greedy ? CheckUsable() : Logits().status());
  if (finished_) return InvalidState("the text has ended: feed more tokens or set the sampler again");
  if (position_ >= capacity_) return InvalidArgument("position ", position_ + 1, " exceeds capacity ", capacity_);
  XH_RETURN_IF_ERROR(Prepare(1));
  Choice before(this);
  Chosen chosen{greedy ? sampler_.Take(best_) : sampler_.Choose(logits_), "", false};
  const std::vector<int32_t>& ends = model_->config.eos_ids;
  const bool is_end = std::find(ends.begin(), ends.end(), chosen.token) != ends.end();
  bool stopped = false;
  if (!is_end) {
    XH_ASSIGN_OR_RETURN(chosen.piece, PieceOf(chosen.token, &stopped));
  }
  chosen.finished = is_end || stopped || sampler_.chosen() >= sampler_.options().max_tokens;
  if (chosen.finished && !stopped) chosen.piece += stop_filter_.Flush();
  XH_RETURN_IF_ERROR(Advance(&chosen.token, 1));
  finished_ = chosen.finished;
  before.Keep();
  return chosen;
}

}  // namespace xh
