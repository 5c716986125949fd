#include "core/probe/ablation.h"

#include <algorithm>
#include <cmath>

#include "core/ops.h"

namespace xh {
namespace {

constexpr int64_t kLengthStep = 64;               // batches hold questions of lengths that differ less
constexpr int64_t kMostProgramBytes = 1ll << 30;  // of the programs that are kept for the next batch
constexpr xh_distill_params kCrossEntropy{XH_SIZED(xh_distill_params), XH_KL_RENORMALIZED, 1.0f, 0.0f, 1.0f};

int64_t RoundedUp(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// The first layer in which two masks differ; the number of layers when none does.
int64_t FirstDifference(const Mask& a, const Mask& b) {
  return std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin();
}

}  // namespace

Mask UniformMask(const ModelConfig& config, bool kept) {
  return Mask(static_cast<size_t>(config.layer_count), std::vector<bool>(static_cast<size_t>(config.kv_heads), kept));
}

std::string MaskKey(const Mask& mask) {
  std::string key;
  for (const std::vector<bool>& layer : mask) {
    if (!key.empty()) key += '.';
    for (bool kept : layer) key += kept ? '1' : '0';
  }
  return key;
}

// The blocks from one layer on under one mask.
struct Ablation::Program {
  explicit Program(const std::shared_ptr<Device>& device) : graph(device) {}
  Graph graph;
  ModelConfig config;
  Binder bind;
  ForwardInput input;
  Value stream;  // [B*T, D] before the first layer; absent where the program begins with the tokens
  Value places, targets, scale;
  Value losses, likeliest;     // f32[answers, 2], i32[answers, 1]
  std::vector<Value> streams;  // before each layer; of base programs
};

Ablation::Ablation(std::shared_ptr<const Model> model, std::vector<Question> questions, const Options& options)
    : model_(std::move(model)), questions_(std::move(questions)), options_(options) {
  MakeBatches();
}

void Ablation::KeepKinds(const std::vector<bool>& kinds) {
  std::vector<Question> kept;
  for (Question& question : questions_) {
    if (kinds[question.kind]) kept.push_back(std::move(question));
  }
  questions_ = std::move(kept);
  MakeBatches();
}

void Ablation::MakeBatches() {
  batches_.clear();
  std::map<int64_t, std::vector<size_t>> by_length;
  for (size_t i = 0; i < questions_.size(); ++i) {
    const int64_t tokens = static_cast<int64_t>(questions_[i].ids.size());
    by_length[std::min(RoundedUp(tokens, kLengthStep), model_->config.context)].push_back(i);
  }
  for (const auto& [tokens, list] : by_length) {
    const size_t rows = static_cast<size_t>(std::max<int64_t>(1, options_.batch_tokens / tokens));
    for (size_t first = 0; first < list.size(); first += rows) {
      Batch batch;
      batch.tokens = tokens;
      const size_t last = std::min(list.size(), first + rows);
      batch.questions.assign(list.begin() + static_cast<int64_t>(first), list.begin() + static_cast<int64_t>(last));
      for (size_t i : batch.questions) {
        batch.answers += static_cast<int64_t>(questions_[i].ids.size()) - questions_[i].answer;
      }
      batches_.push_back(std::move(batch));
    }
  }
}

Ablation::~Ablation() = default;

ModelConfig Ablation::ConfigOf(const Mask& mask) const {
  ModelConfig config = model_->config;
  for (int64_t layer = 0; layer < config.layer_count; ++layer) {
    const MixerConfig teacher = TeacherMixer(config, layer);
    MixerConfig& mixer = config.mixers[layer];
    mixer = teacher;
    mixer.kind = "window";
    for (int64_t head = 0; head < config.kv_heads; ++head) {
      if (mask[layer][head]) continue;
      const int32_t own = teacher.windows[head];
      mixer.windows[head] = own > 0 ? std::min(own, options_.window) : options_.window;
      mixer.sinks = options_.sinks;  // a layer has one number: kept heads that slide see the sinks too
    }
  }
  return config;
}

StatusOr<Ablation::Program*> Ablation::ProgramFor(const Batch& batch, const Mask& mask, int64_t first,
                                                  bool keep_streams) {
  const int64_t rows = static_cast<int64_t>(batch.questions.size());
  const std::string key = absl::StrCat(MaskKey(mask), " ", first, " ", keep_streams ? 1 : 0, " ", rows, "x",
                                       batch.tokens, " ", batch.answers);
  if (auto found = programs_.find(key); found != programs_.end()) return found->second.get();
  auto program = std::make_unique<Program>(model_->device);
  program->config = ConfigOf(mask);
  program->bind = FrozenBinder(*model_);
  Graph& graph = program->graph;
  ForwardInput& input = program->input;
  const int64_t width = program->config.hidden_size;
  input.batch = rows;
  input.tokens = batch.tokens;
  input.dtype = model_->activation_dtype();
  input.position = graph.Input(XH_I32, {rows});
  input.rope_table = graph.Input(XH_F32, RopeTableShape(program->config, batch.tokens));
  ForwardOutput output;
  if (first == 0) {
    input.ids = graph.Input(XH_I32, {rows * batch.tokens});
    output = BuildForward(graph, program->config, program->bind, input);
  } else {
    program->stream = graph.Input(XH_F32, {rows * batch.tokens, width});
    output =
        BuildBlocks(graph, program->config, program->bind, input, Cast(graph, program->stream, input.dtype), first);
  }
  for (int64_t layer = 0; keep_streams && layer < program->config.layer_count; ++layer) {
    program->streams.push_back(Cast(graph, output.hidden[layer], XH_F32));
    graph.Keep(program->streams.back());
  }
  program->places = graph.Input(XH_I32, {batch.answers});
  program->targets = graph.Input(XH_I32, {batch.answers});
  program->scale = graph.Input(XH_F32, {1});
  // The rows that answers are predicted from, gathered as an embedding is.
  const Value predicting = Embed(graph, output.final_hidden, program->places, input.dtype);
  const Value logits = BuildLogits(graph, program->config, program->bind, predicting);
  program->losses = DistillLoss(graph, logits, program->targets, nullptr, program->scale, kCrossEntropy);
  program->likeliest = SelectTopK(graph, logits, 1).ids;
  graph.Keep(program->losses);
  graph.Keep(program->likeliest);
  XH_RETURN_IF_ERROR(graph.Compile());
  const std::vector<int32_t> positions(static_cast<size_t>(rows), 0);
  const std::vector<float> table = RopeTable(program->config, batch.tokens);
  const float one = 1;
  XH_RETURN_IF_ERROR(graph.Write(input.position, positions.data(), rows * static_cast<int64_t>(sizeof(int32_t))));
  XH_RETURN_IF_ERROR(graph.Write(input.rope_table, table.data(), static_cast<int64_t>(table.size() * sizeof(float))));
  XH_RETURN_IF_ERROR(graph.Write(program->scale, &one, sizeof(one)));
  program_bytes_ += graph.arena_bytes();
  return (programs_[key] = std::move(program)).get();
}

Status Ablation::RunProgram(const Batch& batch, Program* program, const std::vector<float>* stream) {
  std::vector<int32_t> ids(batch.questions.size() * static_cast<size_t>(batch.tokens), 0), places, targets;
  for (size_t row = 0; row < batch.questions.size(); ++row) {
    const Question& question = questions_[batch.questions[row]];
    const int64_t start = static_cast<int64_t>(row) * batch.tokens;
    std::copy(question.ids.begin(), question.ids.end(), ids.begin() + start);
    for (int64_t t = question.answer; t < static_cast<int64_t>(question.ids.size()); ++t) {
      places.push_back(static_cast<int32_t>(start + t - 1));
      targets.push_back(question.ids[t]);
    }
  }
  Graph& graph = program->graph;
  auto write = [&](Value value, const auto& content) {
    return graph.Write(value, content.data(), static_cast<int64_t>(content.size() * sizeof(content[0])));
  };
  if (program->stream.valid()) {
    XH_RETURN_IF_ERROR(write(program->stream, *stream));
  } else {
    XH_RETURN_IF_ERROR(write(program->input.ids, ids));
  }
  XH_RETURN_IF_ERROR(write(program->places, places));
  XH_RETURN_IF_ERROR(write(program->targets, targets));
  return graph.Run();
}

Status Ablation::AddScores(const Batch& batch, Program* program, Scores* scores) {
  std::vector<float> losses(static_cast<size_t>(batch.answers) * 2);
  std::vector<int32_t> likeliest(static_cast<size_t>(batch.answers));
  Graph& graph = program->graph;
  XH_RETURN_IF_ERROR(graph.Read(program->losses, losses.data(), static_cast<int64_t>(losses.size() * sizeof(float))));
  XH_RETURN_IF_ERROR(
      graph.Read(program->likeliest, likeliest.data(), static_cast<int64_t>(likeliest.size() * sizeof(int32_t))));
  size_t at = 0;
  for (size_t i : batch.questions) {
    const Question& question = questions_[i];
    double log_probability = 0;
    bool correct = true;
    for (size_t t = static_cast<size_t>(question.answer); t < question.ids.size(); ++t, ++at) {
      log_probability -= losses[2 * at];
      correct = correct && likeliest[at] == question.ids[t];
    }
    if (!std::isfinite(log_probability))
      return InvalidState(model_->path, " gives answers that are not finite numbers");
    Score& score = (*scores)[question.kind];
    score.log_probability += log_probability;
    score.correct += correct ? 1 : 0;
    ++score.questions;
  }
  return absl::OkStatus();
}

Status Ablation::Run(int64_t batch_index, const std::vector<Mask>& masks, std::vector<Scores>* scores) {
  const Batch& batch = batches_[batch_index];
  if (program_bytes_ > kMostProgramBytes) {
    programs_.clear();
    program_bytes_ = 0;
  }
  struct Base {
    Mask mask;
    Program* program = nullptr;
    std::vector<std::vector<float>> streams;  // read on demand
  } bases[2];
  for (int kept : {0, 1}) {
    Base& base = bases[kept];
    base.mask = UniformMask(model_->config, kept == 1);
    XH_ASSIGN_OR_RETURN(base.program, ProgramFor(batch, base.mask, 0, true));
    XH_RETURN_IF_ERROR(RunProgram(batch, base.program, nullptr));
    base.streams.resize(static_cast<size_t>(model_->config.layer_count));
  }
  for (size_t m = 0; m < masks.size(); ++m) {
    Base* base = &bases[0];
    int64_t first = FirstDifference(masks[m], base->mask);
    if (const int64_t other = FirstDifference(masks[m], bases[1].mask); other > first) base = &bases[1], first = other;
    Program* program = base->program;
    if (first < model_->config.layer_count) {
      std::vector<float>& stream = base->streams[first];
      const Value value = base->program->streams[first];
      if (stream.empty()) {
        stream.resize(static_cast<size_t>(base->program->graph.size(value)));
        XH_RETURN_IF_ERROR(
            base->program->graph.Read(value, stream.data(), static_cast<int64_t>(stream.size() * sizeof(float))));
      }
      XH_ASSIGN_OR_RETURN(program, ProgramFor(batch, masks[m], first, false));
      XH_RETURN_IF_ERROR(RunProgram(batch, program, &stream));
    }
    XH_RETURN_IF_ERROR(AddScores(batch, program, &(*scores)[m]));
  }
  return absl::OkStatus();
}

}  // namespace xh
