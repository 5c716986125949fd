// The mLSTM against vectors made with another implementation.
#include <gtest/gtest.h>

#include "tests/conformance/mlstm_oracle.h"

namespace xh::test {
namespace {

struct Golden {
  const char* name;
  double gradient_tolerance = 1e-4;  // relative
  bool zero_gradients = false;       // dq, dk, di, df are zero to rounding: absolute
  bool zero_df = false;
};

class MlstmGolden : public testing::TestWithParam<Golden> {
 protected:
  void SetUp() override {
    const Vectors file(std::string("kernels/mlstm_") + GetParam().name + ".safetensors");
    const bool state = std::string(GetParam().name) == "carried_state";
    for (const char* name : {"q", "k", "v", "i", "f"}) inputs_.push_back(file[name]);
    for (const char* name : {"S0", "z0", "m0"}) inputs_.push_back(state ? file[name] : Absent());
    inputs_.push_back(Absent());  // start
    for (const char* name : {"h", "S", "z", "m"}) outputs_.push_back(file[name].values);
    for (const char* name : {"dq", "dk", "dv", "di", "df"}) gradients_.push_back(file[name].values);
    dh_ = file["dh"];
    const std::vector<int64_t>&q = inputs_[0].shape, &v = inputs_[2].shape;
    size_ = {q[0], q[1], v[1], q[2], q[3], v[3]};
  }

  MlstmSize size_;
  std::vector<Arg> inputs_;
  std::vector<Doubles> outputs_, gradients_;
  Arg dh_;
};

double Largest(const Doubles& values) {
  double largest = 0.0;
  for (double x : values) largest = std::max(largest, std::fabs(x));
  return largest;
}

TEST_P(MlstmGolden, OutputsAndStatesAgree) {
  for (xh_pass pass : {XH_INFER, XH_FORWARD}) {
    const std::vector<Doubles> out = RunMlstm(size_, pass, inputs_);
    for (size_t i = 0; i < 4; ++i) EXPECT_LE(RelativeError(out[i], outputs_[i]), 1e-5) << "output " << i;
  }
}

TEST_P(MlstmGolden, GradientsAgreeForEveryChunkSize) {
  for (int32_t chunk : {0, 16, 32, 64, 100}) {
    const std::vector<Doubles> out = MlstmGradients(size_, inputs_, dh_, chunk);
    for (size_t i = 0; i < 5; ++i) {
      if ((GetParam().zero_gradients && i != 2) || (GetParam().zero_df && i == 4)) {
        EXPECT_LE(Largest(out[i]), 1e-6) << "gradient " << i << " chunk " << chunk;
        EXPECT_LE(Largest(gradients_[i]), 1e-6) << "gradient " << i;
      } else {
        EXPECT_LE(RelativeError(out[i], gradients_[i]), GetParam().gradient_tolerance)
            << "gradient " << i << " chunk " << chunk;
      }
    }
  }
}

TEST_P(MlstmGolden, BfloatInputsStayClose) {
  std::vector<Arg> inputs = inputs_;
  for (size_t i = 0; i < 3; ++i) inputs[i] = Of(XH_BF16, inputs[i].shape, inputs[i].values);
  const std::vector<Doubles> out = RunMlstm(size_, XH_FORWARD, inputs);
  EXPECT_LE(RelativeError(out[0], outputs_[0]), 1e-2);
}

INSTANTIATE_TEST_SUITE_P(Vectors, MlstmGolden,
                         testing::Values(Golden{"tiny"}, Golden{"ragged"}, Golden{"long"}, Golden{"head128"},
                                         Golden{"carried_state"}, Golden{"extreme_gates", 1e-3},
                                         Golden{"forget_all", 1e-4, true}, Golden{"keep_all", 1e-4, false, true}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace xh::test
