// The job kind "merge", end to end on small models: what it computes, what it refuses before it reads, what it leaves.
#include "core/merge/merge_job.h"

#include <gmock/gmock.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <random>

#include "core/checkpoint/dtype.h"
#include "core/checkpoint/file.h"
#include "core/checkpoint/reader.h"
#include "core/model/save.h"
#include "tests/checkpoint/sample.h"
#include "tests/checkpoint/scratch.h"

namespace xh {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::Fails;
using test::Ok;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kLarge[] = "model.embed_tokens.weight";  // more than one tile

ModelConfig SmallConfig() {
  ModelConfig config;
  config.family = "llama";
  config.vocab_size = 5000;
  config.hidden_size = 8;
  config.layer_count = 2;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 4;
  config.intermediate_size = 6;
  config.context = 64;
  config.tied_embeddings = true;
  MixerConfig hybrid;
  hybrid.kind = "hybrid";
  hybrid.features = 4;
  hybrid.sinks = 2;
  hybrid.windows = {16};
  MixerConfig attention;
  attention.windows = {0};
  config.mixers = {hybrid, attention};
  return config;
}

// A model to be written: random weights by seed, changed by hand where a test needs it.
struct Sample {
  ModelConfig config = SmallConfig();
  xh_dtype dtype = XH_F32;
  std::map<std::string, std::string> tokenizer = {{"tokenizer.model", "one tokenizer"}};
  std::function<void(const std::string& name, std::vector<float>* values)> change;
  bool training_state = false;
};

class MergeJobTest : public ::testing::Test {
 protected:
  void TearDown() override { SetStorageHook(nullptr); }

  std::string Write(const std::string& name, uint32_t seed, const Sample& sample = {}) {
    const std::string path = scratch_ / (name + ".xhy");
    auto writer = CheckpointWriter::Open(path);
    EXPECT_TRUE(writer.ok()) << writer.status();
    ModelFiles files;
    files.tokenizer = sample.tokenizer;
    files.history.push_back({{"kind", "made"}, {"name", name}});
    EXPECT_OK(AddModelMetadata(**writer, sample.config, files));
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    for (const ParameterSpec& parameter : ParametersOf(sample.config)) {
      std::vector<float> values(static_cast<size_t>(*TensorBytes(XH_U8, parameter.shape)));
      for (float& value : values) value = normal(generator);
      if (sample.change) sample.change(parameter.name, &values);
      std::string bytes(values.size() * DTypeBytes(sample.dtype), '\0');
      FromF32(values.data(), static_cast<int64_t>(values.size()), sample.dtype, bytes.data());
      EXPECT_OK((*writer)->AddTensor(parameter.name, sample.dtype, parameter.shape, bytes.data()));
    }
    const float state = 1;
    if (sample.training_state) {
      EXPECT_OK((*writer)->AddTensor("optimizer/step", XH_F32, {1}, &state));
    }
    EXPECT_OK((*writer)->Commit());
    return path;
  }

  StatusOr<std::unique_ptr<Job>> Open(const json& recipe, int32_t threads = 2) {
    RuntimeOptions options;
    options.plugin_path = XH_TEST_PLUGINS;
    options.threads = threads;
    XH_ASSIGN_OR_RETURN(runtime_, Runtime::Open(options));
    return OpenMergeJob(runtime_, recipe);
  }

  // Runs the whole job; `events` are all of them.
  Status Run(const json& recipe, int32_t threads = 2) {
    XH_ASSIGN_OR_RETURN(const std::unique_ptr<Job> job, Open(recipe, threads));
    events_.clear();
    for (bool finished = false; !finished;) {
      json event;
      XH_ASSIGN_OR_RETURN(finished, job->Next(&event));
      events_.push_back(std::move(event));
    }
    result_ = job->Result();
    return absl::OkStatus();
  }

