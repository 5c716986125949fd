// Training one stage on a tiny model: losses fall, what is frozen stays, gradients add up, masters and clipping hold.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/checkpoint/dtype.h"
#include "core/train/batches.h"
#include "core/train/optimizer.h"
#include "core/train/report.h"
#include "core/train/trainer.h"
#include "tests/train/tiny.h"

namespace xh {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using tiny::TempDir;

std::vector<char> Bytes(const Weight& weight) {  // the CPU backend's memory is the host's
  const char* data = static_cast<const char*>(weight.buffer->data());
  return std::vector<char>(data, data + *TensorBytes(weight.dtype, weight.shape));
}

class StageTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir();
    auto runtime = tiny::OpenRuntime();
    ASSERT_TRUE(runtime.ok()) << runtime.status();
    runtime_ = new std::shared_ptr<Runtime>(*runtime);
    const Status written = tiny::WriteTeacher(*dir_ / "teacher.xhy");
    ASSERT_TRUE(written.ok()) << written;
    tiny::WriteRows(*dir_ / "data.jsonl", 300, 11);
  }
  static void TearDownTestSuite() {
    delete runtime_;
    delete dir_;
  }

  // A trainer of the stage with these options over the defaults.
  void Open(const std::string& name, const json& options, xh_dtype dtype = XH_F32, int64_t micro_rows = 4,
            const json& student = {{"window", 8}}) {
    trainer_.reset();
    auto teacher = Model::Load(*runtime_, *dir_ / "teacher.xhy", dtype);
    ASSERT_TRUE(teacher.ok()) << teacher.status();
    teacher_ = *teacher;
    auto seeded = SeedStudent(*teacher_, student, dtype);
    ASSERT_TRUE(seeded.ok()) << seeded.status();
    student_ = *std::move(seeded);
    const Status made = Make(name, options, dtype, micro_rows);
    ASSERT_TRUE(made.ok()) << made;
    DocumentOptions document_options;
    document_options.config = &teacher_->config;
    auto documents = ReadDocuments({*dir_ / "data.jsonl", 1, "ids"}, document_options);
    ASSERT_TRUE(documents.ok()) << documents.status();
    batches_ = std::make_unique<BatchStream>(*BatchStream::Open({*documents}, {1}, 32, 1));
  }

  Status Make(const std::string& name, const json& options, xh_dtype dtype, int64_t micro_rows) {
    XH_ASSIGN_OR_RETURN(const xh_stage_table* table, (*runtime_)->registry().FindStage(name));
    XH_ASSIGN_OR_RETURN(const StageRecipe recipe, ReadStage(name, table, options, "test"));
    XH_ASSIGN_OR_RETURN(
        trainer_, StageTrainer::Create(*teacher_, &student_, recipe, {4, micro_rows, 32, false, checkpoint_}, dtype));
    return absl::OkStatus();
  }

  StepMetrics Step() {
    auto metrics = trainer_->Step(*batches_);
    EXPECT_TRUE(metrics.ok()) << metrics.status();
    return metrics.ok() ? *metrics : StepMetrics();
  }

  std::vector<float> Gradients() {
    std::vector<float> all;
    for (const auto& [name, weight] : student_.weights) {
      const float* gradient = trainer_->optimizer().GradientOf(name);
      int64_t count = 1;
      for (int64_t extent : weight.shape) count *= extent;
      if (gradient != nullptr) all.insert(all.end(), gradient, gradient + count);
    }
    return all;
  }

  static TempDir* dir_;
  static std::shared_ptr<Runtime>* runtime_;
  std::shared_ptr<Model> teacher_;
  Student student_;
  bool checkpoint_ = false;  // "checkpoint_blocks" of trainers to come
  std::unique_ptr<StageTrainer> trainer_;
  std::unique_ptr<BatchStream> batches_;
};
TempDir* StageTest::dir_ = nullptr;
std::shared_ptr<Runtime>* StageTest::runtime_ = nullptr;

json Align(int64_t steps = 40) { return {{"steps", steps}, {"warmup", 5}}; }
json Distill(int64_t steps = 40) { return {{"steps", steps}, {"warmup", 5}, {"learning_rate", 3e-3}, {"top_k", 16}}; }

double RelativeLoss(const StepMetrics& metrics) { return MetricsToJson(metrics)["relative_loss"].get<double>(); }

