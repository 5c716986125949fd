#include "tests/train/tiny.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "core/checkpoint/writer.h"
#include "core/model/save.h"
#include "core/train/distill_job.h"

namespace xh::tiny {

namespace fs = std::filesystem;
using nlohmann::json;

TempDir::TempDir() {
  std::string pattern = (fs::temp_directory_path() / "xhybrid-train-XXXXXX").string();
  const char* made = mkdtemp(pattern.data());
  path_ = made != nullptr ? made : "";
}

TempDir::~TempDir() {
  std::error_code error;
  if (!path_.empty()) fs::remove_all(path_, error);
}

ModelConfig Config(int64_t vocab_size) {
  ModelConfig config;
  config.family = "llama";
  config.vocab_size = vocab_size;
  config.hidden_size = 32;
  config.layer_count = 2;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 16;
  config.intermediate_size = 64;
  config.context = 128;
  config.tied_embeddings = true;
  config.bos_id = 1;
  config.eos_ids = {2};
  MixerConfig attention;
  attention.kind = "attention";
  attention.windows = {0};
  config.mixers.assign(2, attention);
  return config;
}

Status WriteTeacher(const std::string& path, int64_t vocab_size, bool tokenizer) {
  const ModelConfig config = Config(vocab_size);
  WriteOptions options;
  options.replace = true;
  XH_ASSIGN_OR_RETURN(auto writer, CheckpointWriter::Open(path, options));
  ModelFiles files;
  if (tokenizer) {
    for (const char* name : {"tokenizer.model", "tokenizer_config.json"}) {
      files.tokenizer[name] = ReadText(std::string(XH_TEST_DATA) + "/text/" + name);
    }
  }
  XH_RETURN_IF_ERROR(AddModelMetadata(*writer, config, files));
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  for (const ParameterSpec& spec : ParametersOf(config)) {
    int64_t count = 1;
    for (int64_t extent : spec.shape) count *= extent;
    std::vector<float> values(static_cast<size_t>(count), 1.0f);
    if (spec.shape.size() > 1) {
      const float scale = 1.0f / std::sqrt(static_cast<float>(spec.shape.back()));
      for (float& value : values) value = scale * normal(random);
    }
    XH_RETURN_IF_ERROR(writer->AddTensor(spec.name, XH_F32, spec.shape, values.data()));
  }
  return writer->Commit();
}

void WriteRows(const std::string& path, int64_t documents, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text;
  for (int64_t i = 0; i < documents; ++i) {
    json ids = {1};
    uint64_t token = random() % 60;
    for (uint64_t left = 5 + random() % 40; left > 0; --left) {
      ids.push_back(3 + token);
      token = random() % 10 == 0 ? random() % 60 : (token * 7 + 5) % 60;
    }
    text += json({{"ids", ids}}).dump() + "\n";
  }
  WriteText(path, text);
}

StatusOr<std::shared_ptr<Runtime>> OpenRuntime(int32_t threads) {
  RuntimeOptions options;
  options.plugin_path = XH_TEST_PLUGINS;
  options.device = "cpu";
  options.threads = threads;
  return Runtime::Open(options);
}

json RecipeIn(const TempDir& dir, const std::string& output) {
  return {{"teacher", dir / "teacher.xhy"},
          {"student", {{"window", 8}}},
          {"data", {dir / "data.jsonl"}},
          {"stages",
           {{{"stage", "align"}, {"steps", 4}, {"warmup", 2}},
            {{"stage", "distill"}, {"steps", 6}, {"learning_rate", 1e-3}, {"warmup", 1}, {"top_k", 16}}}},
          {"context", 32},
          {"batch", 4},
          {"micro_batch", 2},
          {"save_every", 2},
          {"seed", 3},
          {"output", dir / output}};
}

Status Drain(Job& job, std::vector<json>* events) {
  for (;;) {
    json event;
    XH_ASSIGN_OR_RETURN(const bool finished, job.Next(&event));
    if (events != nullptr) events->push_back(event);
    if (finished) return absl::OkStatus();
  }
}

Status Distil(const json& recipe, std::vector<json>* events, int32_t threads) {
  XH_ASSIGN_OR_RETURN(const std::shared_ptr<Runtime> runtime, OpenRuntime(threads));
  XH_ASSIGN_OR_RETURN(const std::unique_ptr<Job> job, OpenDistillJob(runtime, recipe));
  return Drain(*job, events);
}

}  // namespace xh::tiny