  static std::vector<float> Read(const std::string& path, const std::string& name) {
    auto reader = CheckpointReader::Open(path);
    EXPECT_TRUE(reader.ok()) << reader.status();
    const TensorEntry* entry = (*reader)->Find(name);
    if (entry == nullptr) return {};
    std::vector<float> values(static_cast<size_t>(entry->bytes / DTypeBytes(entry->dtype)));
    ToF32(entry->dtype, *(*reader)->Data(name), static_cast<int64_t>(values.size()), values.data());
    return values;
  }

  json Recipe(const std::vector<std::string>& models, const std::string& method, const json& options = json::object()) {
    return {{"models", models}, {"method", method}, {"options", options}, {"output", output_}};
  }

  test::Scratch scratch_;
  const std::string output_ = scratch_ / "merged.xhy";
  std::shared_ptr<Runtime> runtime_;
  std::vector<json> events_;
  json result_;
};

TEST_F(MergeJobTest, TheMeanOfTwoModelsIsWrittenWithTheFirstModelsFiles) {
  Sample with_state;
  with_state.training_state = true;
  const std::string a = Write("a", 1, with_state), b = Write("b", 2);
  ASSERT_OK(Run(Recipe({a, b}, "linear", {{"weights", {3, 1}}})));
  for (const ParameterSpec& parameter : ParametersOf(SmallConfig())) {
    const std::vector<float> x = Read(a, parameter.name), y = Read(b, parameter.name);
    const std::vector<float> merged = Read(output_, parameter.name);
    ASSERT_EQ(merged.size(), x.size()) << parameter.name;
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(merged[i], static_cast<float>(0.75 * x[i] + 0.25 * y[i])) << parameter.name << " " << i;
    }
  }
  const std::shared_ptr<CheckpointReader> reader = *CheckpointReader::Open(output_);
  EXPECT_OK(reader->Verify());
  EXPECT_EQ(reader->Find("optimizer/step"), nullptr);
  EXPECT_EQ(reader->tensors().size(), ParametersOf(SmallConfig()).size());
  EXPECT_EQ(reader->metadata().at("tokenizer/tokenizer.model"), "one tokenizer");
  EXPECT_EQ(ConfigToJson(*ReadConfig(*reader)), ConfigToJson(SmallConfig()));
  const json history = *ReadHistory(*reader);
  ASSERT_EQ(history.size(), 2u);
  EXPECT_EQ(history[0]["name"], "a");
  EXPECT_EQ(history[1]["method"], "linear");
  EXPECT_EQ(history[1]["options"], json({{"normalize", true}, {"weights", {3, 1}}}));
  EXPECT_EQ(history[1]["models"][1]["history"][0]["name"], "b");
}

TEST_F(MergeJobTest, EveryTensorIsAnEventInTheOrderOfNames) {
  const std::string base = Write("base", 1), a = Write("a", 2);
  json recipe = Recipe({a, a}, "task_arithmetic", {{"normalize", true}});
  recipe["base"] = base;
  ASSERT_OK(Run(recipe));
  const size_t total = ParametersOf(SmallConfig()).size();
  ASSERT_EQ(events_.size(), total + 1);
  for (size_t i = 0; i < total; ++i) {
    EXPECT_EQ(events_[i]["kind"], "merge");
    EXPECT_EQ(events_[i]["done"], i + 1);
    EXPECT_EQ(events_[i]["total"], total);
    EXPECT_NEAR(events_[i]["cosines"][0][1].get<double>(), 1, 1e-12);
    EXPECT_EQ(events_[i]["sign_conflict"], 0.0);
    if (i > 0) {
      EXPECT_LT(events_[i - 1]["tensor"].get<std::string>(), events_[i]["tensor"].get<std::string>());
    }
  }
  EXPECT_EQ(events_[total], json({{"kind", "saved"}, {"path", output_}}));
  EXPECT_EQ(result_["report"]["of"], "task vectors");
  const json report = json::parse((*CheckpointReader::Open(output_))->metadata().at("merge_report"));
  EXPECT_EQ(report["tensors"].size(), total);
}

