#include "core/probe/heat_map.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace xh {
namespace {

using nlohmann::json;

constexpr int kCell = 28, kLeft = 70, kTop = 40;

// White for nothing, dark blue for the whole gap.
std::string Colour(double share) {
  const double s = std::clamp(share, 0.0, 1.0);
  return absl::StrFormat("rgb(%d,%d,%d)", static_cast<int>(255 - 235 * s), static_cast<int>(255 - 195 * s),
                         static_cast<int>(255 - 115 * s));
}

double Weight(const json& entry) { return std::max(entry["gain"].get<double>(), entry["drop"].get<double>()); }

bool IsKept(const json& plan, int64_t layer, int64_t head) {
  for (const json& entry : plan["keep"]) {
    if (entry["layer"] != layer) continue;
    for (const json& kept : entry["heads"]) {
      if (kept == head) return true;
    }
  }
  return false;
}

std::string Cell(int64_t layer, int64_t head, const json& entry, bool kept) {
  return absl::StrFormat(
      "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\" stroke=\"%s\" stroke-width=\"%d\">"
      "<title>layer %d head %d: gain %.3f, drop %.3f</title></rect>\n",
      kLeft + static_cast<int>(head) * kCell, kTop + static_cast<int>(layer) * kCell, kCell - 3, kCell - 3,
      Colour(Weight(entry)), kept ? "#c33" : "#ccc", kept ? 3 : 1, layer, head, entry["gain"].get<double>(),
      entry["drop"].get<double>());
}

}  // namespace

std::string HeatMap(const json& result) {
  const json& plan = result["plan"];
  const int64_t layers = plan["model"]["layers"].get<int64_t>(), heads = plan["model"]["kv_heads"].get<int64_t>();
  std::string cells;
  for (const json& layer : result["layers"]) {
    const int64_t l = layer["layer"].get<int64_t>();
    absl::StrAppendFormat(&cells, "<text x=\"8\" y=\"%d\">layer %d</text>\n", kTop + static_cast<int>(l) * kCell + 17,
                          l);
    for (int64_t h = 0; h < heads; ++h) {
      const json* entry = &layer;
      for (const json& head : result["heads"]) {
        if (head["layer"] == l && head["head"] == h) entry = &head;
      }
      cells += Cell(l, h, *entry, IsKept(plan, l, h));
    }
  }
  const int width = kLeft + static_cast<int>(heads) * kCell + 20, height = kTop + static_cast<int>(layers) * kCell + 20;
  return absl::StrFormat(
      "<!DOCTYPE html><meta charset=\"utf-8\"><title>Retrieval by layer and head</title>\n"
      "<style>body{font:14px sans-serif;margin:2em;max-width:60em}svg text{font:12px sans-serif}</style>\n"
      "<h1>Retrieval by layer and key/value head</h1>\n"
      "<p>Darker: more of the gap in the right answer's log-probability between everything cut to a window of %d and "
      "everything kept closes when this alone is kept, or opens when it alone is cut. Red frame: kept by the "
      "plan.</p>\n"
      "<svg width=\"%d\" height=\"%d\"><text x=\"%d\" y=\"20\">key/value heads</text>\n%s</svg>\n",
      plan["window"].get<int>(), width, height, kLeft, cells);
}

}  // namespace xh
