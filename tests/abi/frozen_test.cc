// A plugin built with the frozen headers of 1.0 does its work in the library of today.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/merge/merge_job.h"
#include "core/text/tokenizer.h"
#include "core/train/distill_job.h"
#include "tests/train/tiny.h"

namespace xh {
namespace {

using nlohmann::json;

const std::shared_ptr<Runtime>& RuntimeWithOldPlugin() {
  static const auto runtime =
      Runtime::Open({std::string(XH_FROZEN_PLUGIN) + ":" + XH_TEST_PLUGINS, "cpu", 1, nullptr}).value();
  return runtime;
}

class FrozenPlugin : public testing::Test {
 protected:
  void SetUp() override {
    const Status written = tiny::WriteTeacher(dir_ / "teacher.xhy");
    ASSERT_TRUE(written.ok()) << written;
  }

  tiny::TempDir dir_;
};

TEST_F(FrozenPlugin, Merges) {
  const json recipe = {{"models", {dir_ / "teacher.xhy", dir_ / "teacher.xhy"}},
                       {"method", "frozen_mean"},
                       {"output", dir_ / "merged.xhy"}};
  auto job = OpenMergeJob(RuntimeWithOldPlugin(), recipe);
  ASSERT_TRUE(job.ok()) << job.status();
  const Status merged = tiny::Drain(**job, nullptr);
  ASSERT_TRUE(merged.ok()) << merged;
  const auto before = Model::Load(RuntimeWithOldPlugin(), dir_ / "teacher.xhy").value();
  const auto after = Model::Load(RuntimeWithOldPlugin(), dir_ / "merged.xhy").value();
  for (const auto& [name, weight] : before->weights) {
    EXPECT_EQ(std::memcmp(weight.buffer->data(), after->weights.at(name).buffer->data(), weight.buffer->bytes()), 0)
        << name << ": the mean of a tensor with itself is that tensor";
  }
}

TEST_F(FrozenPlugin, Trains) {
  tiny::WriteRows(dir_ / "data.jsonl", 100, 5);
  json recipe = tiny::RecipeIn(dir_, "out");
  std::vector<std::vector<double>> losses;
  for (const char* stage : {"align", "frozen_align"}) {
    recipe["output"] = dir_ / stage;
    recipe["stages"] = {{{"stage", stage},
                         {"steps", 4},
                         {"learning_rate", 0.01},
                         {"warmup", 2},
                         {"clip", 0.0},
                         {"schedule", "constant"},
                         {"weight_decay", 0.1},
                         {"beta1", 0.9},
                         {"beta2", 0.95}}};
    auto job = OpenDistillJob(RuntimeWithOldPlugin(), recipe);
    ASSERT_TRUE(job.ok()) << job.status();
    std::vector<json> events;
    const Status trained = tiny::Drain(**job, &events);
    ASSERT_TRUE(trained.ok()) << trained;
    losses.emplace_back();
    for (const json& event : events) {
      if (event["kind"] == "step") losses.back().push_back(event["loss"].get<double>());
    }
  }
  ASSERT_EQ(losses[0].size(), 4u);
  EXPECT_EQ(losses[0], losses[1]) << "the old stage declares what align declares";
}

TEST_F(FrozenPlugin, ReadsText) {
  const auto tokenizer = Tokenizer::Open(RuntimeWithOldPlugin()->registry(), {{"frozen.bytes", "x"}});
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 256);
  const std::vector<int32_t> ids = (*tokenizer)->Encode("abc", false).value();
  EXPECT_EQ(ids, (std::vector<int32_t>{'a', 'b', 'c'}));
  EXPECT_EQ((*tokenizer)->Decode(ids).value(), "abc");
}

}  // namespace
}  // namespace xh
