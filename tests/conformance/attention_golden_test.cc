// Attention against vectors made with another implementation.
#include <gtest/gtest.h>

#include "tests/conformance/attention_oracle.h"

namespace xh::test {
namespace {

class AttentionGolden : public testing::TestWithParam<const char*> {};

TEST_P(AttentionGolden, OutputsAndGradientsAgree) {
  const Vectors file(std::string("kernels/attention_") + GetParam() + ".safetensors");
  const std::vector<Arg> inputs = {file["q"], file["k"], file["v"], Absent(), Absent(), Absent(), Absent()};
  const std::vector<int64_t>&q = inputs[0].shape, &k = inputs[1].shape;
  const AttentionSize s = {q[0],
                           q[1],
                           k[1],
                           q[2],
                           q[3],
                           std::vector<int32_t>(static_cast<size_t>(k[1]), static_cast<int32_t>(file.Number("window"))),
                           static_cast<int32_t>(file.Number("sinks"))};
  EXPECT_LE(RelativeError(RunAttention(s, XH_INFER, inputs), file["o"].values), 1e-5);
  EXPECT_LE(RelativeError(RunAttention(s, XH_FORWARD, inputs), file["o"].values), 1e-5);
  const std::vector<Doubles> gradients = AttentionGradients(s, inputs, file["do"]);
  EXPECT_LE(RelativeError(gradients[0], file["dq"].values), 1e-4);
  EXPECT_LE(RelativeError(gradients[1], file["dk"].values), 1e-4);
  EXPECT_LE(RelativeError(gradients[2], file["dv"].values), 1e-4);

  std::vector<Arg> rounded = inputs;
  for (size_t i = 0; i < 3; ++i) rounded[i] = Of(XH_BF16, inputs[i].shape, inputs[i].values);
  EXPECT_LE(RelativeError(RunAttention(s, XH_FORWARD, rounded), file["o"].values), 1e-2);
}

INSTANTIATE_TEST_SUITE_P(Vectors, AttentionGolden,
                         testing::Values("full_mha", "full_gqa", "swa", "swa_sinks", "swa_sinks_short", "swa_head128",
                                         "window_one"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace xh::test
