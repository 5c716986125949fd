#include "place.h"

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

namespace faults {

namespace fs = std::filesystem;
using nlohmann::json;

Place::Place() {
  // In memory where there is such a place: hundreds of saves are synchronised, and the disk's speed is not the subject.
  const fs::path memory = "/dev/shm";
  const bool usable = access(memory.c_str(), W_OK) == 0;
  std::string pattern = ((usable ? memory : fs::temp_directory_path()) / "xhybrid-faults-XXXXXX").string();
  if (mkdtemp(pattern.data()) != nullptr) path_ = pattern;
}

Place::~Place() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

std::string SmallTeacher() { return std::string(XH_TEST_DATA) + "/teachers/hf_llama"; }
std::string SpeakingTeacher() { return std::string(XH_SOURCE_DIR) + "/examples/teacher-llama-3m"; }

std::string ByteTeacher(const Place& place) {
  const fs::path directory = place / "bytes";
  fs::create_directory(directory);
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::copy_file(fs::path(SpeakingTeacher()) / name, directory / name);
  }
  WriteText(directory / "vocab.json", "{\"bytes\": 256}");
  return directory;
}

void WriteRows(const std::string& path, int rows, int seed) {
  std::string text;
  for (int row = 0; row < rows; ++row) {
    json ids = json::array();
    for (int i = 0; i < 40; ++i) ids.push_back(3 + (seed + row * 7 + i * 5) % 150);
    text += json({{"ids", ids}}).dump() + "\n";
  }
  WriteText(path, text);
}

std::vector<std::string> Names(const std::string& path) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(path)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

json TrainingRecipe(const Place& place, const std::string& output) {
  return {{"teacher", SmallTeacher()},
          {"student", {{"window", 4}, {"sinks", 1}}},
          {"data", {place / "data.jsonl"}},
          {"stages",
           {{{"stage", "align"}, {"steps", 2}, {"warmup", 1}},
            {{"stage", "distill"}, {"steps", 3}, {"learning_rate", 1e-3}, {"warmup", 1}, {"top_k", 8}}}},
          {"context", 16},
          {"batch", 2},
          {"save_every", 2},
          {"output", place / output}};
}

xh_runtime* OpenRuntime(const char* device, const std::string& plugins) {
  const std::string path = (plugins.empty() ? "" : plugins + ":") + XH_TEST_PLUGINS ":" XH_BYTES_PLUGIN;
  xh_option options[2] = {};
  options[0].key = "device";
  options[0].kind = XH_OPTION_TEXT;
  options[0].text = device;
  options[1].key = "threads";
  options[1].kind = XH_OPTION_INT;
  options[1].integer = 1;
  xh_runtime_config config = {};
  config.struct_size = XH_SIZED(xh_runtime_config);
  config.plugin_path = path.c_str();
  config.options = options;
  config.option_count = 2;
  xh_runtime* runtime = nullptr;
  const Outcome opened = Take(xh_runtime_open(&config, &runtime));
  return opened.code == 0 ? runtime : nullptr;
}

Outcome Take(xh_error* error) {
  if (error == nullptr) return {};
  Outcome outcome{xh_error_code(error), xh_error_message(error), xh_error_origin(error)};
  xh_error_free(error);
  return outcome;
}

Outcome RunJob(xh_runtime* runtime, const char* kind, const json& recipe, std::string* result) {
  xh_job* job = nullptr;
  Outcome outcome = Take(xh_job_open(runtime, kind, recipe.dump().c_str(), &job));
  for (int32_t finished = 0; outcome.code == 0 && finished == 0;) {
    const char* event = nullptr;
    outcome = Take(xh_job_next(job, &event, &finished));
  }
  if (outcome.code == 0 && result != nullptr) {
    xh_bytes* bytes = nullptr;
    outcome = Take(xh_job_result(job, &bytes));
    result->assign(static_cast<const char*>(xh_bytes_data(bytes)), static_cast<size_t>(xh_bytes_size(bytes)));
    xh_bytes_free(bytes);
  }
  xh_job_free(job);
  return outcome;
}

}  // namespace faults
