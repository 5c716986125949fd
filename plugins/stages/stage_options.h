// Reading the options that the host passes to a stage.
#ifndef XHYBRID_PLUGINS_STAGES_STAGE_OPTIONS_H_
#define XHYBRID_PLUGINS_STAGES_STAGE_OPTIONS_H_

#include <cstring>

#include "xhybrid_plugin.h"

namespace xh_stages {

// The option of that key, NULL when it was not passed. Borrowed from `options`.
inline const xh_option* FindOption(const xh_option* options, int64_t count, const char* key) {
  for (int64_t i = 0; i < count; ++i) {
    if (options[i].key != nullptr && std::strcmp(options[i].key, key) == 0) return &options[i];
  }
  return nullptr;
}

// The host passes every option of the schema; whoever calls the plugin without it gets the schema's default.
inline double RealOption(const xh_option* options, int64_t count, const char* key, double missing) {
  const xh_option* found = FindOption(options, count, key);
  if (found == nullptr) return missing;
  return found->kind == XH_OPTION_INT ? static_cast<double>(found->integer) : found->real;
}

inline int64_t IntOption(const xh_option* options, int64_t count, const char* key, int64_t missing) {
  const xh_option* found = FindOption(options, count, key);
  return found == nullptr ? missing : found->integer;
}

inline const char* TextOption(const xh_option* options, int64_t count, const char* key, const char* missing) {
  const xh_option* found = FindOption(options, count, key);
  return found == nullptr || found->text == nullptr ? missing : found->text;
}

}  // namespace xh_stages

#endif  // XHYBRID_PLUGINS_STAGES_STAGE_OPTIONS_H_
