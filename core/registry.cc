#include "core/registry.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <new>
#include <set>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/checkpoint/entries.h"
#include "core/plugin_check.h"
#include "core/plugin_host.h"

namespace fs = std::filesystem;

namespace xh {
namespace {

constexpr int32_t kMostPluginsOfALibrary = 64;

// Which text plugin reads a file, to be named when it is missing.
struct KnownReader {
  const char* file;
  const char* plugin;
  const char* how;  // it comes to be installed
};
constexpr KnownReader kKnownReaders[] = {
    {"tokenizer.model", "sentencepiece", "build libxhybrid with libsentencepiece-dev"},
    {"tokenizer.json", "huggingface",
     "build libxhybrid with cargo 1.80 or newer on PATH (Debian: cargo-web, rustc-web)"}};

std::string Absence(const KnownReader& reader) {
  return absl::StrCat(reader.file, " needs the text plugin \"", reader.plugin,
                      "\", which is not installed: ", reader.how);
}

// The directory xhybrid/ beside the library (or program) that holds this code.
std::string OwnPluginDirectory() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(&OwnPluginDirectory), &info) == 0 || info.dli_fname == nullptr) return "";
  std::error_code ignored;
  fs::path library = fs::canonical(info.dli_fname, ignored);
  return library.empty() ? "" : (library.parent_path() / "xhybrid").string();
}

// Places in search order, without those that are empty or come twice.
std::vector<std::string> SearchPlaces(const std::string& plugin_path) {
  const char* environment = secure_getenv("XHYBRID_PLUGIN_PATH");
  std::vector<std::string> candidates = absl::StrSplit(plugin_path, ':');
  for (const auto& place : absl::StrSplit(environment != nullptr ? environment : "", ':')) {
    candidates.emplace_back(place);
  }
  candidates.push_back(OwnPluginDirectory());
  candidates.push_back(XHYBRID_INSTALLED_PLUGIN_DIR);
  std::vector<std::string> places;
  for (const std::string& place : candidates) {
    if (!place.empty() && std::find(places.begin(), places.end(), place) == places.end()) places.push_back(place);
  }
  return places;
}

// Plugins are native code: a place that every user may write to is never searched.
bool IsWritableByAll(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && (info.st_mode & S_IWOTH) != 0;
}

std::vector<std::string> LibrariesIn(const std::string& directory) {
  std::vector<std::string> libraries;
  const StatusOr<std::vector<std::string>> entries = EntriesOf(directory);
  if (!entries.ok()) return libraries;
  for (const std::string& entry : *entries) {
    const fs::path path = fs::path(directory) / entry;
    if (path.extension() == ".so") libraries.push_back(path.string());
  }
  std::sort(libraries.begin(), libraries.end());
  return libraries;
}

// What a library offers. Its entry is asked once a process: plugins keep the host in a variable of their own, which
// threads that already use them read meanwhile.
const std::vector<const xh_plugin*>& PluginsOf(void* library, xh_plugin_entry entry) {
  static std::mutex mutex;
  static auto& known = *new std::map<void*, std::vector<const xh_plugin*>>;  // libraries are never unloaded
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(library);
  if (found != known.end()) return found->second;
  std::vector<const xh_plugin*> offered;
  for (int32_t index = 0; index < kMostPluginsOfALibrary; ++index) {
    const xh_plugin* plugin = entry(PluginHost(), index);
    if (plugin == nullptr) break;
    offered.push_back(plugin);
  }
  return known.emplace(library, std::move(offered)).first->second;
}

