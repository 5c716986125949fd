#include "tests/conformance/backend_check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "tests/conformance/coverage.h"
#include "tests/conformance/program/settings.h"

namespace xh::test {
namespace {

constexpr int64_t kElementwise = 400;  // most elements of a tensor that are perturbed one by one

// What runs the same code once more is left out.
bool Quick() { return TheSettings().quick; }

bool Bit(uint32_t mask, size_t i) { return (mask >> i & 1u) != 0; }

std::vector<Doubles> ValuesOf(const std::vector<Arg>& args) {
  std::vector<Doubles> values;
  for (const Arg& arg : args) values.push_back(arg.values);
  return values;
}

double Dot(const Doubles& a, const Doubles& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

class Checker {
 public:
  explicit Checker(const Case& c) : c_(c) {
    for (size_t i = 0; i < c_.outputs.size(); ++i) {
      Arg weight = c_.outputs[i];
      if (weight.dtype != 0) weight.values = Random(weight.dtype, weight.shape, 1000 + static_cast<uint32_t>(i)).values;
      weights_.push_back(c_.objective ? Absent() : weight);
    }
  }

  void CheckForward() {
    const std::vector<Doubles> expected = c_.forward(ValuesOf(c_.inputs));
    const std::vector<Arg> inferred = Run(XH_INFER, c_.threads);
    outputs_ = Run(XH_FORWARD, c_.threads);
    const std::vector<Arg> again = Quick() ? outputs_ : Run(XH_FORWARD, c_.threads);
    for (size_t i = 0; i < c_.outputs.size(); ++i) {
      if (c_.outputs[i].dtype == 0) continue;
      Close(false, RelativeError(outputs_[i].values, expected[i]), c_.tolerance, "output ", i);
      Close(false, RelativeError(inferred[i].values, expected[i]), c_.tolerance, "INFER's output ", i);
      if (PromisesOfBackend().exact) {
        EXPECT_EQ(inferred[i].values, outputs_[i].values) << "INFER differs from FORWARD in output " << i;
      }
      SameBits(again[i].values, outputs_[i].values, "output ", i);
    }
  }

  void CheckBackward() {
    const std::vector<Arg> all = Gradients(), again = Quick() ? all : Gradients();
    std::vector<size_t> present;
    for (size_t i = 0; i < all.size(); ++i) {
      if (all[i].dtype == 0) continue;
      present.push_back(i);
      SameBits(again[i].values, all[i].values, "gradient ", i);
      Compare(i, all[i].values);
    }
    if (Quick()) {  // together, and the ends of the list alone
      CheckAlone(present.front(), all[present.front()].values);
      CheckAlone(present.back(), all[present.back()].values);
      CheckAccumulate(present, all);
      if (!c_.objective) CheckNoOutputGradient(present);
      return;
    }
    for (size_t i : present) {
      CheckAlone(i, all[i].values);
      CheckAccumulate({i}, all);
      if (!c_.objective) CheckNoOutputGradient({i});
    }
  }

  std::vector<Arg> Gradients() {
    std::vector<Arg> wanted;
    for (size_t i = 0; i < c_.inputs.size(); ++i) wanted.push_back(Bit(c_.differentiable, i) ? Gradient(i) : Absent());
    return Backward(wanted, weights_);
  }

  void CheckNan() {
    for (size_t i = 0; i < c_.inputs.size(); ++i) {
      if (c_.inputs[i].dtype != XH_F32 && c_.inputs[i].dtype != XH_BF16) continue;
      if (!Bit(c_.differentiable, i)) continue;
      Case poisoned = c_;
      poisoned.inputs[i].values[poisoned.inputs[i].values.size() / 2] = std::numeric_limits<double>::quiet_NaN();
      Checker run(poisoned);
      bool seen = false;
      for (const Arg& output : run.Run(XH_INFER, c_.threads)) {
        for (double value : output.values) seen = seen || std::isnan(value);
      }
      EXPECT_TRUE(seen) << "a NaN in input " << i << " does not show";
      if (Quick()) return;
    }
  }

  // Where the formula stays finite the op does; where it does not, the op shows it.
  void CheckInfinity() {
    for (size_t i = 0; i < c_.inputs.size(); ++i) {
      if (!Bit(c_.differentiable, i)) continue;
      Case poisoned = c_;
      poisoned.inputs[i].values[poisoned.inputs[i].values.size() / 2] = std::numeric_limits<double>::infinity();
      const std::vector<Doubles> expected = c_.forward(ValuesOf(poisoned.inputs));
      const std::vector<Arg> outputs = Checker(poisoned).Run(XH_INFER, c_.threads);
      bool finite = true, formula_finite = true;
      for (size_t o = 0; o < outputs.size(); ++o) {
        if (outputs[o].dtype == 0) continue;
        for (double x : outputs[o].values) finite = finite && std::isfinite(x);
        for (double x : expected[o]) formula_finite = formula_finite && std::isfinite(x);
      }
      EXPECT_EQ(finite, formula_finite) << OpName(c_.op) << ": infinity in input " << i;
      if (Quick()) return;
    }
  }

 private:
  std::vector<Arg> Run(xh_pass pass, int threads) {
    Op op(c_.op, threads);
    return RunWith(op, pass);
  }

  std::vector<Arg> RunWith(Op& op, xh_pass pass) {
    SetParams(&op);
    std::vector<Arg> args = c_.inputs;
    args.insert(args.end(), c_.outputs.begin(), c_.outputs.end());
    MustRun(op, pass, &args);
    return {args.begin() + static_cast<int64_t>(c_.inputs.size()), args.end()};
  }

  void SetParams(Op* op) const { op->SetParams(c_.params); }

  // FORWARD and BACKWARD on one op; returns the input gradients.
  std::vector<Arg> Backward(const std::vector<Arg>& wanted, const std::vector<Arg>& output_gradients) {
    Op op(c_.op, c_.threads);
    const std::vector<Arg> outputs = RunWith(op, XH_FORWARD);
    std::vector<Arg> args;
    for (size_t i = 0; i < c_.inputs.size(); ++i) args.push_back(Bit(c_.needs_inputs, i) ? c_.inputs[i] : Absent());
    for (size_t i = 0; i < outputs.size(); ++i) args.push_back(Bit(c_.needs_outputs, i) ? outputs[i] : Absent());
    args.insert(args.end(), output_gradients.begin(), output_gradients.end());
    args.insert(args.end(), wanted.begin(), wanted.end());
    MustRun(op, XH_BACKWARD, &args);
    return {args.end() - static_cast<int64_t>(c_.inputs.size()), args.end()};
  }

  // The one comparison with the oracle: fails the test and goes into the report.
  void Close(bool gradient, double error, double tolerance, const char* what, size_t i) const {
    CountError(c_.op, Dtype(), gradient, error, tolerance);
    if (!(error <= tolerance)) {
      ADD_FAILURE() << Named() << what << i << " is wrong: relative error " << error << ", allowed " << tolerance;
    }
  }

  void SameBits(const Doubles& out, const Doubles& expected, const char* what, size_t i) const {
    if (out != expected) ADD_FAILURE() << Named() << what << i << " differs from run to run";
  }

  std::string Named() const { return std::string(OpName(c_.op)) + " " + Dtype() + ": "; }

  std::string Dtype() const {
    std::vector<xh_dtype> dtypes;
    for (const Arg& arg : c_.inputs) dtypes.push_back(arg.dtype);
    for (const Arg& arg : c_.outputs) dtypes.push_back(arg.dtype);
    return DtypeName(dtypes);
  }

  Arg Gradient(size_t i) const {
    Arg gradient = c_.inputs[i];
    gradient.values.clear();
    if (Bit(c_.parameters, i)) gradient.dtype = XH_F32;
    return gradient;
  }

  double Objective(const std::vector<Doubles>& inputs) const {
    if (c_.objective) return c_.objective(inputs);
    const std::vector<Doubles> outputs = c_.forward(inputs);
    double sum = 0.0;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (c_.outputs[i].dtype != 0) sum += Dot(outputs[i], weights_[i].values);
    }
    return sum;
  }

  // Central difference of the objective along `direction` in input i.
  double Slope(size_t i, const Doubles& direction) const {
    constexpr double kStep = 1e-5;
    double sides[2];
    for (int side = 0; side < 2; ++side) {
      std::vector<Doubles> inputs = ValuesOf(c_.inputs);
      for (size_t e = 0; e < direction.size(); ++e) inputs[i][e] += (side == 0 ? kStep : -kStep) * direction[e];
      sides[side] = Objective(inputs);
    }
    return (sides[0] - sides[1]) / (2.0 * kStep);
  }

  void Compare(size_t i, const Doubles& gradient) const {
    const size_t n = gradient.size();
    if (n <= static_cast<size_t>(kElementwise)) {
      Doubles expected(n);
      for (size_t e = 0; e < n; ++e) {
        Doubles direction(n, 0.0);
        direction[e] = 1.0;
        expected[e] = Slope(i, direction);
      }
      Close(true, RelativeError(gradient, expected), c_.gradient_tolerance, "gradient of input ", i);
      return;
    }
    // Along the gradient itself the slope is its squared norm; random signs catch what is missing from it.
    const double norm = std::sqrt(Dot(gradient, gradient));
    ASSERT_GT(norm, 0.0) << "gradient of input " << i << " is zero";
    Doubles unit = gradient;
    for (double& x : unit) x /= norm;
    Close(true, std::fabs(Slope(i, unit) / norm - 1.0), c_.gradient_tolerance, "gradient of input ", i);
    std::mt19937 generator(77);
    for (int trial = 0; trial < 6; ++trial) {
      Doubles signs(n);
      for (double& x : signs) x = generator() % 2 == 0 ? 1.0 : -1.0;
      Close(true, std::fabs(Dot(gradient, signs) - Slope(i, signs)) / norm, 3.0 * c_.gradient_tolerance,
            "gradient of input ", i);
    }
  }

  // Wanting one gradient gives what wanting all gave.
  void CheckAlone(size_t i, const Doubles& expected) {
    std::vector<Arg> wanted(c_.inputs.size());
    wanted[i] = Gradient(i);
    EXPECT_EQ(Backward(wanted, weights_)[i].values, expected) << "gradient of input " << i << " alone";
  }

  void CheckAccumulate(const std::vector<size_t>& inputs, const std::vector<Arg>& all) {
    std::vector<Arg> wanted(c_.inputs.size());
    for (size_t i : inputs) {
      wanted[i] = Added(Gradient(i), Random(Gradient(i).dtype, c_.inputs[i].shape, 5).values);
    }
    const std::vector<Arg> results = Backward(wanted, weights_);
    for (size_t i : inputs) {
      Doubles expected = all[i].values;
      for (size_t e = 0; e < expected.size(); ++e) expected[e] += wanted[i].values[e];
      const double tolerance = Gradient(i).dtype == XH_BF16 ? 1e-2 : 1e-5;
      Close(true, RelativeError(results[i].values, expected), tolerance, "accumulated gradient of input ", i);
    }
  }

  void CheckNoOutputGradient(const std::vector<size_t>& inputs) {
    std::vector<Arg> wanted(c_.inputs.size());
    for (size_t i : inputs) wanted[i] = Gradient(i);
    const std::vector<Arg> none(c_.outputs.size()), results = Backward(wanted, none);
    for (size_t i : inputs) {
      const Doubles zero(static_cast<size_t>(c_.inputs[i].size()), 0.0);
      EXPECT_EQ(results[i].values, zero) << "gradient of input " << i << " without an output gradient";
    }
  }

  Case c_;
  std::vector<Arg> weights_;
  std::vector<Arg> outputs_;
};

}  // namespace

void ExpectSameBits(const Doubles& out, const Doubles& expected) {
  if (PromisesOfBackend().exact) {
    EXPECT_EQ(out, expected);
  } else {
    EXPECT_LE(RelativeError(out, expected), 1e-5);
  }
}

void ExpectSameBits(const std::vector<Doubles>& out, const std::vector<Doubles>& expected) {
  ASSERT_EQ(out.size(), expected.size());
  for (size_t i = 0; i < out.size(); ++i) ExpectSameBits(out[i], expected[i]);
}

std::vector<Arg> GradientsOf(const Case& c) { return Checker(c).Gradients(); }

void UseBf16Tolerance(Case* c) { c->tolerance = c->gradient_tolerance = 1e-2; }

void CheckOp(const Case& c) {
  Checker checker(c);
  const auto supported = [](auto check) {
    try {
      check();
      return true;
    } catch (const Unsupported&) {  // counted and reported; what else the case asks for is asked all the same
      return false;
    }
  };
  const bool forward = supported([&] { checker.CheckForward(); });
  if (c.differentiable != 0) supported([&] { checker.CheckBackward(); });
  if (forward) supported([&] { checker.CheckNan(); });
  if (forward) supported([&] { checker.CheckInfinity(); });
}

}  // namespace xh::test
