// The whole hybrid mixer put together from backend ops (SPEC.md 1) against vectors made with another implementation:
// every intermediate result, the gradients of sum y dy, and those of the alignment loss.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>

#include "tests/conformance/graph_node.h"

namespace xh::test {
namespace {

// Values of shape [a, b, c, d] as [a, c, b, d].
Doubles SwapMiddle(const Doubles& from, int64_t a, int64_t b, int64_t c, int64_t d) {
  Doubles to(from.size());
  for (int64_t i = 0; i < a; ++i) {
    for (int64_t j = 0; j < b; ++j) {
      for (int64_t k = 0; k < c; ++k) {
        for (int64_t l = 0; l < d; ++l) {
          to[static_cast<size_t>(((i * c + k) * b + j) * d + l)] =
              from[static_cast<size_t>(((i * b + j) * c + k) * d + l)];
        }
      }
    }
  }
  return to;
}

void Add(Doubles* to, const Doubles& from) {
  to->resize(from.size());
  for (size_t i = 0; i < from.size(); ++i) (*to)[i] += from[i];
}

class HybridMixer : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    file_ = std::make_unique<Vectors>(std::string("kernels/hybrid_") + GetParam() + ".safetensors");
    const Arg &x = Get("x"), &h = Get("h");
    batch_ = x.shape[0];
    tokens_ = x.shape[1];
    width_ = x.shape[2];
    heads_ = h.shape[1];
    dim_ = h.shape[3];
    kv_heads_ = Get("wk").shape[0] / dim_;
    bias_ = std::string(GetParam()) == "gqa_bias";
    windows_.assign(static_cast<size_t>(kv_heads_), static_cast<int32_t>(file_->Number("window")));
    Forward();
  }

  const Arg& Get(const std::string& name) const { return (*file_)[name]; }
  Arg Flat(const Doubles& values, int64_t columns) const { return Of(XH_F32, {batch_ * tokens_, columns}, values); }
  Arg Heads(const Doubles& flat, int64_t heads) const {
    return Of(XH_F32, {batch_, heads, tokens_, dim_}, SwapMiddle(flat, batch_, tokens_, heads, dim_));
  }

  // x w^T + b as a node; the gates and the projections.
  Node& Project(const std::string& name, const Doubles& x, const std::string& w, const std::string& b) {
    const int64_t n = Get(w).shape[0];
    nodes_[name] = std::make_unique<Node>(
        XH_OP_MATMUL, "", std::vector<Arg>{Flat(x, Get(w).shape[1]), Get(w), b.empty() ? Absent() : Get(b)},
        std::vector<int64_t>{batch_ * tokens_, n}, 3u);
    return *nodes_[name];
  }

  Arg Rotate(const std::string& name, const Doubles& flat, int64_t heads) {
    Arg table = Output(XH_F32, {tokens_, dim_});
    const double theta = file_->Number("rope_theta");
    for (int64_t p = 0; p < tokens_; ++p) {
      for (int64_t j = 0; j < dim_; ++j) {
        const int64_t pair = j % (dim_ / 2);
        const double angle =
            static_cast<double>(p) * std::pow(theta, -2.0 * static_cast<double>(pair) / static_cast<double>(dim_));
        table.values.push_back(j < dim_ / 2 ? std::cos(angle) : std::sin(angle));
      }
    }
    nodes_[name] = std::make_unique<Node>(
        XH_OP_ROPE, "",
        std::vector<Arg>{Of(XH_F32, {batch_, tokens_, heads, dim_}, flat), Of(XH_F32, table.shape, table.values),
                         Of(XH_I32, {batch_}, Doubles(static_cast<size_t>(batch_), 0.0))},
        std::vector<int64_t>{batch_, tokens_, heads, dim_}, 6u);
    return Heads(nodes_[name]->values(), heads);
  }