// Opens one library and appends its plugins. Returns what happened, for the report.
std::string LoadLibrary(const std::string& path, std::vector<LoadedPlugin>* plugins) {
  if (IsWritableByAll(path)) return "refused: every user may write to it";
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return dlerror();
  auto entry = reinterpret_cast<xh_plugin_entry>(dlsym(library, "xh_plugin_v1"));
  if (entry == nullptr) return "refused: it exports no xh_plugin_v1";
  const std::vector<const xh_plugin*>* offered = nullptr;
  try {
    offered = &PluginsOf(library, entry);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (...) {
    return "refused: xh_plugin_v1 threw an exception";
  }
  std::vector<std::string> outcomes;
  for (const xh_plugin* plugin : *offered) {
    Status status = CheckPlugin(*plugin);
    if (!status.ok()) {
      outcomes.push_back(absl::StrCat("refused: ", status.message()));
      continue;
    }
    auto same = std::find_if(plugins->begin(), plugins->end(), [&](const LoadedPlugin& other) {
      return other.plugin->kind == plugin->kind && std::string(other.plugin->name) == plugin->name;
    });
    if (same != plugins->end()) {
      outcomes.push_back(absl::StrCat(PluginKindName(plugin->kind), " ", plugin->name, " is hidden by ", same->path));
      continue;
    }
    plugins->push_back({plugin, path});
    outcomes.push_back(absl::StrCat("loaded ", PluginKindName(plugin->kind), " ", plugin->name));
  }
  return outcomes.empty() ? "refused: it offers no plugin" : absl::StrJoin(outcomes, "; ");
}

}  // namespace

Registry Registry::Load(const std::string& plugin_path) {
  Registry registry;
  std::set<std::string> seen;  // canonical paths: a library found by two ways loads once
  auto try_library = [&](const std::string& path) {
    std::error_code failed;
    std::string canonical = fs::canonical(path, failed).string();
    if (failed) return registry.attempts_.push_back({path, "no such file"});
    if (!seen.insert(canonical).second) return;
    registry.attempts_.push_back({path, LoadLibrary(canonical, &registry.plugins_)});
  };
  for (const std::string& place : SearchPlaces(plugin_path)) {
    std::error_code ignored;
    if (!fs::is_directory(place, ignored)) {
      if (fs::path(place).extension() == ".so") {
        try_library(place);
      } else {
        registry.attempts_.push_back({place, "no such directory"});
      }
      continue;
    }
    if (IsWritableByAll(place)) {
      registry.attempts_.push_back({place, "refused: every user may write to it"});
      continue;
    }
    std::vector<std::string> libraries = LibrariesIn(place);
    if (libraries.empty()) registry.attempts_.push_back({place, "holds no plugin"});
    for (const std::string& library : libraries) try_library(library);
  }
  return registry;
}

std::string Registry::Sought() const {
  return absl::StrCat("sought in: ", attempts_.empty()
                                         ? "nowhere"
                                         : absl::StrJoin(attempts_, ", ", [](auto* out, const LoadAttempt& attempt) {
                                             absl::StrAppend(out, attempt.path, " (", attempt.outcome, ")");
                                           }));
}

StatusOr<const xh_plugin*> Registry::Find(xh_plugin_kind kind, const std::string& name) const {
  std::vector<std::string> present;
  for (const LoadedPlugin& loaded : plugins_) {
    if (loaded.plugin->kind != kind) continue;
    if (name == loaded.plugin->name) return loaded.plugin;
    present.emplace_back(loaded.plugin->name);
  }
  return NotFound("there is no ", PluginKindName(kind),
                  name.empty() ? " plugin" : absl::StrCat(" plugin \"", name, "\""),
                  "; there are: ", present.empty() ? "none" : absl::StrJoin(present, ", "), "; ", Sought());
}

StatusOr<const void*> Registry::FindTable(xh_plugin_kind kind, const std::string& name) const {
  XH_ASSIGN_OR_RETURN(const xh_plugin* plugin, Find(kind, name));
  if (plugin->score > 0) return plugin->table;
  return Unsupported("the ", PluginKindName(kind), " plugin \"", name, "\" cannot run here: ",
                     plugin->unavailable != nullptr ? plugin->unavailable : "it gives no reason");
}