TEST_F(StageTest, AlignmentBringsTheMixersCloserToTheTeachers) {
  Open("align", Align());
  const double first = RelativeLoss(Step());
  double last = 0;
  for (int i = 0; i < 30; ++i) last = RelativeLoss(Step());
  EXPECT_GT(first, 0);
  EXPECT_LT(last, 0.8 * first);
}

TEST_F(StageTest, AlignmentMovesTheNewParametersAlone) {
  Open("align", Align());
  std::map<std::string, std::vector<char>> before;
  for (const auto& [name, weight] : student_.weights) before[name] = Bytes(weight);
  for (int i = 0; i < 3; ++i) Step();
  for (const auto& [name, weight] : student_.weights) {
    if (name.find(".xlstm.") != std::string::npos) {
      EXPECT_NE(Bytes(weight), before[name]) << name;
      continue;
    }
    EXPECT_EQ(Bytes(weight), before[name]) << name;
    EXPECT_EQ(weight.buffer, teacher_->weights.at(name).buffer) << name << " has memory of its own";
  }
}

TEST_F(StageTest, DistillationLowersTheLossAndLeavesTheTeacherAlone) {
  Open("distill", Distill());
  std::map<std::string, std::vector<char>> before;
  for (const auto& [name, weight] : teacher_->weights) before[name] = Bytes(weight);
  const double first = Step().loss;
  double last = 0;
  for (int i = 0; i < 30; ++i) last = Step().loss;
  EXPECT_LT(last, 0.85 * first);
  for (const auto& [name, weight] : teacher_->weights) EXPECT_EQ(Bytes(weight), before[name]) << name;
  for (const auto& [name, weight] : student_.weights) {
    EXPECT_TRUE(before.count(name) == 0 || Bytes(weight) != before[name]) << name << " did not train";
  }
}

TEST_F(StageTest, DistillationOfTheMixersAloneKeepsTheRest) {
  json options = Distill();
  options["train"] = "mixers";
  Open("distill", options);
  for (int i = 0; i < 2; ++i) Step();
  for (const auto& [name, weight] : student_.weights) {
    const bool shared = teacher_->weights.count(name) > 0 && teacher_->weights.at(name).buffer == weight.buffer;
    EXPECT_EQ(shared, name.find(".xlstm.") == std::string::npos) << name;
  }
}

TEST_F(StageTest, AStudentWhoseEveryMixerIsAttentionStartsWithoutDivergence) {
  for (const char* kl : {"renormalized", "full_student", "tail_bucket"}) {
    json options = Distill();
    options["kl"] = kl;
    // Over the full vocabulary the student pays for what lies beyond the top k; with k = vocabulary nothing does.
    options["top_k"] = std::strcmp(kl, "full_student") == 0 ? 64 : 16;
    Open("distill", options, XH_F32, 4, {{"kind", "attention"}});
    const json metrics = MetricsToJson(Step());
    EXPECT_NEAR(metrics["kl"].get<double>(), 0, 1e-5) << kl;
    EXPECT_GT(metrics["cross_entropy"].get<double>(), 1) << kl;
    EXPECT_GT(MetricsToJson(Step())["kl"].get<double>(), 1e-6) << kl;
  }
}

TEST_F(StageTest, MicroBatchesAddUpToTheWholeBatch) {
  for (const char* stage : {"align", "distill"}) {
    const json options = std::strcmp(stage, "align") == 0 ? Align() : Distill();
    Open(stage, options, XH_F32, 4);
    const StepMetrics whole = Step();
    const std::vector<float> expected = Gradients();
    for (int64_t rows : {1, 2}) {
      Open(stage, options, XH_F32, rows);
      const StepMetrics parts = Step();
      const std::vector<float> gradients = Gradients();
      ASSERT_EQ(gradients.size(), expected.size());
      double error = 0, power = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        error += std::pow(gradients[i] - expected[i], 2);
        power += std::pow(expected[i], 2);
      }
      EXPECT_GT(power, 0);
      EXPECT_LT(std::sqrt(error / power), 1e-6) << stage << " in micro-batches of " << rows;
      EXPECT_NEAR(parts.loss, whole.loss, 1e-6 * std::abs(whole.loss));
    }
  }
}

TEST_F(StageTest, ClippingScalesTheGradientToTheLimit) {
  json options = Distill();
  options["clip"] = 0.01;
  Open("distill", options);
  const StepMetrics metrics = Step();
  EXPECT_GT(metrics.gradient_norm, 0.01);
  // After one step from zero the first moment is (1 - beta1) times the clipped gradient.
  double squares = 0;
  for (const OptimizerTensor& tensor : trainer_->optimizer().Tensors()) {
    if (tensor.name.find("optimizer/first/") != 0) continue;
    int64_t count = 1;
    for (int64_t extent : tensor.shape) count *= extent;
    for (int64_t i = 0; i < count; ++i) squares += std::pow(tensor.data[i] / 0.1, 2);
  }
  EXPECT_NEAR(std::sqrt(squares), 0.01, 1e-6);
}