TEST_F(MergeJobTest, TheReportHasLengthsAnglesAndConflictsOfTaskVectors) {
  auto fill = [](float first, float second) {
    Sample sample;
    sample.change = [=](const std::string&, std::vector<float>* values) {
      for (size_t i = 0; i < values->size(); ++i) (*values)[i] = i == 0 ? first : i == 1 ? second : 1;
    };
    return sample;
  };
  const std::string base = Write("base", 0, fill(1, 1)), a = Write("a", 0, fill(4, 5)), b = Write("b", 0, fill(4, -3));
  json recipe = Recipe({a, b}, "ties");
  recipe["base"] = base;
  ASSERT_OK(Run(recipe));
  const json& event = events_[0];
  EXPECT_EQ(event["norms"], json({5.0, 5.0}));
  EXPECT_NEAR(event["cosines"][0][1].get<double>(), (9.0 - 16.0) / 25.0, 1e-12);
  EXPECT_EQ(event["sign_conflict"], 0.5);
}

TEST_F(MergeJobTest, ResultsDoNotDependOnTheNumberOfThreads) {
  const std::string base = Write("base", 1), a = Write("a", 2), b = Write("b", 3);
  const std::vector<std::pair<std::string, json>> methods = {{"linear", json::object()},
                                                             {"slerp", {{"t", 0.4}}},
                                                             {"task_arithmetic", {{"lambda", 0.5}}},
                                                             {"ties", {{"density", 0.3}}}};
  for (const auto& [method, options] : methods) {
    json recipe = Recipe({a, b}, method, options);
    if (method != "slerp") recipe["base"] = base;
    recipe["replace"] = true;
    ASSERT_OK(Run(recipe, 1));
    const std::vector<float> alone = Read(output_, kLarge);
    const json report = result_["report"];
    ASSERT_OK(Run(recipe, 5));
    EXPECT_EQ(Read(output_, kLarge), alone) << method;
    EXPECT_EQ(result_["report"], report) << method;
  }
}

TEST_F(MergeJobTest, StoredTypesAreKeptOrConverted) {
  Sample half;
  half.dtype = XH_BF16;
  const std::string a = Write("a", 1, half), b = Write("b", 1);
  ASSERT_OK(Run(Recipe({a, b}, "linear")));
  EXPECT_EQ((*CheckpointReader::Open(output_))->Find(kLarge)->dtype, XH_BF16);
  json recipe = Recipe({a, b}, "linear");
  recipe["dtype"] = "f32";
  recipe["replace"] = true;
  ASSERT_OK(Run(recipe));
  EXPECT_EQ((*CheckpointReader::Open(output_))->Find(kLarge)->dtype, XH_F32);
  const std::vector<float> x = Read(a, kLarge), y = Read(b, kLarge), merged = Read(output_, kLarge);
  EXPECT_EQ(merged[7], static_cast<float>(0.5 * x[7] + 0.5 * y[7]));
}

TEST_F(MergeJobTest, ModelsThatDoNotFitTogetherAreNamedWithTheFirstDifference) {
  const std::string a = Write("a", 1);
  Sample window, wide, tokens, no_tokens;
  window.config.mixers[0].kind = "window";
  window.config.mixers[0].features = 0;
  wide.config.intermediate_size = 7;
  tokens.tokenizer["tokenizer.model"] = "another tokenizer";
  no_tokens.tokenizer.clear();
  const struct {
    const char* name;
    Sample sample;
    const char* difference;
  } cases[] = {{"window", window, "\"mixers.0."},
               {"wide", wide, "\"intermediate_size\" is 6 in "},
               {"tokens", tokens, "tokenizer file tokenizer.model differs: sha256 "},
               {"no_tokens", no_tokens, "tokenizer file tokenizer.model is in "}};
  for (const auto& example : cases) {
    const std::string b = Write(example.name, 2, example.sample);
    for (const char* role : {"model", "base"}) {
      json recipe = Recipe({a, a}, "linear");
      if (std::string(role) == "model") recipe["models"][1] = b;
      if (std::string(role) == "base") recipe["base"] = b;
      const Status status = Run(recipe);
      EXPECT_TRUE(Fails(status, XH_INCOMPATIBLE, example.difference));
      EXPECT_THAT(std::string(status.message()), ::testing::AllOf(HasSubstr(a), HasSubstr(b)));
    }
  }
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(MergeJobTest, ModelsMayEndTheirTextsDifferently) {
  Sample chat;
  chat.config.eos_ids = {4};
  const std::string a = Write("a", 1), b = Write("b", 2, chat);
  EXPECT_OK(Run(Recipe({a, b}, "linear")));
}

TEST_F(MergeJobTest, WeightsThatAreNoNumbersAreRefusedByModelAndTensor) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    Sample broken;
    broken.change = [bad](const std::string& name, std::vector<float>* values) {
      if (name == kLarge) (*values)[33000] = (*values)[39999] = bad;
    };
    const std::string name = std::isnan(bad) ? "nan" : "infinite";
    const std::string a = Write(name + "_a", 1), b = Write(name + "_b", 2, broken);
    const Status status = Run(Recipe({a, b}, "linear"));
    EXPECT_TRUE(Fails(status, XH_CORRUPT, "at element 33000"));
    EXPECT_THAT(std::string(status.message()), ::testing::AllOf(HasSubstr(kLarge), HasSubstr(b)));
    EXPECT_FALSE(fs::exists(output_));
  }
}

