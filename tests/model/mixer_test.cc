// The hybrid mixer of a model against golden vectors: projections, RoPE, both branches, gate, and every gradient.
#include "core/model/mixer.h"

#include <cstdlib>

#include "core/checkpoint/safetensors.h"
#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

// A vector file: tensors as f32, numbers of its metadata.
class Golden {
 public:
  explicit Golden(const std::string& name) {
    auto reader = SafetensorsReader::Open(std::string(XH_TEST_DATA) + "/kernels/" + name + ".safetensors");
    EXPECT_TRUE(reader.ok()) << reader.status();
    reader_ = *reader;
  }
  bool Has(const std::string& tensor) const { return reader_->Find(tensor) != nullptr; }
  const Shape& ShapeOf(const std::string& tensor) const { return reader_->Find(tensor)->shape; }
  std::vector<float> operator[](const std::string& tensor) const {
    const SafeTensor* found = reader_->Find(tensor);
    std::vector<float> values(static_cast<size_t>(found->bytes) / sizeof(float));
    EXPECT_TRUE(reader_->Read(tensor, values.data(), found->bytes).ok()) << tensor;
    return values;
  }
  double Number(const std::string& key) const { return std::atof(reader_->file_metadata().at(key).c_str()); }

 private:
  std::shared_ptr<SafetensorsReader> reader_;
};

// Names in the files and in a model.
const std::map<std::string, std::string>& ParameterNames() {
  static const std::map<std::string, std::string> names = {
      {"wq", "q_proj.weight"},
      {"wk", "k_proj.weight"},
      {"wv", "v_proj.weight"},
      {"bq", "q_proj.bias"},
      {"bk", "k_proj.bias"},
      {"bv", "v_proj.bias"},
      {"wo", "o_proj.weight"},
      {"phi_q", "xlstm.query_features.weight"},
      {"phi_k", "xlstm.key_features.weight"},
      {"wi", "xlstm.input_gate.weight"},
      {"bi", "xlstm.input_gate.bias"},
      {"wf", "xlstm.forget_gate.weight"},
      {"bf", "xlstm.forget_gate.bias"},
      {"wog", "xlstm.output_gate.weight"},
      {"bog", "xlstm.output_gate.bias"},
  };
  return names;
}

ModelConfig ConfigOf(const Golden& golden) {
  ModelConfig config;
  config.family = "llama";
  config.layer_count = 1;
  config.vocab_size = 2;
  config.intermediate_size = 1;
  config.context = golden.ShapeOf("x")[1];
  config.hidden_size = golden.ShapeOf("x")[2];
  config.heads = golden.ShapeOf("phi_q")[0];
  config.head_dim = golden.ShapeOf("phi_q")[1];
  config.kv_heads = golden.ShapeOf("wk")[0] / config.head_dim;
  config.qkv_bias = golden.Has("bq");
  config.rope.theta = golden.Number("rope_theta");
  MixerConfig mixer;
  mixer.kind = "hybrid";
  mixer.features = golden.ShapeOf("phi_q")[2];
  mixer.sinks = static_cast<int32_t>(golden.Number("sinks"));
  mixer.windows.assign(static_cast<size_t>(config.kv_heads), static_cast<int32_t>(golden.Number("window")));
  config.mixers.push_back(mixer);
  const Status checked = CheckConfig(config, "golden");
  EXPECT_TRUE(checked.ok()) << checked;
  return config;
}

class HybridMixer : public ::testing::TestWithParam<const char*> {
 protected:
  HybridMixer()
      : golden_(GetParam()), config_(ConfigOf(golden_)), device_(*CpuRuntime()->OpenDevice()), graph_(device_) {
    Model model;
    model.device = device_;
    for (const auto& [stored, name] : ParameterNames()) {
      if (!golden_.Has(stored)) continue;
      const std::string full = "model.layers.0.self_attn." + name;
      weights_[full] = NewWeight(model, golden_.ShapeOf(stored), golden_[stored]);
      const std::vector<float> zeros(golden_[stored].size(), 0.0f);
      gradients_[full] = NewWeight(model, golden_.ShapeOf(stored), zeros);
    }
    bind_ = [this](Graph& graph, const std::string& name) {
      const Weight& weight = weights_.at(name);
      return graph.Parameter(weight.buffer->data(), XH_F32, weight.shape,
                             static_cast<float*>(gradients_.at(name).buffer->data()));
    };
    const Shape& x = golden_.ShapeOf("x");
    batch_ = x[0];
    tokens_ = x[1];
    input_.batch = batch_;
    input_.tokens = tokens_;
    input_.position = graph_.Input(XH_I32, {batch_});
    input_.rope_table = graph_.Constant(RopeTable(config_, tokens_), RopeTableShape(config_, tokens_));
  }

  Value Rows(const std::vector<float>& values, int64_t width) {
    return graph_.Constant(values, {batch_ * tokens_, width});
  }

