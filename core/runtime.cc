#include "core/runtime.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <new>
#include <sstream>
#include <thread>

#include "nlohmann/json.hpp"

using nlohmann::json;

namespace xh {
namespace {

constexpr int32_t kMostThreads = 4096;

// The value of the first line "key : value" of /proc/cpuinfo.
std::string CpuInfo(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  if (!file.is_open() && errno == ENOMEM) throw std::bad_alloc();
  file.exceptions(std::ios::badbit);  // no memory is no end of the file
  std::string line;
  while (std::getline(file, line)) {
    size_t colon = line.find(": ");
    if (line.rfind(key, 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "";
}

json CpuReport() {
  json isa = json::array();
  std::istringstream flags(CpuInfo("flags"));
  for (std::string flag; flags >> flag;) {
    for (const char* wanted : {"avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16"}) {
      if (flag == wanted) isa.push_back(flag);
    }
  }
  const int64_t memory = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  return {{"model", CpuInfo("model name")},
          {"cores", std::thread::hardware_concurrency()},
          {"isa", isa},
          {"memory_bytes", memory}};
}

// "threads" is an option of backends that have threads; others refuse it, and are opened without.
StatusOr<std::shared_ptr<Device>> OpenWithThreads(const xh_backend* backend, const std::string& name, int32_t count) {
  xh_option threads{};
  threads.key = "threads";
  threads.kind = XH_OPTION_INT;
  threads.integer = count;
  StatusOr<std::shared_ptr<Device>> device = Device::Open(backend, name, 0, &threads, 1);
  if (device.ok() || CodeOf(device.status()) != XH_INVALID_ARGUMENT) return device;
  return Device::Open(backend, name, 0, nullptr, 0);
}

json DeviceReport(Runtime& runtime) {
  StatusOr<std::shared_ptr<Device>> device = runtime.OpenDevice();
  if (!device.ok()) return {{"error", std::string(device.status().message())}};
  json report = {{"backend", (*device)->backend_name()}};
  for (const char* key : {"name", "isa"}) {
    StatusOr<std::string> value = (*device)->QueryText(key);
    if (value.ok()) report[key] = *value;
  }
  for (const char* key : {"memory_bytes", "threads"}) {
    StatusOr<int64_t> value = (*device)->QueryInt(key);
    if (value.ok()) report[key] = *value;
  }
  return report;
}

}  // namespace

StatusOr<std::shared_ptr<Runtime>> Runtime::Open(RuntimeOptions options) {
  if (options.threads < 0 || options.threads > kMostThreads) {
    return InvalidArgument("\"threads\" is ", options.threads, "; allowed: integer from 0 (one a core) to ",
                           kMostThreads);
  }
  std::shared_ptr<Runtime> runtime(new Runtime(std::move(options)));
  if (runtime->options_.log) runtime->listener_ = std::make_unique<LogListener>(runtime->options_.log);
  runtime->registry_ = Registry::Load(runtime->options_.plugin_path);
  for (const LoadAttempt& attempt : runtime->registry_.attempts()) {
    runtime->Log(XH_LOG_DEBUG, "core", absl::StrCat(attempt.path, ": ", attempt.outcome));
  }
  if (!runtime->options_.device.empty()) {
    XH_RETURN_IF_ERROR(runtime->registry_.FindBackend(runtime->options_.device).status());
  }
  return runtime;
}

int32_t Runtime::threads() const {
  if (options_.threads > 0) return options_.threads;
  return std::max(1, static_cast<int32_t>(std::thread::hardware_concurrency()));
}

StatusOr<std::shared_ptr<Device>> Runtime::OpenDevice() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (device_ != nullptr) return device_;
  XH_ASSIGN_OR_RETURN(const xh_backend* backend, registry_.FindBackend(options_.device));
  std::string name = options_.device;
  for (const LoadedPlugin& loaded : registry_.plugins()) {
    if (loaded.plugin->table == backend) name = loaded.plugin->name;
  }
  XH_ASSIGN_OR_RETURN(device_, OpenWithThreads(backend, name, options_.threads));
  return device_;
}

void Runtime::Log(xh_log_level level, const std::string& origin, const std::string& text) const {
  if (options_.log) options_.log(level, origin, text);
}

json Runtime::Report() {
  json plugins = json::array();
  for (const LoadedPlugin& loaded : registry_.plugins()) {
    const xh_plugin& plugin = *loaded.plugin;
    plugins.push_back({{"kind", PluginKindName(plugin.kind)},
                       {"name", plugin.name},
                       {"version", plugin.version},
                       {"license", plugin.license},
                       {"score", plugin.score},
                       {"unavailable", plugin.unavailable != nullptr ? plugin.unavailable : ""},
                       {"path", loaded.path}});
  }
  json searched = json::array();
  for (const LoadAttempt& attempt : registry_.attempts()) {
    searched.push_back({{"path", attempt.path}, {"outcome", attempt.outcome}});
  }
  return {{"release", XHYBRID_RELEASE}, {"abi", absl::StrCat(XH_ABI_MAJOR, ".", XH_ABI_MINOR)},
          {"cpu", CpuReport()},         {"device", DeviceReport(*this)},
          {"plugins", plugins},         {"missing", registry_.MissingText()},
          {"searched", searched}};
}

}  // namespace xh
