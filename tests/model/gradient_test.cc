// Gradients of whole students, every mixer kind and feature map, against central differences of the loss. Each tensor
// is moved along its own gradient, where the derivative must be the gradient's norm, and along a random direction.
#include <cmath>

#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

using nlohmann::json;

constexpr int64_t kBatch = 2, kTokens = 11, kRows = kBatch * kTokens, kTopK = 5;

ModelConfig TinyTeacher(const std::string& family) {
  const json object = {{"model_type", family},
                       {"vocab_size", 23},
                       {"hidden_size", 24},
                       {"num_hidden_layers", 8},
                       {"num_attention_heads", 4},
                       {"num_key_value_heads", 2},
                       {"head_dim", 6},
                       {"intermediate_size", 20},
                       {"max_position_embeddings", 64},
                       {"sliding_window", 5},
                       {"tie_word_embeddings", family == "qwen2"}};
  auto config = ConfigFromHuggingFace(object, nullptr, family);
  EXPECT_TRUE(config.ok()) << config.status();
  return *config;
}

// A layer of every kind and feature map.
ModelConfig TinyStudent(const std::string& family) {
  auto config = StudentConfig(TinyTeacher(family), json::parse(R"({"window": 4, "sinks": 2, "layers": [
    {"layer": 1, "feature_map": "hedgehog", "features": 5, "window": [0, 3]}, {"layer": 2, "feature_map": "none"},
    {"layer": 3, "kind": "mlstm"}, {"layer": 4, "kind": "mlstm", "feature_map": "hedgehog"},
    {"layer": 5, "kind": "mlstm", "feature_map": "none"}, {"layer": 6, "kind": "window", "window": [3, 0]},
    {"layer": 7, "kind": "attention"}]})"));
  EXPECT_TRUE(config.ok()) << config.status();
  return *config;
}

enum class Objective { kDistill, kAlign };

// One step of a training, or the loss alone.
class Step {
 public:
  Step(const Model& model, Objective objective, std::map<std::string, Weight>* gradients)
      : model_(model), objective_(objective), graph_(model.device) {
    Declare(gradients);
  }

  // The loss that the gradients belong to.
  double Run() {
    const Status run = graph_.Run();
    EXPECT_TRUE(run.ok()) << run;
    double total = 0;
    for (Value loss : losses_) {
      std::vector<float> values(static_cast<size_t>(graph_.size(loss)));
      EXPECT_TRUE(graph_.Read(loss, values.data(), static_cast<int64_t>(values.size() * sizeof(float))).ok());
      if (objective_ == Objective::kAlign) {
        total += kScale * values[0];
        continue;
      }
      for (size_t i = 0; i < values.size(); i += 2) total += kScale * (kGamma * values[i] + kBeta * values[i + 1]);
    }
    return total;
  }

 private:
  static constexpr float kScale = 1.0f / kRows, kGamma = 0.6f, kBeta = 0.4f;

  void Declare(std::map<std::string, Weight>* gradients) {
    const ModelConfig& config = model_.config;
    const Binder bind = [&](Graph& graph, const std::string& name) {
      const Weight& weight = model_.weights.at(name);
      if (gradients == nullptr) return graph.External(weight.buffer->data(), weight.dtype, weight.shape);
      return graph.Parameter(weight.buffer->data(), weight.dtype, weight.shape,
                             static_cast<float*>(gradients->at(name).buffer->data()));
    };
    ForwardInput input;
    input.batch = kBatch;
    input.tokens = kTokens;
    input.ids = graph_.Input(XH_I32, {kRows});
    input.position = graph_.Input(XH_I32, {kBatch});
    input.rope_table = graph_.Input(XH_F32, RopeTableShape(config, kTokens));
    const Value scale = graph_.Constant({kScale}, {1});
    const ForwardOutput output = BuildForward(graph_, config, bind, input);
    if (objective_ == Objective::kAlign) {
      uint32_t seed = 500;
      for (const LayerTaps& taps : output.layers) {
        const int64_t width = config.heads * config.head_dim;
        const Value rows = graph_.Constant(RandomValues(kRows * width, ++seed), {kRows, width});
        losses_.push_back(
            AlignLoss(graph_, taps.mixer_out, graph_.SplitHeads(rows, kBatch, kTokens, config.heads), scale));
      }
    } else {
      DeclareDistill(bind, output, scale);
    }
    for (Value loss : losses_) graph_.Keep(loss);
    graph_.BackwardSince(0);
    const Status compiled = graph_.Compile();
    ASSERT_TRUE(compiled.ok()) << compiled;
    WriteInputs(input);
  }