TEST_F(StageTest, Bf16ParametersFollowTheirMasters) {
  Open("distill", Distill(), XH_BF16);
  const double first = Step().loss;
  double last = 0;
  for (int i = 0; i < 25; ++i) last = Step().loss;
  EXPECT_LT(last, 0.9 * first);
  int64_t masters = 0;
  for (const OptimizerTensor& tensor : trainer_->optimizer().Tensors()) {
    if (tensor.name.find("optimizer/master/") != 0) continue;
    ++masters;
    const Weight& weight = student_.weights.at(tensor.name.substr(std::strlen("optimizer/master/")));
    ASSERT_EQ(weight.dtype, XH_BF16);
    std::vector<char> rounded(Bytes(weight).size());
    FromF32(tensor.data, static_cast<int64_t>(rounded.size() / 2), XH_BF16, rounded.data());
    EXPECT_EQ(rounded, Bytes(weight)) << tensor.name;
  }
  EXPECT_EQ(masters, static_cast<int64_t>(student_.weights.size()));
}

TEST_F(StageTest, StepsWithoutAFiniteLossChangeNothingAndFiveInARowStopTheRun) {
  Open("distill", Distill());
  Step();
  const std::string poisoned = "model.layers.0.self_attn.xlstm.input_gate.bias";
  static_cast<float*>(student_.weights.at(poisoned).buffer->data())[0] = std::numeric_limits<float>::quiet_NaN();
  std::map<std::string, std::vector<char>> before;
  for (const auto& [name, weight] : student_.weights) before[name] = Bytes(weight);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(Step().skipped);
  EXPECT_EQ(trainer_->skipped(), 4);
  auto fifth = trainer_->Step(*batches_);
  EXPECT_EQ(CodeOf(fifth.status()), XH_INVALID_STATE);
  EXPECT_THAT(std::string(fifth.status().message()), HasSubstr("stage.distill: step 6 is the 5th in a row"));
  for (const auto& [name, weight] : student_.weights) EXPECT_EQ(Bytes(weight), before[name]) << name;
  EXPECT_EQ(trainer_->optimizer().updates(), 1);
}

TEST_F(StageTest, AStageThatTrainsNothingIsRefused) {
  Open("align", Align());
  auto attention = SeedStudent(*teacher_, {{"kind", "attention"}}, XH_F32);
  ASSERT_TRUE(attention.ok());
  student_ = *attention;
  EXPECT_THAT(std::string(Make("align", Align(), XH_F32, 4).message()),
              HasSubstr("no parameter of the student trains"));
}

TEST_F(StageTest, ATopKBeyondTheVocabularyIsRefused) {
  Open("align", Align());
  json options = Distill();
  options["top_k"] = 65;
  EXPECT_THAT(std::string(Make("distill", options, XH_F32, 4).message()),
              HasSubstr("\"top_k\" is 65; allowed: 1 to 64"));
}

TEST_F(StageTest, KeptAttentionLayersAreLeftOutOfTheAlignment) {
  Open("align", Align(), XH_F32, 4, {{"window", 8}, {"layers", {{{"layer", 0}, {"kind", "attention"}}}}});
  const StepMetrics metrics = Step();
  ASSERT_EQ(metrics.sums.layers.size(), 1u);
  EXPECT_EQ(metrics.sums.layers[0].layer, 1);
}

TEST_F(StageTest, CheckpointedBlocksGiveTheSameBitsInLessMemory) {
  const json students[] = {{{"window", 8}}, {{"window", 8}, {"layers", {{{"layer", 0}, {"kind", "attention"}}}}}};
  for (const json& student : students) {
    for (const xh_dtype dtype : {XH_F32, XH_BF16}) {
      std::vector<double> losses[2], norms[2];
      std::map<std::string, std::vector<char>> weights[2];
      int64_t bytes[2];
      for (const bool on : {false, true}) {
        checkpoint_ = on;
        Open("distill", Distill(), dtype, 2, student);
        bytes[on] = trainer_->program().memory_bytes();
        for (int i = 0; i < 4; ++i) {
          const StepMetrics metrics = Step();
          losses[on].push_back(metrics.loss);
          norms[on].push_back(metrics.gradient_norm);
        }
        for (const auto& [name, weight] : student_.weights) weights[on][name] = Bytes(weight);
      }
      EXPECT_EQ(losses[0], losses[1]);
      EXPECT_EQ(norms[0], norms[1]);
      EXPECT_EQ(weights[0], weights[1]);
      EXPECT_LT(bytes[1], 0.8 * static_cast<double>(bytes[0]));
    }
  }
}

