#include "tests/conformance/program/plugin_library.h"

#include <dlfcn.h>

#include <cstring>
#include <exception>
#include <set>

#include "tests/conformance/host.h"
#include "tests/conformance/program/options_schema.h"

namespace xh::test {
namespace {

constexpr int32_t kMostPlugins = 256;  // in one library; a larger index has to give NULL

struct Slot {
  const char* name;
  bool filled;
};
#define XH_SLOT(table, name) \
  Slot { #name, (table).name != nullptr }

// Collects the faults of one plugin.
class Check {
 public:
  explicit Check(std::vector<std::string>* faults) : faults_(faults) {}

  void Plugin(const xh_plugin& plugin) {
    if (plugin.struct_size < sizeof(xh_plugin)) {
      return Fault("xh_plugin.struct_size is " + std::to_string(plugin.struct_size) + ", XH_SIZED(xh_plugin) is " +
                   std::to_string(sizeof(xh_plugin)));
    }
    if (plugin.abi == 0) return Fault("xh_plugin.abi is 0; set it to XH_ABI_VERSION");
    if (plugin.abi >> 16 != XH_ABI_MAJOR || plugin.abi > XH_ABI_VERSION) {
      return Fault("xh_plugin.abi is " + Version(plugin.abi) + ", this program knows " + Version(XH_ABI_VERSION));
    }
    if (plugin.name == nullptr || *plugin.name == '\0') return Fault("xh_plugin.name is empty");
    name_ = plugin.name;
    if (plugin.version == nullptr || *plugin.version == '\0') Fault("xh_plugin.version is empty");
    if (plugin.license == nullptr || *plugin.license == '\0') Fault("xh_plugin.license is empty");
    if (plugin.score < 0) Fault("xh_plugin.score is " + std::to_string(plugin.score) + ", 0 and more is allowed");
    if (plugin.score == 0 && (plugin.unavailable == nullptr || *plugin.unavailable == '\0')) {
      Fault("xh_plugin.unavailable does not say why the score is 0");
    }
    if (plugin.table == nullptr) return Fault("xh_plugin.table is NULL");
    Table(plugin);
  }

 private:
  void Fault(const std::string& text) { faults_->push_back(name_.empty() ? text : name_ + ": " + text); }

  static std::string Version(uint32_t abi) { return std::to_string(abi >> 16) + "." + std::to_string(abi & 0xffff); }

  void Table(const xh_plugin& plugin) {
    switch (plugin.kind) {
      case XH_PLUGIN_BACKEND:
        return Sized<xh_backend>(
            plugin, "xh_backend", [this](const xh_backend& t) { Backend(t); }, offsetof(xh_backend, capture_begin));
      case XH_PLUGIN_STAGE:
        return Sized<xh_stage_table>(plugin, "xh_stage_table", [this](const xh_stage_table& t) { Stage(t); });
      case XH_PLUGIN_MERGE:
        return Sized<xh_merge_table>(plugin, "xh_merge_table", [this](const xh_merge_table& t) { Merge(t); });
      case XH_PLUGIN_TEXT:
        return Sized<xh_text_table>(plugin, "xh_text_table", [this](const xh_text_table& t) { Text(t); });
      default:
        Fault("xh_plugin.kind is " + std::to_string(plugin.kind) + ", allowed is 1 to 4");
    }
  }

  template <class T, class Next>
  void Sized(const xh_plugin& plugin, const char* name, Next next, size_t least = sizeof(T)) {
    const T& table = *static_cast<const T*>(plugin.table);
    if (table.struct_size >= least) return next(table);
    Fault(std::string(name) + ".struct_size is " + std::to_string(table.struct_size) + ", XH_SIZED(" + name + ") is " +
          std::to_string(sizeof(T)));
  }

  void Slots(const char* table, std::initializer_list<Slot> slots) {
    for (const Slot& slot : slots) {
      if (!slot.filled) Fault(std::string(table) + "." + slot.name + " is NULL");
    }
  }

  void Schema(const char* table, const char* schema) {
    std::string wrong;
    if (schema != nullptr && !ParseOptionsSchema(schema, nullptr, &wrong)) {
      Fault(std::string(table) + ".options_schema: " + wrong);
    }
  }

  void Backend(const xh_backend& t) {
    Slots("xh_backend",
          {XH_SLOT(t, device_count), XH_SLOT(t, device_open), XH_SLOT(t, device_close), XH_SLOT(t, device_query),
           XH_SLOT(t, allocate), XH_SLOT(t, release), XH_SLOT(t, stream_open), XH_SLOT(t, stream_close),
           XH_SLOT(t, record), XH_SLOT(t, wait), XH_SLOT(t, event_close), XH_SLOT(t, synchronize), XH_SLOT(t, copy),
           XH_SLOT(t, plan_open), XH_SLOT(t, plan_close), XH_SLOT(t, plan_run)});
    if (!XH_COVERS(xh_backend, &t, capture_close)) return;
    const int filled = (t.capture_begin != nullptr) + (t.capture_end != nullptr) + (t.capture_replay != nullptr) +
                       (t.capture_close != nullptr);
    if (filled != 0 && filled != 4) Fault("xh_backend has " + std::to_string(filled) + " of the four capture_* slots");
  }

  void Stage(const xh_stage_table& t) {
    Slots("xh_stage_table", {XH_SLOT(t, options_schema), XH_SLOT(t, open), XH_SLOT(t, declare), XH_SLOT(t, close)});
    if ((t.save == nullptr) != (t.restore == nullptr)) Fault("xh_stage_table has only one of save and restore");
    Schema("xh_stage_table", t.options_schema);
  }

  void Merge(const xh_merge_table& t) {
    constexpr uint32_t kKnown = XH_MERGE_ELEMENTWISE | XH_MERGE_NEEDS_BASE | XH_MERGE_TWO_PASS;
    Slots("xh_merge_table", {XH_SLOT(t, options_schema), XH_SLOT(t, open), XH_SLOT(t, combine), XH_SLOT(t, close)});
    if ((t.traits & ~kKnown) != 0) Fault("xh_merge_table.traits has bits that have no meaning");
    const bool two_pass = (t.traits & XH_MERGE_TWO_PASS) != 0;
    if (two_pass && t.observe == nullptr) Fault("xh_merge_table.observe is NULL in a two-pass merge");
    if (!two_pass && t.observe != nullptr) Fault("xh_merge_table.observe is set without XH_MERGE_TWO_PASS");
    if (t.min_models < 1 || t.max_models < 0 || (t.max_models != 0 && t.max_models < t.min_models)) {
      Fault("xh_merge_table takes " + std::to_string(t.min_models) + " to " + std::to_string(t.max_models) + " models");
    }
    Schema("xh_merge_table", t.options_schema);
  }

  void Text(const xh_text_table& t) {
    Slots("xh_text_table", {XH_SLOT(t, main_file), XH_SLOT(t, open), XH_SLOT(t, close), XH_SLOT(t, vocab_size),
                            XH_SLOT(t, encode), XH_SLOT(t, decode), XH_SLOT(t, special), XH_SLOT(t, stream_open),
                            XH_SLOT(t, stream_push), XH_SLOT(t, stream_close), XH_SLOT(t, render)});
  }

  std::vector<std::string>* faults_;
  std::string name_;
};

// Every plugin of the library, in order.
void Collect(xh_plugin_entry entry, PluginLibrary* library) {
  for (int32_t index = 0; index < kMostPlugins; ++index) {
    const xh_plugin* plugin = entry(&TestHost(), index);
    if (plugin == nullptr) break;
    library->plugins.push_back(plugin);
  }
  if (library->plugins.empty()) library->faults.push_back("xh_plugin_v1(host, 0) is NULL: no plugin is in the library");
  if (entry(&TestHost(), kMostPlugins) != nullptr) {
    library->faults.push_back("xh_plugin_v1 gives a plugin for an index past the last; NULL is expected");
  }
}

void CheckNames(PluginLibrary* library) {
  std::set<std::pair<int32_t, std::string>> seen;
  for (const xh_plugin* plugin : library->plugins) {
    if (!seen.emplace(plugin->kind, plugin->name).second) {
      library->faults.push_back(std::string(plugin->name) + ": two plugins of a kind have this name");
    }
  }
}

}  // namespace

const char* KindName(xh_plugin_kind kind) {
  switch (kind) {
    case XH_PLUGIN_BACKEND:
      return "backend";
    case XH_PLUGIN_STAGE:
      return "stage";
    case XH_PLUGIN_MERGE:
      return "merge";
    default:
      return "text";
  }
}

PluginLibrary LoadPlugins(const std::string& path) {
  PluginLibrary library;
  // Without a slash the loader would search its own directories.
  const std::string file = path.find('/') == std::string::npos ? "./" + path : path;
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    library.cannot_load = dlerror();
    return library;
  }
  const auto entry = reinterpret_cast<xh_plugin_entry>(dlsym(handle, "xh_plugin_v1"));
  if (entry == nullptr) {
    library.faults.push_back("the library does not export xh_plugin_v1");
    return library;
  }
  try {
    Collect(entry, &library);
  } catch (...) {
    library.faults.push_back("xh_plugin_v1 let a C++ exception through");
    return library;
  }
  for (const xh_plugin* plugin : library.plugins) Check(&library.faults).Plugin(*plugin);
  if (library.faults.empty()) CheckNames(&library);
  return library;
}

}  // namespace xh::test
