// Teachers compute what Hugging Face transformers computes (expected.safetensors, float32).
#include <cmath>

#include "core/generate/session.h"
#include "core/model/tap.h"
#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

class Teacher : public ::testing::TestWithParam<const char*> {};

TEST_P(Teacher, GivesTheReferenceLogitsHiddenStatesAndMixerOutputs) {
  const std::string name = GetParam();
  auto model = LoadTeacher(name);
  const Results results = Forward(*model, ExpectedIds(name, "input_ids"), 2);
  EXPECT_LE(RelativeError(results.logits, ExpectedFloats(name, "logits")), 1e-4);
  ASSERT_EQ(static_cast<int64_t>(results.hidden.size()), model->config.layer_count + 1);
  for (size_t i = 0; i < results.hidden.size(); ++i) {
    EXPECT_LE(RelativeError(results.hidden[i], ExpectedFloats(name, absl::StrCat("hidden.", i))), 1e-4) << i;
  }
  for (size_t i = 0; i < results.mixer_out.size(); ++i) {
    EXPECT_LE(RelativeError(results.mixer_out[i], ExpectedFloats(name, absl::StrCat("mixer_out.", i))), 1e-4) << i;
  }
}

TEST_P(Teacher, ContinuesGreedilyLikeTheReference) {
  const std::string name = GetParam();
  auto model = LoadTeacher(name);
  const std::vector<int32_t> expected = ExpectedIds(name, "greedy_from_9");
  auto session = Session::Open(model);
  ASSERT_TRUE(session.ok()) << session.status();
  ASSERT_TRUE((*session)->Feed(expected.data(), 9).ok());
  std::vector<int32_t> written(expected.begin(), expected.begin() + 9);
  while (written.size() < expected.size()) {
    auto chosen = (*session)->Next();
    ASSERT_TRUE(chosen.ok()) << chosen.status();
    written.push_back(chosen->token);
  }
  EXPECT_EQ(written, expected);
}

TEST_P(Teacher, ScoresTokensByTheReferenceLogits) {
  const std::string name = GetParam();
  auto model = LoadTeacher(name);
  std::vector<int32_t> ids = ExpectedIds(name, "input_ids");
  ids.resize(45);
  const std::vector<float> logits = ExpectedFloats(name, "logits");
  auto scores = ScoreTokens(*model, ids.data(), 45);
  ASSERT_TRUE(scores.ok()) << scores.status();
  const int64_t vocab = model->config.vocab_size;
  for (int64_t t = 0; t + 1 < 45; ++t) {
    double sum = 0;
    for (int64_t id = 0; id < vocab; ++id) sum += std::exp(static_cast<double>(logits[t * vocab + id]));
    EXPECT_NEAR((*scores)[t], logits[t * vocab + ids[t + 1]] - std::log(sum), 2e-4) << t;
  }
}

TEST_P(Teacher, InBf16StaysNearTheReference) {
  const std::string name = GetParam();
  auto model = LoadTeacher(name, XH_BF16);
  std::vector<int32_t> ids = ExpectedIds(name, "input_ids");
  auto session = Session::Open(model);
  ASSERT_TRUE(session.ok()) << session.status();
  ASSERT_TRUE((*session)->Feed(ids.data(), 45).ok());
  const std::vector<float> want = RowOf(ExpectedFloats(name, "logits"), 44, model->config.vocab_size);
  // Three blocks of bf16 weights and activations, each with half a unit in the last place of 2^-8.
  EXPECT_LE(RelativeError(**(*session)->Logits(), want), 3e-2);
}

INSTANTIATE_TEST_SUITE_P(Families, Teacher,
                         ::testing::Values("hf_llama", "hf_llama3_rope_tied", "hf_qwen2", "hf_qwen3", "hf_olmo2",
                                           "hf_olmo3"));

}  // namespace
}  // namespace xh::test