  void Forward() {
    const Doubles& x = Get("x").values;
    const Doubles q = Project("q", x, "wq", bias_ ? "bq" : "").values();
    const Doubles k = Project("k", x, "wk", bias_ ? "bk" : "").values();
    const Arg v = Heads(Project("v", x, "wv", bias_ ? "bv" : "").values(), kv_heads_);
    const std::vector<int64_t> per_head = {batch_, heads_, tokens_, dim_}, per_token = {batch_, heads_, tokens_};
    const auto gate = [&](const std::string& name, const std::string& w, const std::string& b) {
      return Of(XH_F32, per_token, SwapMiddle(Project(name, x, w, b).values(), batch_, tokens_, heads_, 1));
    };
    const Arg i = gate("i", "wi", "bi"), f = gate("f", "wf", "bf");
    nodes_["o"] = std::make_unique<Node>(
        XH_OP_HEAD_GATE, "", std::vector<Arg>{Heads(q, heads_), Heads(k, kv_heads_), v, Get("wog"), Get("bog")},
        per_token, 0x2fu);
    const Arg rotated_q = Rotate("rotated_q", q, heads_), rotated_k = Rotate("rotated_k", k, kv_heads_);
    const xh_attention_params attention = {XH_SIZED(xh_attention_params),
                                           static_cast<int32_t>(file_->Number("sinks")),
                                           1.0f / std::sqrt(static_cast<float>(dim_)),
                                           static_cast<int32_t>(kv_heads_),
                                           windows_.data(),
                                           0};
    nodes_["window"] = std::make_unique<Node>(
        XH_OP_ATTENTION, Bytes(attention),
        std::vector<Arg>{rotated_q, rotated_k, v, Absent(), Absent(), Absent(), Absent()}, per_head, 0x87u);
    const xh_feature_map_params softmax = {XH_SIZED(xh_feature_map_params), XH_FEATURE_SOFTMAX};
    nodes_["phi_q"] = std::make_unique<Node>(XH_OP_FEATURE_MAP, Bytes(softmax),
                                             std::vector<Arg>{rotated_q, Get("phi_q")}, per_head, 7u);
    nodes_["phi_k"] = std::make_unique<Node>(XH_OP_FEATURE_MAP, Bytes(softmax),
                                             std::vector<Arg>{rotated_k, Get("phi_k")}, per_head, 7u);
    const xh_mlstm_params mlstm = {XH_SIZED(xh_mlstm_params), XH_NORMALIZER_PLAIN, 1.0f, 0};
    nodes_["mlstm"] = std::make_unique<Node>(XH_OP_MLSTM, Bytes(mlstm),
                                             std::vector<Arg>{nodes_["phi_q"]->out(), nodes_["phi_k"]->out(), v, i, f,
                                                              Absent(), Absent(), Absent(), Absent()},
                                             per_head, 0x21fu, 4);
    nodes_["h"] = std::make_unique<Node>(
        XH_OP_MIX, "", std::vector<Arg>{nodes_["o"]->out(), nodes_["mlstm"]->out(), nodes_["window"]->out()}, per_head,
        7u);
    Project("y", SwapMiddle(nodes_["h"]->values(), batch_, heads_, tokens_, dim_), "wo", "");
  }

  // Gradients of every parameter and of x for the gradient of h.
  std::map<std::string, Doubles> Backward(const Doubles& dh) {
    std::map<std::string, Doubles> d;
    const std::vector<Doubles> mix = nodes_["h"]->Backward(dh, 7);
    const std::vector<Doubles> mlstm = nodes_["mlstm"]->Backward(mix[1], 0x1f);
    const std::vector<Doubles> window = nodes_["window"]->Backward(mix[2], 7);
    const std::vector<Doubles> gate = nodes_["o"]->Backward(mix[0], 0x1f);
    d["wog"] = gate[3];
    d["bog"] = gate[4];
    Doubles dv = mlstm[2];
    Add(&dv, window[2]);
    Add(&dv, gate[2]);
    Project(&d, "v", SwapMiddle(dv, batch_, kv_heads_, tokens_, dim_));
    Projected(&d, "q", heads_, window[0], mlstm[0], gate[0]);
    Projected(&d, "k", kv_heads_, window[1], mlstm[1], gate[1]);
    Project(&d, "i", SwapMiddle(mlstm[3], batch_, heads_, tokens_, 1));
    Project(&d, "f", SwapMiddle(mlstm[4], batch_, heads_, tokens_, 1));
    return d;
  }

  // Through a projection: adds to d["x"], sets d["w" + name] and d["b" + name]; keeps the gradient as d[name].
  void Project(std::map<std::string, Doubles>* d, const std::string& name, const Doubles& gradient) {
    const bool bias = bias_ || name == "i" || name == "f";
    const std::vector<Doubles> g = nodes_[name]->Backward(gradient, bias ? 7 : 3);
    (*d)[name] = gradient;
    Add(&(*d)["x"], g[0]);
    (*d)["w" + name] = g[1];
    (*d)["b" + name] = g[2];
  }

