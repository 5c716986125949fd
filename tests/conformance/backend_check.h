// What every differentiable op must do, whatever it computes: CheckOp runs one case through all passes and compares it
// with a forward function in double and with that function's central differences.
#ifndef XHYBRID_TESTS_CONFORMANCE_BACKEND_CHECK_H_
#define XHYBRID_TESTS_CONFORMANCE_BACKEND_CHECK_H_

#include <functional>
#include <string>
#include <vector>

#include "tests/conformance/backend_fixture.h"

namespace xh::test {

using Doubles = std::vector<double>;
// All inputs (empty where absent) -> all outputs, row-major.
using Forward = std::function<std::vector<Doubles>(const std::vector<Doubles>&)>;

struct Case {
  xh_op op = 0;
  std::string params;  // bytes of the parameter struct
  std::vector<Arg> inputs;
  std::vector<Arg> outputs;
  uint32_t needs_inputs = 0;  // bits of what BACKWARD reads
  uint32_t needs_outputs = 0;
  uint32_t differentiable = 0;  // bits of inputs that have a gradient
  uint32_t parameters = 0;      // bits of inputs whose gradient is f32
  Forward forward;
  // Losses: BACKWARD takes no output gradient and differentiates this instead of a random combination of the outputs.
  std::function<double(const std::vector<Doubles>&)> objective;
  double tolerance = 1e-5;           // relative, for each output
  double gradient_tolerance = 1e-4;  // relative, for each gradient
  int threads = 2;

  template <class P>
  void Params(const P& p) {
    params.assign(reinterpret_cast<const char*>(&p), sizeof(P));
  }
};

// bf16 tolerances: 8 bits of mantissa in and out.
void UseBf16Tolerance(Case* c);

// INFER and FORWARD against the oracle, equal to each other and repeatable; BACKWARD of all gradients against central
// differences (element by element when small, along random directions when large), each alone, added to what is there,
// without an output gradient, repeatable; a NaN in any input reaches an output.
void CheckOp(const Case& c);

// All gradients of a case for output gradients of the checker's choice; absent where there is none.
std::vector<Arg> GradientsOf(const Case& c);

// The same computation by two ways: equal to the last bit where the backend promises so, else to rounding.
void ExpectSameBits(const Doubles& out, const Doubles& expected);
void ExpectSameBits(const std::vector<Doubles>& out, const std::vector<Doubles>& expected);

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_BACKEND_CHECK_H_
