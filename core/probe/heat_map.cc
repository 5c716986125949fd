#include "core/probe/heat_map.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/format.h"
#include "core/plot.h"

namespace xh {
namespace {

using nlohmann::json;

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

}  // namespace

std::string HeatMap(const json& result) {
  const json& plan = result["plan"];
  const int64_t heads = plan["model"]["kv_heads"].get<int64_t>();
  std::vector<std::string> rows;
  std::vector<std::vector<HeatCell>> cells;
  for (const json& layer : result["layers"]) {
    const int64_t l = layer["layer"].get<int64_t>();
    rows.push_back(absl::StrCat("layer ", l));
    cells.emplace_back();
    for (int64_t h = 0; h < heads; ++h) {
      const json* entry = &layer;
      for (const json& head : result["heads"]) {
        if (head["layer"] == l && head["head"] == h) entry = &head;
      }
      const std::string hint = Format("layer %d head %d: gain %.3f, drop %.3f", l, h, (*entry)["gain"].get<double>(),
                                      (*entry)["drop"].get<double>());
      cells.back().push_back({Weight(*entry), hint, IsKept(plan, l, h)});
    }
  }
  return PageHead("Retrieval by layer and key/value head") +
         Format(
             "<p>Darker: more of the gap in the right answer's log-probability between everything cut to a window of "
             "%d "
             "and everything kept closes when this alone is kept, or opens when it alone is cut. Red frame: kept by "
             "the "
             "plan.</p>\n",
             plan["window"].get<int>()) +
         HeatGrid("key/value heads", rows, cells) + "</html>\n";
}

}  // namespace xh