  // [B,H,T,d] as the rows [B*T, H*d] that a model keeps it in.
  std::vector<float> TokenMajor(const std::vector<float>& heads) const {
    std::vector<float> rows(heads.size());
    const int64_t count = config_.heads, dim = config_.head_dim;
    for (size_t i = 0; i < heads.size(); ++i) {
      const int64_t n = static_cast<int64_t>(i), j = n % dim, t = n / dim % tokens_, h = n / dim / tokens_ % count;
      rows[((n / dim / tokens_ / count * tokens_ + t) * count + h) * dim + j] = heads[i];
    }
    return rows;
  }

  void CompileAndRun() {
    const Status compiled = graph_.Compile();
    ASSERT_TRUE(compiled.ok()) << compiled;
    const std::vector<int32_t> zeros(static_cast<size_t>(batch_), 0);
    ASSERT_TRUE(graph_.Write(input_.position, zeros.data(), batch_ * 4).ok());
    const Status run = graph_.Run();
    ASSERT_TRUE(run.ok()) << run;
  }

  std::vector<float> ReadRows(Value value) {
    std::vector<float> out(static_cast<size_t>(graph_.size(value)));
    EXPECT_TRUE(graph_.Read(value, out.data(), static_cast<int64_t>(out.size() * sizeof(float))).ok());
    return out;
  }

  // Every gradient that the file has under `prefix`, an absolute 1e-6 where it is zero to rounding.
  void ExpectGradients(const std::string& prefix) {
    Model holder;
    holder.device = device_;
    holder.weights = gradients_;
    int checked = 0;
    for (const auto& [stored, name] : ParameterNames()) {
      if (!golden_.Has(prefix + stored)) continue;
      ++checked;
      const std::vector<float> got = ReadWeight(holder, "model.layers.0.self_attn." + name);
      const std::vector<float> want = golden_[prefix + stored];
      double largest = 0;
      for (float value : want) largest = std::max(largest, std::abs(static_cast<double>(value)));
      if (largest < 1e-5) {
        for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-6 * Size(prefix)) << name;
      } else {
        EXPECT_LE(RelativeError(got, want), 1e-4) << name;
      }
    }
    EXPECT_GE(checked, 8);
  }

  // The gradient of an input gate's bias is 0: the sum of the terms whose products with x make that of its weight.
  double Size(const std::string& prefix) const {
    double largest = 1;
    for (float value : golden_[prefix + "wi"]) largest = std::max(largest, std::abs(static_cast<double>(value)));
    return largest;
  }

  Golden golden_;
  ModelConfig config_;
  std::shared_ptr<Device> device_;
  Graph graph_;
  std::map<std::string, Weight> weights_, gradients_;
  Binder bind_;
  ForwardInput input_;
  int64_t batch_ = 0, tokens_ = 0;
};

TEST_P(HybridMixer, GivesTheGoldenOutputAndGradients) {
  const int64_t width = config_.hidden_size;
  const Value h = BuildMixer(graph_, config_, 0, bind_, input_, Rows(golden_["x"], width));
  const Value y = MatMul(graph_, graph_.MergeHeads(h), bind_(graph_, "model.layers.0.self_attn.o_proj.weight"));
  // The gradient of an alignment loss is 2 (y - teacher): with this teacher it is the golden dy.
  std::vector<float> teacher = golden_["y"];
  const std::vector<float> dy = golden_["dy"];
  for (size_t i = 0; i < teacher.size(); ++i) teacher[i] -= dy[i] / 2;
  AlignLoss(graph_, graph_.SplitHeads(y, batch_, tokens_, 1),
            graph_.SplitHeads(Rows(teacher, width), batch_, tokens_, 1), graph_.Constant({1.0f}, {1}));
  graph_.Keep(h);
  graph_.Keep(y);
  graph_.BackwardSince(0);
  CompileAndRun();
  EXPECT_LE(RelativeError(ReadRows(graph_.MergeHeads(h)), TokenMajor(golden_["h"])), 1e-5);
  EXPECT_LE(RelativeError(ReadRows(y), golden_["y"]), 1e-5);
  ExpectGradients("d_");
}

TEST_P(HybridMixer, GivesTheGoldenAlignmentLossAndGradients) {
  const Value h = BuildMixer(graph_, config_, 0, bind_, input_, Rows(golden_["x"], config_.hidden_size));
  const Value teacher = Rows(TokenMajor(golden_["teacher_h"]), config_.heads * config_.head_dim);
  const Value loss =
      AlignLoss(graph_, h, graph_.SplitHeads(teacher, batch_, tokens_, config_.heads), graph_.Constant({1.0f}, {1}));
  graph_.Keep(loss);
  graph_.BackwardSince(0);
  CompileAndRun();
  EXPECT_NEAR(ReadRows(loss)[0] / golden_["align_loss"][0], 1, 1e-5);
  ExpectGradients("align_d_");
}

INSTANTIATE_TEST_SUITE_P(Files, HybridMixer, ::testing::Values("hybrid_mha", "hybrid_gqa_bias", "hybrid_head64"));

}  // namespace
}  // namespace xh::test
