// Finds, opens and checks plugins. Plugins stay loaded until the process ends: code may still run at exit.
#ifndef XHYBRID_CORE_REGISTRY_H_
#define XHYBRID_CORE_REGISTRY_H_

#include <string>
#include <vector>

#include "core/error.h"
#include "xhybrid_plugin.h"

namespace xh {

struct LoadedPlugin {
  const xh_plugin* plugin;
  std::string path;
};

// What happened to one place that was searched or one file that was tried.
struct LoadAttempt {
  std::string path;
  std::string outcome;  // "loaded", "no such directory", dlerror text, or why the table was refused
};

class Registry {
 public:
  // Search order: `plugin_path` (directories or files, ':' between), XHYBRID_PLUGIN_PATH, `xhybrid/` beside this
  // library, the installed directory. Never the working directory, never a directory that every user may write to. The
  // first plugin of a kind and name wins. Failures are kept as attempts, not errors.
  static Registry Load(const std::string& plugin_path);

  const std::vector<LoadedPlugin>& plugins() const { return plugins_; }
  const std::vector<LoadAttempt>& attempts() const { return attempts_; }

  // The plugin of a kind and name. When it is missing the error lists what there is and every place that was searched.
  StatusOr<const xh_plugin*> Find(xh_plugin_kind kind, const std::string& name) const;
  // The table of one that can run here; Unsupported with the plugin's reason otherwise.
  StatusOr<const xh_backend*> FindBackend(const std::string& name) const;  // "" takes the highest score
  StatusOr<const xh_stage_table*> FindStage(const std::string& name) const;
  StatusOr<const xh_merge_table*> FindMerge(const std::string& name) const;
  // The text plugin of the highest score whose main file is among `files`. When there is none the error names the
  // plugin that would read them.
  StatusOr<const xh_plugin*> FindText(const std::vector<std::string>& files) const;
  // One line for each known text plugin that is not installed: what it reads and what to install.
  std::vector<std::string> MissingText() const;

 private:
  StatusOr<const void*> FindTable(xh_plugin_kind kind, const std::string& name) const;
  std::string Sought() const;

  std::vector<LoadedPlugin> plugins_;
  std::vector<LoadAttempt> attempts_;
};

const char* PluginKindName(xh_plugin_kind kind);       // "backend", "stage", "merge", "text"
const char* OptionsSchemaOf(const xh_plugin& plugin);  // "" when it has none

}  // namespace xh

#endif  // XHYBRID_CORE_REGISTRY_H_
