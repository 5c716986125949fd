#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/bench/bench_job.h"
#include "core/bench/ceilings.h"
#include "core/bench/made_up_model.h"
#include "core/bench/work.h"
#include "core/generate/session.h"

namespace xh {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// H 2, KV 1, d 8, D 16, F 32, V 100, one layer.
ModelConfig Small() {
  ModelConfig config;
  config.vocab_size = 100;
  config.hidden_size = 16;
  config.layer_count = 1;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 8;
  config.intermediate_size = 32;
  MixerConfig attention;
  attention.windows = {0};
  config.mixers = {attention};
  return config;
}

ModelConfig SmallHybrid(const std::string& feature_map) {
  ModelConfig config = Small();
  config.mixers[0].kind = "hybrid";
  config.mixers[0].feature_map = feature_map;
  config.mixers[0].features = 8;
  config.mixers[0].windows = {1};
  config.mixers[0].sinks = 1;
  return config;
}

TEST(BenchWork, AttentionIsCountedByTheKeysSeen) {
  const ForwardWork work = CountForward(Small(), 4);
  EXPECT_DOUBLE_EQ(work.projections, 2 * (256 + 128 + 128 + 256) + 2 * 3 * 16 * 32);  // q, k, v, o; MLP
  EXPECT_DOUBLE_EQ(work.head, 2 * 100 * 16);
  EXPECT_DOUBLE_EQ(work.attention, 2 * (2 * 2 * 8 * 2.5));  // q k^T and p v over (1 + 2 + 3 + 4) / 4 keys
  EXPECT_EQ(work.maps, 0);
  EXPECT_EQ(work.recurrence, 0);
}

TEST(BenchWork, AHybridAddsMapsRecurrenceAndGates) {
  const ForwardWork work = CountForward(SmallHybrid("softmax"), 4);
  EXPECT_DOUBLE_EQ(work.projections, 4608 + 2 * 2 * 2 * 16 + 2 * 3 * 2 * 8);  // input and forget gates; output gate
  EXPECT_DOUBLE_EQ(work.attention, 2 * (2 * 2 * 8 * 1.75));                   // (1 + 2 + 2 + 2) / 4 keys
  EXPECT_DOUBLE_EQ(work.maps, 2 * (2 * 2 * 8 * 8));
  EXPECT_DOUBLE_EQ(work.recurrence, 2 * (2 * 2 * 8 * 8));
  const ForwardWork hedgehog = CountForward(SmallHybrid("hedgehog"), 4);
  EXPECT_DOUBLE_EQ(hedgehog.maps, work.maps);
  EXPECT_DOUBLE_EQ(hedgehog.recurrence, 2 * work.recurrence);
}

TEST(BenchWork, StagesAreSumsOfForwardsAndBackwards) {
  // Teacher without W_o, MLP and head, its attention; window; maps twice, recurrence three times, gates twice.
  EXPECT_DOUBLE_EQ(AlignFlops(Small(), SmallHybrid("softmax"), 4), 1024 + 160 + 112 + 2 * 512 + 3 * 512 + 2 * 224);
  // Teacher once, student three times.
  EXPECT_DOUBLE_EQ(DistillFlops(Small(), SmallHybrid("softmax"), 4),
                   (4608 + 3200 + 160) + 3 * (4832 + 3200 + 512 + 512 + 112));
}

TEST(BenchCeilings, TheMedianLeavesTheWarmUpOut) {
  int runs = 0;
  const StatusOr<double> seconds = MedianSeconds(3, [&]() -> Status {
    ++runs;
    return absl::OkStatus();
  });
  ASSERT_TRUE(seconds.ok());
  EXPECT_EQ(runs, 4);
  EXPECT_GE(*seconds, 0);
}

TEST(BenchCeilings, AFailingRunEndsTheMeasurement) {
  EXPECT_EQ(CodeOf(MedianSeconds(3, [] { return Internal("no"); }).status()), XH_INTERNAL);
}

TEST(BenchJob, MakesUpTheWeightsOfAConfigThatHasNone) {
  const auto runtime = Runtime::Open({XH_TEST_PLUGINS, "cpu", 1, nullptr}).value();
  const StatusOr<std::shared_ptr<Model>> model =
      MakeUpModel(runtime, std::string(XH_TEST_DATA) + "/teachers/hf_llama", XH_BF16);
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<ParameterSpec> parameters = ParametersOf((*model)->config);
  ASSERT_EQ((*model)->weights.size(), parameters.size());
  for (const ParameterSpec& spec : parameters)
    EXPECT_EQ((*model)->weights.at(spec.name).shape, spec.shape) << spec.name;
  StatusOr<std::unique_ptr<Session>> session = Session::Open(*model, 8);
  ASSERT_TRUE(session.ok()) << session.status();
  const std::vector<int32_t> ids = MakeUpTokens(8, (*model)->config.vocab_size);
  EXPECT_TRUE((*session)->Feed(ids.data(), 8).ok());  // refuses logits that are not finite
}

TEST(BenchJob, MeasuresThePartsAskedForAlone) {
  const auto runtime = Runtime::Open({XH_TEST_PLUGINS, "cpu", 1, nullptr}).value();
  const std::string teacher = std::string(XH_TEST_DATA) + "/teachers/hf_llama";
  auto job = OpenBenchJob(runtime, {{"model", teacher},
                                    {"student", {{"window", 8}}},
                                    {"dtype", "bf16"},
                                    {"parts", {"decode", "prefill"}},
                                    {"prefill_tokens", 16},
                                    {"decode_after", 4},
                                    {"decode_tokens", 4},
                                    {"repeats", 1}})
                 .value();
  json event;
  while (!job->Next(&event).value()) {
  }
  const json result = job->Result();
  ASSERT_EQ(result["rows"].size(), 2);
  EXPECT_EQ(result["rows"][0]["name"], "decode, batch 1");
  EXPECT_EQ(result["rows"][1]["name"], "prefill, batch 1");
  const auto refused = OpenBenchJob(runtime, {{"model", teacher}, {"parts", {"prefil"}}});
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("\"prefil\"; allowed: align"));
}

