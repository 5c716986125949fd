// No rows at all: every op runs, writes nothing outside, and the gradients of its parameters are zero.
#include <gtest/gtest.h>

#include "tests/conformance/attention_oracle.h"
#include "tests/conformance/backend_check.h"
#include "tests/conformance/coverage.h"
#include "tests/conformance/mlstm_oracle.h"

namespace xh::test {
namespace {

Arg None(std::vector<int64_t> shape, xh_dtype dtype = XH_F32) { return Of(dtype, std::move(shape), {}); }

Case CaseOf(xh_op op, std::vector<Arg> inputs, Arg output, uint32_t needs, uint32_t differentiable,
            uint32_t parameters = 0) {
  Case c;
  c.op = op;
  c.inputs = std::move(inputs);
  c.outputs = {std::move(output)};
  c.needs_inputs = needs;
  c.differentiable = differentiable;
  c.parameters = parameters;
  return c;
}

// INFER, and FORWARD and BACKWARD of all gradients.
void CheckEmpty(const Case& c) {
  SCOPED_TRACE(OpName(c.op));
  Op op(c.op);
  op.SetParams(c.params);
  std::vector<Arg> args = c.inputs;
  args.insert(args.end(), c.outputs.begin(), c.outputs.end());
  MustRun(op, XH_INFER, &args);
  if (c.differentiable == 0) return;
  for (const Arg& gradient : GradientsOf(c)) {
    EXPECT_EQ(gradient.values, Doubles(gradient.values.size(), 0.0)) << "a gradient without rows is zero";
  }
}

TEST(EmptyBatch, RowsOfDenseOps) {
  CheckEmpty(
      CaseOf(XH_OP_MATMUL, {None({0, 4}), Random(XH_F32, {3, 4}, 1), Random(XH_F32, {3}, 2)}, None({0, 3}), 3, 7, 6));
  Case norm = CaseOf(XH_OP_RMS_NORM, {None({0, 5}), Random(XH_F32, {5}, 1)}, None({0, 5}), 3, 3, 2);
  norm.Params(xh_norm_params{XH_SIZED(xh_norm_params), 1e-5f});
  CheckEmpty(norm);
  CheckEmpty(CaseOf(XH_OP_ADD, {None({0, 5}), None({0, 5})}, None({0, 5}), 0, 3));
  CheckEmpty(CaseOf(XH_OP_SWIGLU, {None({0, 5}), None({0, 5})}, None({0, 5}), 3, 3));
  CheckEmpty(CaseOf(XH_OP_EMBED, {Random(XH_F32, {7, 3}, 1), None({0}, XH_I32)}, None({0, 3}), 2, 1, 1));
  CheckEmpty(CaseOf(XH_OP_CAST, {None({0, 5})}, None({0, 5}, XH_BF16), 0, 1));
  CheckEmpty(
      CaseOf(XH_OP_ROPE, {None({0, 3, 2, 4}), Random(XH_F32, {9, 4}, 1), None({0}, XH_I32)}, None({0, 3, 2, 4}), 6, 1));
}

TEST(EmptyBatch, OpsWithoutGradients) {
  Case fill = CaseOf(XH_OP_FILL, {}, None({0, 3}), 0, 0);
  fill.Params(xh_fill_params{XH_SIZED(xh_fill_params), 1.0f});
  CheckEmpty(fill);
  Case top = CaseOf(XH_OP_TOP_K, {None({0, 8})}, None({0, 2}), 0, 0);
  top.outputs.push_back(None({0, 2}, XH_I32));
  top.Params(xh_top_k_params{XH_SIZED(xh_top_k_params), 2});
  CheckEmpty(top);
  Op reduce(XH_OP_REDUCE, xh_reduce_params{XH_SIZED(xh_reduce_params), XH_REDUCE_SUM});
  std::vector<Arg> args = {None({0, 3}), Output(XH_F32, {3})};
  MustRun(reduce, XH_INFER, &args);
  EXPECT_EQ(args[1].values, Doubles(3, 0.0));
}

TEST(EmptyBatch, HeadsOfNoSequence) {
  Case map = CaseOf(XH_OP_FEATURE_MAP, {None({0, 2, 3, 4}), Random(XH_F32, {2, 4, 5}, 1)}, None({0, 2, 3, 5}), 3, 3, 2);
  map.Params(xh_feature_map_params{XH_SIZED(xh_feature_map_params), XH_FEATURE_SOFTMAX});
  map.needs_outputs = 1;
  CheckEmpty(map);
  const std::vector<int64_t> heads = {0, 2, 3, 4};
  Case gate = CaseOf(XH_OP_HEAD_GATE,
                     {None(heads), None(heads), None(heads), Random(XH_F32, {2, 12}, 1), Random(XH_F32, {2}, 2)},
                     None({0, 2, 3}), 15, 31, 24);
  gate.needs_outputs = 1;
  CheckEmpty(gate);
  CheckEmpty(CaseOf(XH_OP_MIX, {None({0, 2, 3}), None(heads), None(heads)}, None(heads), 7, 7));
  Case mlstm = CaseOf(XH_OP_MLSTM, MlstmInputs({0, 2, 1, 5, 4, 3}, XH_F32, false), None({0, 2, 5, 3}), 0x1ff, 0x1f);
  mlstm.Params(MlstmParams({0, 2, 1, 5, 4, 3}));
  mlstm.outputs.resize(4);
  mlstm.needs_outputs = 1;
  CheckEmpty(mlstm);
  const AttentionSize size = {0, 2, 1, 5, 4, {3}, 1};
  Case attention = CaseOf(XH_OP_ATTENTION, AttentionInputs(size, XH_F32), None({0, 2, 5, 4}), 0x47, 7);
  attention.Params(size.Params());
  attention.needs_outputs = 1;
  CheckEmpty(attention);
}

TEST(EmptyBatch, LossesAreZero) {
  Op align(XH_OP_ALIGN_LOSS);
  std::vector<Arg> args = {None({0, 2, 3, 4}), None({0, 2, 3, 4}), Of(XH_F32, {1}, {1.0}), Output(XH_F32, {2})};
  MustRun(align, XH_INFER, &args);
  EXPECT_EQ(args[3].values, Doubles(2, 0.0));
  Op distill(XH_OP_DISTILL_LOSS, xh_distill_params{XH_SIZED(xh_distill_params), XH_KL_RENORMALIZED, 1.0f, 1.0f, 1.0f});
  args = {None({0, 9}), None({0}, XH_I32), None({0, 2}), None({0, 2}, XH_I32), Of(XH_F32, {1}, {1.0}), None({0, 2})};
  MustRun(distill, XH_INFER, &args);
}

}  // namespace
}  // namespace xh::test