StatusOr<const xh_backend*> Registry::FindBackend(const std::string& name) const {
  std::string best = name;
  int32_t score = -1;
  for (const LoadedPlugin& loaded : plugins_) {
    const xh_plugin* plugin = loaded.plugin;
    if (!name.empty() || plugin->kind != XH_PLUGIN_BACKEND || plugin->score <= score) continue;
    best = plugin->name;
    score = plugin->score;
  }
  XH_ASSIGN_OR_RETURN(const void* table, FindTable(XH_PLUGIN_BACKEND, best));
  return static_cast<const xh_backend*>(table);
}

StatusOr<const xh_stage_table*> Registry::FindStage(const std::string& name) const {
  XH_ASSIGN_OR_RETURN(const void* table, FindTable(XH_PLUGIN_STAGE, name));
  return static_cast<const xh_stage_table*>(table);
}

StatusOr<const xh_merge_table*> Registry::FindMerge(const std::string& name) const {
  XH_ASSIGN_OR_RETURN(const void* table, FindTable(XH_PLUGIN_MERGE, name));
  return static_cast<const xh_merge_table*>(table);
}

StatusOr<const xh_plugin*> Registry::FindText(const std::vector<std::string>& files) const {
  auto present = [&](const std::string& file) { return std::find(files.begin(), files.end(), file) != files.end(); };
  const xh_plugin* best = nullptr;
  std::vector<std::string> installed;
  for (const LoadedPlugin& loaded : plugins_) {
    const xh_plugin* plugin = loaded.plugin;
    if (plugin->kind != XH_PLUGIN_TEXT) continue;
    const std::string main_file = static_cast<const xh_text_table*>(plugin->table)->main_file;
    if (present(main_file) && plugin->score > (best != nullptr ? best->score : 0)) best = plugin;
    installed.push_back(
        absl::StrCat(plugin->name, " (reads ", main_file, plugin->score > 0 ? ")" : ", cannot run here)"));
  }
  if (best != nullptr) return best;
  std::vector<std::string> needed;
  for (const KnownReader& reader : kKnownReaders) {
    if (present(reader.file)) needed.push_back(Absence(reader));
  }
  if (needed.empty()) {
    needed.push_back(absl::StrCat("the model has no tokenizer file that a text plugin reads (it has: ",
                                  files.empty() ? "none" : absl::StrJoin(files, ", "), ")"));
  }
  return NotFound(absl::StrJoin(needed, "; "),
                  "; installed text plugins: ", installed.empty() ? "none" : absl::StrJoin(installed, ", "), "; ",
                  Sought());
}

std::vector<std::string> Registry::MissingText() const {
  std::vector<std::string> missing;
  for (const KnownReader& reader : kKnownReaders) {
    const bool found = std::any_of(plugins_.begin(), plugins_.end(), [&](const LoadedPlugin& loaded) {
      return loaded.plugin->kind == XH_PLUGIN_TEXT && std::string(loaded.plugin->name) == reader.plugin;
    });
    if (!found) missing.push_back(Absence(reader));
  }
  return missing;
}

const char* PluginKindName(xh_plugin_kind kind) {
  switch (kind) {
    case XH_PLUGIN_BACKEND:
      return "backend";
    case XH_PLUGIN_STAGE:
      return "stage";
    case XH_PLUGIN_MERGE:
      return "merge";
    case XH_PLUGIN_TEXT:
      return "text";
    default:
      return "unknown";
  }
}

const char* OptionsSchemaOf(const xh_plugin& plugin) {
  const char* schema = nullptr;
  if (plugin.kind == XH_PLUGIN_STAGE) schema = static_cast<const xh_stage_table*>(plugin.table)->options_schema;
  if (plugin.kind == XH_PLUGIN_MERGE) schema = static_cast<const xh_merge_table*>(plugin.table)->options_schema;
  return schema != nullptr ? schema : "";
}

}  // namespace xh