TEST(BenchJob, DecodesSeveralSequencesTogether) {
  const auto runtime = Runtime::Open({XH_TEST_PLUGINS, "cpu", 1, nullptr}).value();
  auto job = OpenBenchJob(runtime, {{"model", std::string(XH_TEST_DATA) + "/teachers/hf_llama"},
                                    {"student", {{"window", 8}}},
                                    {"parts", {"decode"}},
                                    {"decode_batch", 3},
                                    {"decode_tokens", 4},
                                    {"repeats", 1}})
                 .value();
  json event;
  while (!job->Next(&event).value()) {
  }
  const json row = job->Result()["rows"][0];
  EXPECT_EQ(row["name"], "decode, batch 3");
  EXPECT_NEAR(row["tokens_per_second"].get<double>() * row["ms_per_step"].get<double>(), 3000, 1e-6);
}

TEST(BenchJob, MeasuresTrainingPrefillAndDecodingAgainstCeilings) {
  const auto runtime = Runtime::Open({XH_TEST_PLUGINS, "cpu", 1, nullptr}).value();
  StatusOr<std::unique_ptr<Job>> job =
      OpenBenchJob(runtime, {{"model", std::string(XH_TEST_DATA) + "/teachers/hf_llama"},
                             {"student", {{"window", 8}, {"sinks", 2}}},
                             {"context", 16},
                             {"micro_batch", 2},
                             {"decode_tokens", 8},
                             {"repeats", 1}});
  ASSERT_TRUE(job.ok()) << job.status();
  for (bool finished = false; !finished;) {
    json event;
    StatusOr<bool> next = (*job)->Next(&event);
    ASSERT_TRUE(next.ok()) << next.status();
    finished = *next;
  }
  const json result = (*job)->Result();
  EXPECT_GT(result["product_gflops"].get<double>(), 0);
  EXPECT_GT(result["copy_gb_per_second"].get<double>(), 0);
  std::vector<std::string> names;
  for (const json& row : result["rows"]) {
    names.push_back(row["name"]);
    EXPECT_GT(row["tokens_per_second"].get<double>(), 0);
    EXPECT_GT(row["share"].get<double>(), 0);
    if (!row.contains("flops_per_token")) continue;
    double share = 0;
    for (const json& op : row["ops"]) share += op["share"].get<double>();
    EXPECT_GT(share, 0) << "the time is told by op";
  }
  EXPECT_THAT(names,
              testing::ElementsAre("stage I (align)", "stage II (distill)", "prefill, batch 1", "decode, batch 1"));
}

TEST(BenchJob, AMissingModelAndBadNumbersAreNamed) {
  const auto runtime = Runtime::Open({XH_TEST_PLUGINS, "cpu", 1, nullptr}).value();
  EXPECT_THAT(std::string(OpenBenchJob(runtime, json::object()).status().message()), HasSubstr("\"model\" is missing"));
  EXPECT_THAT(std::string(OpenBenchJob(runtime, {{"model", "x"}, {"repeats", 0}}).status().message()),
              HasSubstr("\"repeats\" is 0"));
  auto job = OpenBenchJob(runtime, {{"model", "/nowhere"}}).value();
  json event;
  EXPECT_THAT(std::string(job->Next(&event).status().message()), HasSubstr("/nowhere"));
}

}  // namespace
}  // namespace xh