TEST_F(StageTest, WeightDecayActsOnMatricesAlone) {
  Open("align", Align());
  std::shared_ptr<Device> device = teacher_->device;
  std::map<std::string, Weight> trained;
  for (const Shape& shape : {Shape{5}, Shape{3, 4}}) {
    auto buffer = device->Allocate(12 * sizeof(float));
    ASSERT_TRUE(buffer.ok());
    std::fill_n(static_cast<float*>(buffer->data()), 12, 2.0f);
    trained[absl::StrCat("rank", shape.size())] = {XH_F32, shape, std::make_shared<Buffer>(*std::move(buffer))};
  }
  AdamWOptions options;
  options.weight_decay = 0.5;
  auto optimizer = Optimizer::Create(device, trained, options);
  ASSERT_TRUE(optimizer.ok()) << optimizer.status();
  ASSERT_TRUE((*optimizer)->Compile().ok());
  ASSERT_TRUE((*optimizer)->Update(0.1).ok());
  ASSERT_TRUE((*optimizer)->Finish().ok());
  EXPECT_FLOAT_EQ(static_cast<float*>(trained["rank1"].buffer->data())[0], 2.0f);
  EXPECT_FLOAT_EQ(static_cast<float*>(trained["rank2"].buffer->data())[0], 2.0f * (1 - 0.1f * 0.5f));
  EXPECT_EQ((*optimizer)->parameter_count(), 17);
  (*optimizer)->GradientOf("rank1")[4] = 3;
  (*optimizer)->GradientOf("rank2")[11] = 4;
  ASSERT_TRUE((*optimizer)->Update(0).ok());
  EXPECT_DOUBLE_EQ((*optimizer)->Finish()->gradient_norm, 5);
  ASSERT_TRUE((*optimizer)->ZeroGradients().ok());
  ASSERT_TRUE((*optimizer)->Update(0).ok());
  EXPECT_DOUBLE_EQ((*optimizer)->Finish()->gradient_norm, 0);
  EXPECT_EQ((*optimizer)->updates(), 3);
}

// A gradient or a watched sum that is not finite: nothing changes, and the step does not count.
TEST_F(StageTest, AnUpdateIsSkippedByTheDevice) {
  Open("align", Align());
  std::shared_ptr<Device> device = teacher_->device;
  std::map<std::string, Weight> trained;
  auto weight = device->Allocate(12 * sizeof(float)), watched = device->Allocate(2 * sizeof(float));
  ASSERT_TRUE(weight.ok() && watched.ok());
  float* const values = static_cast<float*>(weight->data());
  float* const sums = static_cast<float*>(watched->data());
  std::fill_n(values, 12, 2.0f);
  sums[0] = sums[1] = 1.0f;
  trained["w"] = {XH_F32, {3, 4}, std::make_shared<Buffer>(*std::move(weight))};
  auto optimizer = Optimizer::Create(device, trained, AdamWOptions(), 1.0);
  ASSERT_TRUE(optimizer.ok()) << optimizer.status();
  ASSERT_TRUE((*optimizer)->Compile(sums, 2).ok());
  float* const gradient = (*optimizer)->GradientOf("w");
  gradient[3] = 1;
  const auto update = [&] {
    EXPECT_TRUE((*optimizer)->Update(0.1).ok());
    return *(*optimizer)->Finish();
  };
  gradient[5] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(update().skipped);
  gradient[5] = 0;
  sums[1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(update().skipped);
  EXPECT_EQ(std::vector<float>(values, values + 12), std::vector<float>(12, 2.0f));
  for (const OptimizerTensor& tensor : (*optimizer)->Tensors()) {
    EXPECT_EQ(std::vector<float>(tensor.data, tensor.data + 12), std::vector<float>(12, 0.0f)) << tensor.name;
  }
  EXPECT_EQ((*optimizer)->updates(), 0);
  sums[1] = 1;
  EXPECT_FALSE(update().skipped);
  EXPECT_EQ((*optimizer)->updates(), 1);
  EXPECT_LT(values[3], 2.0f);
}

}  // namespace
}  // namespace xh
