// Ablations give what whole forwards of the same windows give, whatever they share.
#include "core/probe/ablation.h"

#include <cmath>

#include "core/model/tap.h"
#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

std::vector<Question> Questions(const std::string& teacher) {
  const std::vector<int32_t> ids = ExpectedIds(teacher, "input_ids");  // two sequences of 45
  std::vector<Question> questions;
  for (int64_t length : {45, 20, 33, 45, 7}) {
    Question question;
    const int64_t first = static_cast<int64_t>(questions.size()) % 2 * 45;
    question.ids.assign(ids.begin() + first, ids.begin() + first + length);
    question.answer = length - 3;
    question.kind = length > 30 ? 1 : 0;
    questions.push_back(question);
  }
  return questions;
}

// The same by one whole forward a question.
Scores Reference(const Model& teacher, const ModelConfig& config, const std::vector<Question>& questions) {
  Model model = teacher;
  model.config = config;
  Scores scores(2);
  for (const Question& question : questions) {
    auto values = ScoreTokens(model, question.ids.data(), static_cast<int64_t>(question.ids.size()));
    auto logits = ForwardTap(model, question.ids.data(), static_cast<int64_t>(question.ids.size()), "logits");
    EXPECT_TRUE(values.ok() && logits.ok());
    bool correct = true;
    for (size_t t = static_cast<size_t>(question.answer); t < question.ids.size(); ++t) {
      scores[question.kind].log_probability += (*values)[t - 1];
      const auto row = logits->begin() + static_cast<int64_t>(t - 1) * config.vocab_size;
      correct = correct && std::max_element(row, row + config.vocab_size) - row == question.ids[t];
    }
    scores[question.kind].correct += correct ? 1 : 0;
    ++scores[question.kind].questions;
  }
  return scores;
}

TEST(Ablation, GivesWhatWholeForwardsGive) {
  for (const char* name : {"hf_llama", "hf_olmo3"}) {
    auto teacher = LoadTeacher(name);
    const ModelConfig& config = teacher->config;
    const std::vector<Question> questions = Questions(name);
    Ablation ablation(teacher, questions, {6, 2, 64});
    Mask mixed = UniformMask(config, true);
    mixed[1] = {false, true};
    Mask alone = UniformMask(config, false);
    alone[static_cast<size_t>(config.layer_count) - 1] = {true, false};
    const std::vector<Mask> masks = {UniformMask(config, true), UniformMask(config, false), mixed, alone};
    std::vector<Scores> scores(masks.size(), Scores(2));
    EXPECT_GT(ablation.batches(), 1);
    for (int64_t batch = 0; batch < ablation.batches(); ++batch) {
      const Status run = ablation.Run(batch, masks, &scores);
      ASSERT_TRUE(run.ok()) << run;
    }
    for (size_t m = 0; m < masks.size(); ++m) {
      ModelConfig same = config;
      for (int64_t layer = 0; layer < config.layer_count; ++layer) {
        same.mixers[layer] = TeacherMixer(config, layer);
        same.mixers[layer].kind = "window";
        for (int64_t head = 0; head < config.kv_heads; ++head) {
          if (masks[m][layer][head]) continue;
          same.mixers[layer].windows[head] = 6;  // below the teacher's own 8 of layers that slide
          same.mixers[layer].sinks = 2;
        }
      }
      const Scores want = Reference(*teacher, same, questions);
      for (int kind : {0, 1}) {
        EXPECT_NEAR(scores[m][kind].log_probability, want[kind].log_probability,
                    1e-4 * std::abs(want[kind].log_probability))
            << name << " " << MaskKey(masks[m]);
        EXPECT_EQ(scores[m][kind].correct, want[kind].correct);
        EXPECT_EQ(scores[m][kind].questions, want[kind].questions);
      }
    }
  }
}

}  // namespace
}  // namespace xh::test
