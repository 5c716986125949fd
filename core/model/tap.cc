#include "core/model/tap.h"

#include <algorithm>
#include <charconv>

#include "core/checkpoint/dtype.h"

namespace xh {
namespace {

constexpr int64_t kScoreRows = 256;  // rows of logits held at once

// The forward of one sequence.
struct Sequence {
  explicit Sequence(const Model& model) : graph(model.device) {}

  void Declare(const Model& model, int64_t count) {
    input.tokens = count;
    input.ids = graph.Input(XH_I32, {count});
    input.position = graph.Input(XH_I32, {1});
    input.rope_table = graph.Input(XH_F32, RopeTableShape(model.config, count));
    bind = FrozenBinder(model);
    output = BuildForward(graph, model.config, bind, input);
  }

  // After Compile.
  Status Run(const Model& model, const int32_t* ids) {
    const int32_t zero = 0;
    const std::vector<float> table = RopeTable(model.config, input.tokens);
    XH_RETURN_IF_ERROR(graph.Write(input.ids, ids, input.tokens * sizeof(int32_t)));
    XH_RETURN_IF_ERROR(graph.Write(input.position, &zero, sizeof(zero)));
    XH_RETURN_IF_ERROR(graph.Write(input.rope_table, table.data(), table.size() * sizeof(float)));
    return graph.Run();
  }

  Graph graph;
  ForwardInput input;
  Binder bind;
  ForwardOutput output;
};

// The number N of "prefix" N "suffix", or -1.
int64_t NumberBetween(const std::string& text, const std::string& prefix, const std::string& suffix) {
  if (text.size() <= prefix.size() + suffix.size() || text.rfind(prefix, 0) != 0) return -1;
  if (text.compare(text.size() - suffix.size(), suffix.size(), suffix) != 0) return -1;
  int64_t number = -1;
  const char* end = text.data() + text.size() - suffix.size();
  auto [stop, error] = std::from_chars(text.data() + prefix.size(), end, number);
  return error == std::errc() && stop == end ? number : -1;
}

StatusOr<Value> Gate(Sequence& sequence, const ModelConfig& config, int64_t layer) {
  const Value gate = sequence.output.layers[layer].gate;  // [1,N,T]
  if (!gate.valid()) {
    return InvalidArgument("layer ", layer, " has no gate: its mixer is \"", config.mixers[layer].kind,
                           "\"; allowed: hybrid");
  }
  return sequence.graph.MergeHeads(gate);
}

StatusOr<Value> FindTap(Sequence& sequence, const ModelConfig& config, const std::string& tap) {
  Graph& graph = sequence.graph;
  if (tap == "logits") return BuildLogits(graph, config, sequence.bind, sequence.output.final_hidden);
  int64_t hidden = NumberBetween(tap, "hidden.", "");
  if (hidden >= 0 && hidden <= config.layer_count) return sequence.output.hidden[hidden];
  int64_t layer = NumberBetween(tap, "layers.", ".mixer.out");
  if (layer >= 0 && layer < config.layer_count) return graph.MergeHeads(sequence.output.layers[layer].mixer_out);
  layer = NumberBetween(tap, "layers.", ".mixer.gate");
  if (layer >= 0 && layer < config.layer_count) return Gate(sequence, config, layer);
  return InvalidArgument("tap is \"", tap, "\"; allowed: logits, hidden.0 to hidden.", config.layer_count,
                         ", layers.0.mixer.out to layers.", config.layer_count - 1,
                         ".mixer.out, and the same with .mixer.gate");
}

}  // namespace

Status CheckTokens(const ModelConfig& config, const int32_t* ids, int64_t count) {
  if (count < 1 || count > config.context) {
    return InvalidArgument("the sequence has ", count, " tokens; allowed: 1 to ", config.context,
                           " (the model's context)");
  }
  for (int64_t t = 0; t < count; ++t) {
    if (ids[t] < 0 || ids[t] >= config.vocab_size) {
      return InvalidArgument("token id ", ids[t], " at position ", t, "; allowed: 0 to ", config.vocab_size - 1);
    }
  }
  return absl::OkStatus();
}

StatusOr<std::vector<float>> ForwardTap(const Model& model, const int32_t* ids, int64_t count, const std::string& tap) {
  XH_ASSIGN_OR_RETURN(std::vector<std::vector<float>> values, ForwardTaps(model, ids, count, {tap}));
  return std::move(values[0]);
}

StatusOr<std::vector<std::vector<float>>> ForwardTaps(const Model& model, const int32_t* ids, int64_t count,
                                                      const std::vector<std::string>& taps) {
  XH_RETURN_IF_ERROR(CheckTokens(model.config, ids, count));
  Sequence sequence(model);
  sequence.Declare(model, count);
  std::vector<Value> results;
  for (const std::string& tap : taps) {
    XH_ASSIGN_OR_RETURN(Value value, FindTap(sequence, model.config, tap));
    results.push_back(Cast(sequence.graph, value, XH_F32));
    sequence.graph.Keep(results.back());
  }
  XH_RETURN_IF_ERROR(sequence.graph.Compile());
  XH_RETURN_IF_ERROR(sequence.Run(model, ids));
  std::vector<std::vector<float>> out;
  for (Value result : results) {
    std::vector<float> values(sequence.graph.size(result));
    XH_RETURN_IF_ERROR(sequence.graph.Read(result, values.data(), static_cast<int64_t>(values.size() * sizeof(float))));
    out.push_back(std::move(values));
  }
  return out;
}

StatusOr<std::vector<float>> ScoreTokens(const Model& model, const int32_t* ids, int64_t count) {
  XH_RETURN_IF_ERROR(CheckTokens(model.config, ids, count));
  if (count < 2) return InvalidArgument("scoring needs at least 2 tokens, not ", count);
  Sequence sequence(model);
  sequence.Declare(model, count);
  Graph& graph = sequence.graph;
  Value targets = graph.Input(XH_I32, {count - 1});
  Value scale = graph.Input(XH_F32, {1});
  const xh_distill_params params{XH_SIZED(xh_distill_params), XH_KL_RENORMALIZED, 1.0f, 0.0f, 1.0f};
  std::vector<Value> losses;  // cross entropy and an unused KL, a row a token
  for (int64_t first = 0; first < count - 1; first += kScoreRows) {
    int64_t rows = std::min(kScoreRows, count - 1 - first);
    Value logits =
        BuildLogits(graph, model.config, sequence.bind, graph.Rows(sequence.output.final_hidden, first, rows));
    Value block = graph.View(graph.Rows(graph.View(targets, {count - 1, 1}), first, rows), {rows});
    losses.push_back(DistillLoss(graph, logits, block, nullptr, scale, params));
    graph.Keep(losses.back());
  }
  XH_RETURN_IF_ERROR(graph.Compile());
  const float one = 1.0f;
  XH_RETURN_IF_ERROR(graph.Write(targets, ids + 1, (count - 1) * sizeof(int32_t)));
  XH_RETURN_IF_ERROR(graph.Write(scale, &one, sizeof(one)));
  XH_RETURN_IF_ERROR(sequence.Run(model, ids));
  std::vector<float> scores;
  for (Value loss : losses) {
    std::vector<float> pairs(graph.size(loss));
    XH_RETURN_IF_ERROR(graph.Read(loss, pairs.data(), static_cast<int64_t>(pairs.size() * sizeof(float))));
    for (size_t i = 0; i < pairs.size(); i += 2) scores.push_back(-pairs[i]);
  }
  return scores;
}

}  // namespace xh