TEST_F(MergeJobTest, AResultBeyondItsTypeIsRefused) {
  Sample large;
  large.change = [](const std::string&, std::vector<float>* values) { (*values)[1] = 3e38f; };
  const std::string a = Write("a", 1, large);
  EXPECT_TRUE(Fails(Run(Recipe({a, a}, "linear", {{"weights", {1, 1}}, {"normalize", false}})), XH_INVALID_ARGUMENT,
                    "at element 1, beyond what f32 holds"));
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(MergeJobTest, ADamagedTensorIsRefused) {
  const std::string a = Write("a", 1), b = Write("b", 2);
  std::string shard = test::ReadBytes(b + "/tensors-00000.bin");
  shard[100] = static_cast<char>(shard[100] ^ 1);
  test::WriteBytes(b + "/tensors-00000.bin", shard);
  EXPECT_EQ(CodeOf(Run(Recipe({a, b}, "linear"))), XH_CORRUPT);
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(MergeJobTest, RecipesThatMakeNoSenseAreRefusedBeforeAnythingIsRead) {
  const std::string a = Write("a", 1);
  auto with = [&](const char* key, const json& value, const std::string& method = "linear") {
    json recipe = Recipe({a, a}, method);
    recipe[key] = value;
    return Open(recipe).status();
  };
  EXPECT_TRUE(Fails(with("models", json::array()), XH_INVALID_ARGUMENT, "\"models\" is empty"));
  EXPECT_TRUE(Fails(with("models", {a, "/nowhere.xhy"}), XH_NOT_FOUND, "/nowhere.xhy"));
  EXPECT_TRUE(Fails(with("output", ""), XH_INVALID_ARGUMENT, "\"output\" is missing"));
  EXPECT_TRUE(Fails(with("outptu", "x"), XH_INVALID_ARGUMENT, "outptu"));
  EXPECT_TRUE(Fails(with("method", "soup"), XH_NOT_FOUND, "there is no merge plugin \"soup\""));
  EXPECT_TRUE(Fails(with("options", {{"weight", 1}}), XH_INVALID_ARGUMENT, "weight"));
  EXPECT_TRUE(Fails(with("options", {{"weights", {1, 2, 3}}}), XH_INVALID_ARGUMENT, "3 numbers; allowed: 2"));
  EXPECT_TRUE(Fails(with("dtype", "i32"), XH_INVALID_ARGUMENT, "\"dtype\" is \"i32\""));
  EXPECT_TRUE(Fails(with("options", json::object(), "ties"), XH_INVALID_ARGUMENT, "\"base\" is missing"));
  EXPECT_TRUE(Fails(with("options", {{"t", 2}}, "slerp"), XH_INVALID_ARGUMENT, "\"t\" is 2"));
  json three = Recipe({a, a, a}, "slerp", {{"t", 0.5}});
  EXPECT_TRUE(Fails(Open(three).status(), XH_INVALID_ARGUMENT, "\"models\" names 3; allowed for slerp: 1 to 2"));
  json both = Recipe({a, a}, "slerp", {{"t", 0.5}});
  both["base"] = a;
  EXPECT_TRUE(Fails(Open(both).status(), XH_INVALID_ARGUMENT, "a base and two models"));
  EXPECT_EQ(OriginOf(Open(both).status()), "merge.slerp");
  EXPECT_TRUE(Fails(Open(Recipe({a}, "slerp", {{"t", 0.5}})).status(), XH_INVALID_ARGUMENT, "without a base"));
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(MergeJobTest, SlerpTakesTheBaseAsOneOfTheTwo) {
  const std::string a = Write("a", 1), b = Write("b", 2);
  ASSERT_OK(Run(Recipe({a, b}, "slerp", {{"t", 0.3}})));
  const std::vector<float> pair = Read(output_, kLarge);
  json recipe = Recipe({b}, "slerp", {{"t", 0.3}});
  recipe["base"] = a;
  recipe["replace"] = true;
  ASSERT_OK(Run(recipe));
  EXPECT_EQ(Read(output_, kLarge), pair);
}

TEST_F(MergeJobTest, AnExistingOutputIsKeptUnlessItMayBeReplaced) {
  const std::string a = Write("a", 1), b = Write("b", 2);
  ASSERT_OK(Run(Recipe({a}, "linear")));
  EXPECT_EQ(CodeOf(Open(Recipe({b}, "linear")).status()), XH_INVALID_STATE);
  EXPECT_EQ(Read(output_, kLarge), Read(a, kLarge));
  json recipe = Recipe({b}, "linear");
  recipe["replace"] = true;
  ASSERT_OK(Run(recipe));
  EXPECT_EQ(Read(output_, kLarge), Read(b, kLarge));
  // Even one of the models may be replaced: it is read to its end first.
  recipe["models"] = {output_, a};
  ASSERT_OK(Run(recipe));
  EXPECT_EQ(Read(output_, kLarge)[0], static_cast<float>(0.5 * Read(b, kLarge)[0] + 0.5 * Read(a, kLarge)[0]));
}

int writes_left = 0;
int FailLaterWrites(const char* call) { return std::strcmp(call, "write") == 0 && writes_left-- <= 0 ? ENOSPC : 0; }

TEST_F(MergeJobTest, AFullDiskLeavesNothingBehind) {
  const std::string a = Write("a", 1);
  const std::vector<std::string> before = test::List(scratch_.path());
  for (const int writes : {0, 3}) {
    writes_left = writes;
    SetStorageHook(FailLaterWrites);
    EXPECT_TRUE(Fails(Run(Recipe({a, a}, "linear")), XH_IO, "No space left"));
    SetStorageHook(nullptr);
    EXPECT_EQ(test::List(scratch_.path()), before);
  }
}

TEST_F(MergeJobTest, ADryRunChecksAndWritesNothing) {
  const std::string a = Write("a", 1);
  const std::vector<std::string> before = test::List(scratch_.path());
  json recipe = Recipe({a, a}, "linear");
  recipe["dry_run"] = true;
  ASSERT_OK(Run(recipe));
  ASSERT_EQ(events_.size(), 1u);
  EXPECT_EQ(events_[0]["kind"], "checked");
  EXPECT_TRUE(result_["dry_run"].get<bool>());
  EXPECT_EQ(test::List(scratch_.path()), before);
}

TEST_F(MergeJobTest, ACancelledMergeLeavesNothingBehind) {
  const std::string a = Write("a", 1);
  const std::vector<std::string> before = test::List(scratch_.path());
  std::unique_ptr<Job> job = *Open(Recipe({a, a}, "linear"));
  json event;
  ASSERT_FALSE(*job->Next(&event));
  job->Cancel();
  EXPECT_TRUE(Fails(job->Next(&event).status(), XH_CANCELLED, "start it again"));
  EXPECT_EQ(CodeOf(job->Next(&event).status()), XH_INVALID_STATE);
  EXPECT_EQ(test::List(scratch_.path()), before);
}

}  // namespace
}  // namespace xh
