#include "core/plugin_check.h"

#include <cstddef>

#include "core/options.h"

namespace xh {
namespace {

struct Slot {
  const char* name;
  bool filled;
};

Status CheckSlots(const char* table, std::initializer_list<Slot> slots) {
  for (const Slot& slot : slots) {
    if (!slot.filled) return Incompatible(table, ".", slot.name, " is NULL");
  }
  return absl::OkStatus();
}

#define XH_SLOT(table, name) \
  Slot { #name, (table).name != nullptr }

Status CheckBackend(const xh_backend& t) {
  XH_RETURN_IF_ERROR(
      CheckSlots("xh_backend",
                 {XH_SLOT(t, device_count), XH_SLOT(t, device_open), XH_SLOT(t, device_close), XH_SLOT(t, device_query),
                  XH_SLOT(t, allocate), XH_SLOT(t, release), XH_SLOT(t, stream_open), XH_SLOT(t, stream_close),
                  XH_SLOT(t, record), XH_SLOT(t, wait), XH_SLOT(t, event_close), XH_SLOT(t, synchronize),
                  XH_SLOT(t, copy), XH_SLOT(t, plan_open), XH_SLOT(t, plan_close), XH_SLOT(t, plan_run)}));
  if (!XH_COVERS(xh_backend, &t, capture_close)) return absl::OkStatus();
  const int filled = (t.capture_begin != nullptr) + (t.capture_end != nullptr) + (t.capture_replay != nullptr) +
                     (t.capture_close != nullptr);
  if (filled == 0 || filled == 4) return absl::OkStatus();
  return Incompatible("xh_backend has ", filled, " of the four capture_* slots; allowed: all or none");
}

Status CheckStage(const xh_stage_table& t) {
  if ((t.save == nullptr) != (t.restore == nullptr)) {
    return Incompatible("xh_stage_table has only one of save and restore");
  }
  XH_RETURN_IF_ERROR(CheckSlots(
      "xh_stage_table", {XH_SLOT(t, options_schema), XH_SLOT(t, open), XH_SLOT(t, declare), XH_SLOT(t, close)}));
  return CheckSchema(t.options_schema, "xh_stage_table.options_schema");
}

Status CheckMerge(const xh_merge_table& t) {
  constexpr uint32_t kKnown = XH_MERGE_ELEMENTWISE | XH_MERGE_NEEDS_BASE | XH_MERGE_TWO_PASS;
  if ((t.traits & ~kKnown) != 0) return Incompatible("xh_merge_table.traits is ", t.traits, "; known bits: ", kKnown);
  if ((t.traits & XH_MERGE_TWO_PASS) != 0 && t.observe == nullptr) {
    return Incompatible("xh_merge_table.observe is NULL in a two-pass merge");
  }
  if (t.min_models < 1 || t.max_models < 0 || (t.max_models != 0 && t.max_models < t.min_models)) {
    return Incompatible("xh_merge_table takes ", t.min_models, " to ", t.max_models, " models");
  }
  XH_RETURN_IF_ERROR(CheckSlots(
      "xh_merge_table", {XH_SLOT(t, options_schema), XH_SLOT(t, open), XH_SLOT(t, combine), XH_SLOT(t, close)}));
  return CheckSchema(t.options_schema, "xh_merge_table.options_schema");
}

Status CheckText(const xh_text_table& t) {
  return CheckSlots("xh_text_table",
                    {XH_SLOT(t, main_file), XH_SLOT(t, open), XH_SLOT(t, close), XH_SLOT(t, vocab_size),
                     XH_SLOT(t, encode), XH_SLOT(t, decode), XH_SLOT(t, special), XH_SLOT(t, stream_open),
                     XH_SLOT(t, stream_push), XH_SLOT(t, stream_close), XH_SLOT(t, render)});
}

#undef XH_SLOT

// A table that ends before the slots that may be absent.
constexpr size_t kOldestBackend = offsetof(xh_backend, capture_begin);

// The table's first field is its struct_size, whatever the kind.
Status CheckTableSize(const xh_plugin& plugin, const char* table, size_t size) {
  uint32_t given = *static_cast<const uint32_t*>(plugin.table);
  if (given < size) return Incompatible(table, ".struct_size is ", given, "; this library needs ", size);
  return absl::OkStatus();
}

Status CheckTable(const xh_plugin& plugin) {
  switch (plugin.kind) {
    case XH_PLUGIN_BACKEND:
      XH_RETURN_IF_ERROR(CheckTableSize(plugin, "xh_backend", kOldestBackend));
      return CheckBackend(*static_cast<const xh_backend*>(plugin.table));
    case XH_PLUGIN_STAGE:
      XH_RETURN_IF_ERROR(CheckTableSize(plugin, "xh_stage_table", sizeof(xh_stage_table)));
      return CheckStage(*static_cast<const xh_stage_table*>(plugin.table));
    case XH_PLUGIN_MERGE:
      XH_RETURN_IF_ERROR(CheckTableSize(plugin, "xh_merge_table", sizeof(xh_merge_table)));
      return CheckMerge(*static_cast<const xh_merge_table*>(plugin.table));
    case XH_PLUGIN_TEXT:
      XH_RETURN_IF_ERROR(CheckTableSize(plugin, "xh_text_table", sizeof(xh_text_table)));
      return CheckText(*static_cast<const xh_text_table*>(plugin.table));
    default:
      return Incompatible("plugin kind ", plugin.kind, " is not known");
  }
}

std::string VersionText(uint32_t abi) { return absl::StrCat(abi >> 16, ".", abi & 0xffff); }

}  // namespace

Status CheckPlugin(const xh_plugin& plugin) {
  if (plugin.struct_size < sizeof(xh_plugin)) {
    return Incompatible("xh_plugin.struct_size is ", plugin.struct_size, "; this library needs ", sizeof(xh_plugin));
  }
  if (plugin.abi == 0) return Incompatible("xh_plugin.abi is 0; set it to XH_ABI_VERSION");
  if (plugin.abi >> 16 != XH_ABI_MAJOR || plugin.abi > XH_ABI_VERSION) {
    return Incompatible("built for ABI ", VersionText(plugin.abi), ", this library has ", VersionText(XH_ABI_VERSION));
  }
  if (plugin.name == nullptr || plugin.name[0] == '\0') return Incompatible("xh_plugin.name is empty");
  if (plugin.version == nullptr || plugin.license == nullptr) {
    return Incompatible("xh_plugin.version or .license of ", plugin.name, " is NULL");
  }
  if (plugin.score < 0) return Incompatible("xh_plugin.score of ", plugin.name, " is ", plugin.score);
  if (plugin.table == nullptr) return Incompatible("xh_plugin.table of ", plugin.name, " is NULL");
  return Annotate(CheckTable(plugin), plugin.name);
}

}  // namespace xh
