#include "tests/device/watched_runtime.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <stdlib.h>

namespace watched {
namespace {

std::string Given(const char* variable, const std::string& otherwise) {
  const char* const value = getenv(variable);
  return value != nullptr ? value : otherwise;
}

std::string Plugins() { return Given("XH_WATCHED_PLUGINS", XH_WATCHED_PLUGIN ":" XH_TEST_PLUGINS); }

// The file that is searched first.
std::string Watched() {
  const std::string plugins = Plugins();
  return plugins.substr(0, plugins.find(':'));
}

template <class Function>
void Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  ASSERT_NE(*function, nullptr) << name;
}

}  // namespace

WatchedRuntime::WatchedRuntime() {
  setenv("XH_WATCHED", XH_CPU_PLUGIN, 0);
  const std::string plugins = Plugins();
  xh_option device = {};
  device.key = "device";
  device.kind = XH_OPTION_TEXT;
  device.text = XH_WATCHED_DEVICE;
  xh_runtime_config config = {};
  config.struct_size = XH_SIZED(xh_runtime_config);
  config.plugin_path = plugins.c_str();
  config.options = &device;
  config.option_count = 1;
  const faults::Outcome opened = faults::Take(xh_runtime_open(&config, &runtime_));
  EXPECT_EQ(opened.message, "");
  void* const library = dlopen(Watched().c_str(), RTLD_NOW | RTLD_LOCAL);
  EXPECT_NE(library, nullptr) << dlerror();
  Find(library, "xh_watched_calls", &calls);
  Find(library, "xh_watched_seconds", &seconds);
  Find(library, "xh_watched_refuse", &refuse);
  Find(library, "xh_watched_refused", &refused);
  Find(library, "xh_watched_fill", &fill);
  Find(library, "xh_watched_host_memory", &host_memory);
}

WatchedRuntime::~WatchedRuntime() { xh_runtime_close(runtime_); }

std::string Source(const std::string& path) { return Given("XH_WATCHED_SOURCE", XH_SOURCE_DIR) + "/" + path; }

nlohmann::json OneStage(const faults::Place& place, const std::string& output, const char* stage, int steps) {
  nlohmann::json recipe = faults::TrainingRecipe(place, output);
  recipe["teacher"] = Source("tests/vectors/teachers/hf_llama");
  recipe["stages"] = {{{"stage", stage}, {"steps", steps}, {"warmup", 1}}};
  if (std::string(stage) == "distill") recipe["stages"][0]["top_k"] = 8;  // of 160 tokens
  recipe["save_every"] = 1000;
  return recipe;
}

}  // namespace watched