  // Through feature map, rotation and projection of q or k.
  void Projected(std::map<std::string, Doubles>* d, const std::string& name, int64_t heads, const Doubles& d_rotated,
                 const Doubles& d_phi, const Doubles& d_plain) {
    const std::vector<Doubles> map = nodes_["phi_" + name]->Backward(d_phi, 3);
    (*d)["phi_" + name] = map[1];
    Doubles rotated = d_rotated;
    Add(&rotated, map[0]);
    Doubles flat = nodes_["rotated_" + name]->Backward(SwapMiddle(rotated, batch_, heads, tokens_, dim_), 1)[0];
    Add(&flat, SwapMiddle(d_plain, batch_, heads, tokens_, dim_));
    Project(d, name, flat);
  }

  int64_t batch_, tokens_, width_, heads_, kv_heads_, dim_;
  bool bias_;
  std::vector<int32_t> windows_;
  std::unique_ptr<Vectors> file_;
  std::map<std::string, std::unique_ptr<Node>> nodes_;
};

// Without a state a shift of every input gate of a head changes nothing: the gradient of its bias is zero to rounding.
void ExpectNoShift(const std::map<std::string, Doubles>& d) {
  double size = 0.0;
  for (double x : d.at("i")) size += std::fabs(x);
  for (double x : d.at("bi")) EXPECT_LE(std::fabs(x), 1e-5 * size);
}

TEST_P(HybridMixer, IntermediateResultsAgree) {
  const auto gate = [&](const char* name) { return SwapMiddle(nodes_[name]->values(), batch_, tokens_, heads_, 1); };
  EXPECT_LE(RelativeError(gate("i"), Get("i").values), 1e-5);
  EXPECT_LE(RelativeError(gate("f"), Get("f").values), 1e-5);
  EXPECT_LE(RelativeError(nodes_["o"]->values(), Get("o").values), 1e-5);
  EXPECT_LE(RelativeError(nodes_["window"]->values(), Get("h_swa").values), 1e-5);
  EXPECT_LE(RelativeError(nodes_["mlstm"]->values(), Get("h_mlstm").values), 1e-5);
  EXPECT_LE(RelativeError(nodes_["h"]->values(), Get("h").values), 1e-5);
  EXPECT_LE(RelativeError(nodes_["y"]->values(), Get("y").values), 1e-5);
}

TEST_P(HybridMixer, EveryGradientAgrees) {
  const std::vector<Doubles> out = nodes_["y"]->Backward(Get("dy").values, 3);
  std::map<std::string, Doubles> d = Backward(SwapMiddle(out[0], batch_, tokens_, heads_, dim_));
  d["wo"] = out[1];
  std::vector<std::string> names = {"x", "wq", "wk", "wv", "wo", "wi", "wf", "bf", "wog", "bog", "phi_q", "phi_k"};
  if (bias_) names.insert(names.end(), {"bq", "bk", "bv"});
  for (const std::string& name : names) EXPECT_LE(RelativeError(d[name], Get("d_" + name).values), 1e-4) << name;
  ExpectNoShift(d);
}

TEST_P(HybridMixer, AlignmentLossAndItsGradientsAgree) {
  Op loss(XH_OP_ALIGN_LOSS);
  const Arg one = Of(XH_F32, {1}, {1.0});
  std::vector<Arg> args = {nodes_["h"]->out(), Get("teacher_h"), one, Output(XH_F32, {2})};
  MustRun(loss, XH_FORWARD, &args);
  EXPECT_NEAR(args[3].values[0] / Get("align_loss").values[0], 1.0, 1e-5);
  args = {nodes_["h"]->out(), Get("teacher_h"), one, Absent(), Absent(), Output(XH_F32, Get("h").shape),
          Absent(),           Absent()};
  MustRun(loss, XH_BACKWARD, &args);
  std::map<std::string, Doubles> d = Backward(args[5].values);
  for (const std::string name : {"wi", "wf", "bf", "wog", "bog", "phi_q", "phi_k"}) {
    EXPECT_LE(RelativeError(d[name], Get("align_d_" + name).values), 1e-4) << name;
  }
  ExpectNoShift(d);
}

INSTANTIATE_TEST_SUITE_P(Vectors, HybridMixer, testing::Values("mha", "gqa_bias", "head64"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace xh::test
