// A composite is its parts: feature maps, the mLSTM, windowed attention, the head gate and their mix, each fed with
// what the one before it gave, against the composed formulas in double and their central differences.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "tests/conformance/attention_oracle.h"
#include "tests/conformance/graph_node.h"
#include "tests/conformance/mlstm_oracle.h"
#include "tests/conformance/oracle_dense.h"

namespace xh::test {
namespace {

constexpr int64_t kBatch = 2, kHeads = 4, kKvHeads = 2, kTokens = 45, kDim = 12;

// What the composite reads: q, k, v, i, f, the map's a for q and for k, the gate's w and b.
std::vector<Arg> Inputs() {
  const std::vector<int64_t> q = {kBatch, kHeads, kTokens, kDim}, kv = {kBatch, kKvHeads, kTokens, kDim};
  const std::vector<int64_t> gate = {kBatch, kHeads, kTokens}, map = {kHeads, kDim, kDim};
  Arg f = Random(XH_F32, gate, 5);
  for (double& x : f.values) x = RoundTo(XH_F32, x + 2.0);
  return {Random(XH_F32, q, 1),
          Random(XH_F32, kv, 2),
          Random(XH_F32, kv, 3),
          Random(XH_F32, gate, 4),
          f,
          Random(XH_F32, map, 6, 0.5),
          Random(XH_F32, map, 7, 0.5),
          Random(XH_F32, {kHeads, 3 * kDim}, 8, 0.3),
          Random(XH_F32, {kHeads}, 9)};
}

// Its windows are lent to plans, so it lives as long as the program.
const AttentionSize& Window() {
  static const AttentionSize size = {kBatch, kHeads, kKvHeads, kTokens, kDim, {7, 0}, 2};
  return size;
}

// h of the composed formulas.
Doubles Formula(const std::vector<Doubles>& in) {
  const Doubles phi_q = oracle::FeatureMap(in[0], in[5], kBatch, kHeads, kHeads, kTokens, kDim, kDim, false);
  const Doubles phi_k = oracle::FeatureMap(in[1], in[6], kBatch, kKvHeads, kHeads, kTokens, kDim, kDim, false);
  const Doubles linear = MlstmOracle({kBatch, kHeads, kKvHeads, kTokens, kDim, kDim},
                                     {phi_q, phi_k, in[2], in[3], in[4], {}, {}, {}, {}})[0];
  const Doubles window = AttentionOracle(Window(), {in[0], in[1], in[2]})[0];
  const Doubles gate = oracle::HeadGate(in[0], in[1], in[2], in[7], in[8], kBatch, kHeads, kKvHeads, kTokens, kDim);
  return oracle::Mix(gate, linear, window, kDim);
}

// The same by ops.
class Composite {
 public:
  explicit Composite(const std::vector<Arg>& in) {
    const std::vector<int64_t> heads = {kBatch, kHeads, kTokens, kDim};
    const std::string softmax = Bytes(xh_feature_map_params{XH_SIZED(xh_feature_map_params), XH_FEATURE_SOFTMAX});
    phi_q_ = std::make_unique<Node>(XH_OP_FEATURE_MAP, softmax, std::vector<Arg>{in[0], in[5]}, heads, 7u);
    phi_k_ = std::make_unique<Node>(XH_OP_FEATURE_MAP, softmax, std::vector<Arg>{in[1], in[6]}, heads, 7u);
    mlstm_ = std::make_unique<Node>(
        XH_OP_MLSTM, Bytes(MlstmParams({kBatch, kHeads, kKvHeads, kTokens, kDim, kDim})),
        std::vector<Arg>{phi_q_->out(), phi_k_->out(), in[2], in[3], in[4], Absent(), Absent(), Absent(), Absent()},
        heads, 0x21fu, 4);
    window_ = std::make_unique<Node>(XH_OP_ATTENTION, Bytes(Window().Params()),
                                     std::vector<Arg>{in[0], in[1], in[2], Absent(), Absent(), Absent(), Absent()},
                                     heads, 0x87u);
    gate_ = std::make_unique<Node>(XH_OP_HEAD_GATE, "", std::vector<Arg>{in[0], in[1], in[2], in[7], in[8]},
                                   std::vector<int64_t>{kBatch, kHeads, kTokens}, 0x2fu);
    mix_ =
        std::make_unique<Node>(XH_OP_MIX, "", std::vector<Arg>{gate_->out(), mlstm_->out(), window_->out()}, heads, 7u);
  }

  const Doubles& h() const { return mix_->values(); }

  // Gradients of all inputs for the gradient of h.
  std::vector<Doubles> Backward(const Doubles& dh) {
    const std::vector<Doubles> mix = mix_->Backward(dh, 7);
    const std::vector<Doubles> gate = gate_->Backward(mix[0], 31), mlstm = mlstm_->Backward(mix[1], 31);
    const std::vector<Doubles> window = window_->Backward(mix[2], 7);
    const std::vector<Doubles> phi_q = phi_q_->Backward(mlstm[0], 3), phi_k = phi_k_->Backward(mlstm[1], 3);
    return {Sum(phi_q[0], window[0], gate[0]),
            Sum(phi_k[0], window[1], gate[1]),
            Sum(mlstm[2], window[2], gate[2]),
            mlstm[3],
            mlstm[4],
            phi_q[1],
            phi_k[1],
            gate[3],
            gate[4]};
  }

 private:
  static Doubles Sum(Doubles a, const Doubles& b, const Doubles& c) {
    for (size_t i = 0; i < a.size(); ++i) a[i] += b[i] + c[i];
    return a;
  }

  std::unique_ptr<Node> phi_q_, phi_k_, mlstm_, window_, gate_, mix_;
};

double Dot(const Doubles& a, const Doubles& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Central difference of h . dh along `direction` in input i.
double Slope(const std::vector<Doubles>& in, size_t i, const Doubles& direction, const Doubles& dh) {
  constexpr double kStep = 1e-5;
  double sides[2];
  for (size_t side = 0; side < 2; ++side) {
    std::vector<Doubles> moved = in;
    for (size_t e = 0; e < direction.size(); ++e) moved[i][e] += (side == 0 ? kStep : -kStep) * direction[e];
    sides[side] = Dot(Formula(moved), dh);
  }
  return (sides[0] - sides[1]) / (2.0 * kStep);
}

// Tolerances are those of one op (1e-5, 1e-4): the errors of five ops add up, and stay well within.
TEST(Composite, EqualsItsParts) {
  const std::vector<Arg> inputs = Inputs();
  std::vector<Doubles> values;
  for (const Arg& arg : inputs) values.push_back(arg.values);
  Composite composite(inputs);
  EXPECT_LE(RelativeError(composite.h(), Formula(values)), 1e-5);
  const Doubles dh = Random(XH_F32, {kBatch, kHeads, kTokens, kDim}, 20).values;
  const std::vector<Doubles> gradients = composite.Backward(dh);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const double norm = std::sqrt(Dot(gradients[i], gradients[i]));
    Doubles along = gradients[i];
    for (double& x : along) x /= norm;
    EXPECT_NEAR(Slope(values, i, along, dh) / norm, 1.0, 1e-4) << "gradient of input " << i;
    const Doubles any = Random(XH_F32, inputs[i].shape, 30 + static_cast<uint32_t>(i)).values;
    EXPECT_NEAR((Slope(values, i, any, dh) - Dot(gradients[i], any)) / norm, 0.0, 3e-4) << "gradient of input " << i;
  }
}

}  // namespace
}  // namespace xh::test
