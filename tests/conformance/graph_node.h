// Graphs put together from single ops, for tests of composites.
#ifndef XHYBRID_TESTS_CONFORMANCE_GRAPH_NODE_H_
#define XHYBRID_TESTS_CONFORMANCE_GRAPH_NODE_H_

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/conformance/backend_check.h"

namespace xh::test {

// The bytes of a parameter struct.
template <class P>
std::string Bytes(const P& params) {
  return std::string(reinterpret_cast<const char*>(&params), sizeof(params));
}

// One op of the graph: its forward pass on construction, its backward pass on demand.
class Node {
 public:
  // `needs` has the bits of the inputs and, after them, of the output that BACKWARD reads.
  Node(xh_op op, std::string params, std::vector<Arg> inputs, std::vector<int64_t> shape, uint32_t needs,
       int outputs = 1)
      : op_(op), inputs_(std::move(inputs)), shape_(std::move(shape)), needs_(needs), outputs_(outputs) {
    op_.SetParams(std::move(params));
    std::vector<Arg> args = inputs_;
    args.push_back(Output(XH_F32, shape_));
    args.resize(inputs_.size() + static_cast<size_t>(outputs_));
    MustRun(op_, XH_FORWARD, &args);
    out_ = Of(XH_F32, shape_, args[inputs_.size()].values);
  }

  const Arg& out() const { return out_; }
  const Doubles& values() const { return out_.values; }

  // Gradients of the inputs whose bit is in `wanted`, for the gradient of the output.
  std::vector<Doubles> Backward(const Doubles& gradient, uint32_t wanted) {
    std::vector<Arg> args;
    for (size_t i = 0; i < inputs_.size(); ++i) args.push_back((needs_ >> i & 1u) != 0 ? inputs_[i] : Absent());
    args.push_back((needs_ >> inputs_.size() & 1u) != 0 ? out_ : Absent());
    args.resize(inputs_.size() + static_cast<size_t>(outputs_));
    args.push_back(Of(XH_F32, shape_, gradient));
    args.resize(inputs_.size() + 2 * static_cast<size_t>(outputs_));
    const size_t first = args.size();
    for (size_t i = 0; i < inputs_.size(); ++i) {
      args.push_back((wanted >> i & 1u) != 0 ? Output(XH_F32, inputs_[i].shape) : Absent());
    }
    MustRun(op_, XH_BACKWARD, &args);
    std::vector<Doubles> gradients;
    for (size_t i = 0; i < inputs_.size(); ++i) gradients.push_back(args[first + i].values);
    return gradients;
  }

 private:
  Op op_;
  std::vector<Arg> inputs_;
  std::vector<int64_t> shape_;
  uint32_t needs_;
  int outputs_;
  Arg out_;
};

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_GRAPH_NODE_H_