  void DeclareDistill(const Binder& bind, const ForwardOutput& output, Value scale) {
    targets_ = graph_.Input(XH_I32, {kRows});
    teacher_ids_ = graph_.Input(XH_I32, {kRows, kTopK});
    TopK teacher{graph_.Constant(RandomValues(kRows * kTopK, 900), {kRows, kTopK}), teacher_ids_};
    const Value logits = BuildLogits(graph_, model_.config, bind, output.final_hidden);
    const xh_distill_params params{XH_SIZED(xh_distill_params), XH_KL_RENORMALIZED, kGamma, kBeta, 1.0f};
    losses_.push_back(DistillLoss(graph_, logits, targets_, &teacher, scale, params));
  }

  void WriteInputs(const ForwardInput& input) {
    std::vector<int32_t> ids, targets, teacher_ids;
    for (int32_t i = 0; i < kRows; ++i) {
      ids.push_back(i * 7 % 23);
      targets.push_back(i % 6 == 5 ? -1 : i * 5 % 23);  // some rows are ignored
      for (int32_t j = 0; j < kTopK; ++j) teacher_ids.push_back((i * 3 + j * 4) % 23);
    }
    auto write = [&](Value value, const auto& values) {
      const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(values[0]));
      const Status written = graph_.Write(value, values.data(), bytes);
      EXPECT_TRUE(written.ok()) << written;
    };
    write(input.ids, ids);
    write(input.position, std::vector<int32_t>(kBatch, 0));
    write(input.rope_table, RopeTable(model_.config, kTokens));
    if (objective_ == Objective::kDistill) {
      write(targets_, targets);
      write(teacher_ids_, teacher_ids);
    }
  }

  const Model& model_;
  const Objective objective_;
  Graph graph_;
  std::vector<Value> losses_;
  Value targets_, teacher_ids_;
};

