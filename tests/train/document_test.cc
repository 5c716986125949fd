// reset_at_document: rows packed from documents train as the documents alone do, and resume exactly.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "core/checkpoint/reader.h"
#include "core/train/distill_job.h"
#include "core/train/trainer.h"
#include "tests/train/tiny.h"

namespace xh {
namespace {

using nlohmann::json;
using tiny::Distil;
using tiny::TempDir;

constexpr int64_t kDocument = 16;  // tokens of a document

class DocumentTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const Status written = tiny::WriteTeacher(dir_ / "teacher.xhy");
    ASSERT_TRUE(written.ok()) << written;
  }

  struct Outcome {
    double loss = 0;
    std::vector<float> gradients;
  };

  // Loss and gradients of the first step over `tokens` of the same documents, in rows of `context`.
  Outcome FirstStep(const std::string& stage, int64_t context, bool reset) {
    Outcome outcome;
    auto runtime = tiny::OpenRuntime();
    EXPECT_TRUE(runtime.ok()) << runtime.status();
    auto teacher = Model::Load(*runtime, dir_ / "teacher.xhy", XH_F32);
    EXPECT_TRUE(teacher.ok()) << teacher.status();
    auto student = SeedStudent(**teacher, {{"window", 5}, {"sinks", 2}}, XH_F32);
    EXPECT_TRUE(student.ok()) << student.status();
    Documents documents;
    for (int32_t i = 0; i < 40 * kDocument; ++i) {
      documents.tokens.push_back((i * 7 + i / kDocument * 5) % 64);
      if (i % kDocument == kDocument - 1) documents.starts.push_back(i + 1);
    }
    auto batches = BatchStream::Open({documents}, {1}, context, 1);
    EXPECT_TRUE(batches.ok()) << batches.status();
    json options = {{"steps", 5}};
    if (stage == "distill") options["top_k"] = 16;
    auto recipe = ReadStage(stage, *(*runtime)->registry().FindStage(stage), options, "test");
    EXPECT_TRUE(recipe.ok()) << recipe.status();
    const int64_t rows = 8 * kDocument / context;
    auto trainer = StageTrainer::Create(**teacher, &*student, *recipe, {rows, rows, context, reset}, XH_F32);
    EXPECT_TRUE(trainer.ok()) << trainer.status();
    auto metrics = (*trainer)->Step(*batches);
    EXPECT_TRUE(metrics.ok()) << metrics.status();
    outcome.loss = metrics->loss;
    for (const auto& [name, weight] : student->weights) {
      const float* gradient = (*trainer)->optimizer().GradientOf(name);
      const int64_t count = weight.buffer->bytes() / static_cast<int64_t>(sizeof(float));
      if (gradient != nullptr) outcome.gradients.insert(outcome.gradients.end(), gradient, gradient + count);
    }
    return outcome;
  }

  json Recipe(const std::string& output, bool reset) const {
    json recipe = tiny::RecipeIn(dir_, output);
    recipe["reset_at_document"] = reset;
    return recipe;
  }

  TempDir dir_;
};

double Difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double error = 0, power = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    error += std::pow(a[i] - b[i], 2);
    power += std::pow(b[i], 2);
  }
  EXPECT_GT(power, 0);
  return std::sqrt(error / power);
}

TEST_F(DocumentTest, PackedDocumentsTrainAsTheyDoAlone) {
  for (const std::string stage : {"align", "distill"}) {
    const Outcome alone = FirstStep(stage, kDocument, false);
    for (int64_t context : {2 * kDocument, 8 * kDocument}) {
      const Outcome packed = FirstStep(stage, context, true), run_on = FirstStep(stage, context, false);
      EXPECT_NEAR(packed.loss, alone.loss, 1e-5 * alone.loss) << stage << " in rows of " << context;
      EXPECT_LT(Difference(packed.gradients, alone.gradients), 1e-4) << stage << " in rows of " << context;
      EXPECT_GT(std::abs(run_on.loss - alone.loss), 1e-3 * alone.loss) << stage << " in rows of " << context;
      EXPECT_GT(Difference(run_on.gradients, alone.gradients), 1e-2) << stage << " in rows of " << context;
    }
  }
}

TEST_F(DocumentTest, ARunIsRecordedDiffersFromOneThatRunsOnAndResumesExactly) {
  tiny::WriteRows(dir_ / "data.jsonl", 100, 5);
  ASSERT_TRUE(Distil(Recipe("reset", true)).ok());
  ASSERT_TRUE(Distil(Recipe("run_on", false)).ok());
  const auto reset = tiny::ReadTree(dir_ / "reset/student.xhy");
  EXPECT_FALSE(tiny::ReadTree(dir_ / "run_on/student.xhy") == reset);
  auto reader = CheckpointReader::Open(dir_ / "reset/student.xhy");
  ASSERT_TRUE(reader.ok()) << reader.status();
  for (const json& entry : json::parse((*reader)->metadata().at("history"))) {
    EXPECT_EQ(entry["reset_at_document"], true);
  }
  for (int pieces : {3, 9}) {
    std::filesystem::remove_all(dir_ / "out");
    {
      auto runtime = tiny::OpenRuntime();
      ASSERT_TRUE(runtime.ok());
      auto job = OpenDistillJob(*runtime, Recipe("out", true));
      ASSERT_TRUE(job.ok()) << job.status();
      json event;
      for (int i = 0; i < pieces; ++i) ASSERT_TRUE((*job)->Next(&event).ok());
      (*job)->Cancel();
      EXPECT_EQ(CodeOf((*job)->Next(&event).status()), XH_CANCELLED);
    }
    const Status other = Distil(Recipe("out", false));
    EXPECT_NE(other.message().find("\"reset_at_document\" is false, was true"), std::string::npos) << other;
    ASSERT_TRUE(Distil(Recipe("out", true)).ok());
    EXPECT_TRUE(tiny::ReadTree(dir_ / "out/student.xhy") == reset) << "the student differs after " << pieces;
  }
}

}  // namespace
}  // namespace xh