double Norm(const std::vector<float>& values) {
  double sum = 0;
  for (float value : values) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

double Dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

void WriteValues(const Model& model, const Weight& weight, const std::vector<float>& values) {
  ASSERT_TRUE(model.device->Copy(weight.buffer->data(), values.data(), weight.buffer->bytes()).ok());
  ASSERT_TRUE(model.device->Synchronize().ok());
}

// d loss / d step along `direction` by central differences of two widths, whose errors in step^2 cancel.
double Slope(const Model& model, Step& loss, const std::string& name, const std::vector<float>& direction,
             double step) {
  const Weight& weight = model.weights.at(name);
  const std::vector<float> values = ReadWeight(model, name);
  auto difference = [&](double width) {
    double side[2];
    for (int sign : {0, 1}) {
      std::vector<float> moved = values;
      for (size_t i = 0; i < moved.size(); ++i) {
        moved[i] = static_cast<float>(values[i] + (sign == 0 ? -width : width) * direction[i]);
      }
      WriteValues(model, weight, moved);
      side[sign] = loss.Run();
    }
    return (side[1] - side[0]) / (2 * width);
  };
  const double wide = difference(step), narrow = difference(step / 2);
  WriteValues(model, weight, values);
  return (4 * narrow - wide) / 3;
}

std::string Mixer(int layer, const std::string& name) {
  return absl::StrCat("model.layers.", layer, ".self_attn.", name);
}

// Gates near `bias` in every token: a part of their slope, so that raw streams of post-norm blocks do not decide.
void SetGate(const Model& model, int layer, const std::string& gate, float bias) {
  WriteValues(model, model.weights.at(Mixer(layer, "xlstm." + gate + ".bias")), std::vector<float>(4, bias));
  std::vector<float> slopes = ReadWeight(model, Mixer(layer, "xlstm." + gate + ".weight"));
  for (float& slope : slopes) slope *= 0.25f;
  WriteValues(model, model.weights.at(Mixer(layer, "xlstm." + gate + ".weight")), slopes);
}

// Without features the denominator is max(|q.z|, floor), which has no slope where both are equal: the floor decides
// here.
void LetFloorDecide(const Model& model, int layer) { SetGate(model, layer, "input_gate", -5); }

// And q.z decides here: queries equal keys and little is remembered, so that it is never near 0.
void LetProductDecide(const Model& model, int layer) {
  SetGate(model, layer, "input_gate", 3);
  SetGate(model, layer, "forget_gate", -3);
  const std::pair<const char*, const char*> twins[] = {
      {"q_proj.weight", "k_proj.weight"}, {"q_proj.bias", "k_proj.bias"}, {"q_norm.weight", "k_norm.weight"}};
  for (const auto& [query_name, key_name] : twins) {
    auto query = model.weights.find(Mixer(layer, query_name));
    if (query == model.weights.end()) continue;
    const std::vector<float> keys = ReadWeight(model, Mixer(layer, key_name));
    if (query->second.buffer->bytes() == static_cast<int64_t>(keys.size() * sizeof(float))) {
      WriteValues(model, query->second, keys);  // one norm for every head
      continue;
    }
    std::vector<float> queries;  // two query heads read a key head
    const size_t head = keys.size() / 2;
    for (size_t h = 0; h < 4; ++h) {
      queries.insert(queries.end(), keys.begin() + h / 2 * head, keys.begin() + (h / 2 + 1) * head);
    }
    WriteValues(model, query->second, queries);
  }
}

void CheckGradients(const std::string& family, Objective objective) {
  auto model = RandomModel(TinyStudent(family), 40);
  LetFloorDecide(*model, 2);
  LetProductDecide(*model, 5);
  std::map<std::string, Weight> gradients;
  for (const auto& [name, weight] : model->weights) {
    gradients[name] = NewWeight(*model, weight.shape, std::vector<float>(weight.buffer->bytes() / sizeof(float), 0.0f));
  }
  Step training(*model, objective, &gradients);
  Step loss(*model, objective, nullptr);
  const double value = training.Run();
  EXPECT_NEAR(loss.Run(), value, 1e-6 * std::abs(value));
  auto holder = std::make_shared<Model>(*model);
  holder->weights = gradients;
  uint32_t seed = 1000;
  for (const auto& [name, weight] : model->weights) {
    const std::vector<float> gradient = ReadWeight(*holder, name);
    const double norm = Norm(gradient);
    // Nothing after the last mixer changes an alignment loss.
    const bool after = name.find("model.layers.7.mlp") == 0 || name.find("model.layers.7.post") == 0 ||
                       name.find("model.layers.7.self_attn.o_proj") == 0 || name == "model.norm.weight" ||
                       name == "lm_head.weight";
    if (objective == Objective::kAlign && after) {
      EXPECT_EQ(norm, 0) << name;
      continue;
    }
    // With positive features an input gate's bias scales q S and q.z alike: its gradient is rounding, or nothing at
    // all.
    ASSERT_TRUE(norm > 0 || name.find("input_gate.bias") != std::string::npos) << name;
    std::vector<float> along = gradient, random = RandomValues(static_cast<int64_t>(gradient.size()), ++seed);
    const double random_norm = Norm(random);
    for (float& x : along) x = static_cast<float>(norm > 0 ? x / norm : 0);
    for (float& x : random) x = static_cast<float>(x / random_norm);
    const double step = std::min(0.05, std::max(0.001, 1e-3 * value / norm));
    // The loss is a sum of f32 values: a slope over `step` is not known better than their rounding. It decides where
    // the gradient vanishes, as that of an input gate's bias does with positive features: it scales q S and q.z alike.
    const double tolerance = 5e-3 * norm + 4e-7 * value / step;
    EXPECT_NEAR(Slope(*model, loss, name, along, step), norm, tolerance) << name;
    EXPECT_NEAR(Slope(*model, loss, name, random, step), Dot(gradient, random), tolerance) << name;
  }
}

class Gradients : public ::testing::TestWithParam<const char*> {};
TEST_P(Gradients, OfTheDistillationLossAreItsSlopes) { CheckGradients(GetParam(), Objective::kDistill); }
TEST_P(Gradients, OfTheAlignmentLossAreItsSlopes) { CheckGradients(GetParam(), Objective::kAlign); }
INSTANTIATE_TEST_SUITE_P(Families, Gradients, ::testing::Values("llama", "qwen2", "qwen3", "olmo2", "olmo3"));

}  // namespace
}  // namespace xh::test
