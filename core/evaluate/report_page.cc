#include "core/evaluate/report_page.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <set>

#include "core/format.h"
#include "core/plot.h"

namespace xh {
namespace {

using nlohmann::json;

std::string Name(const json& model) { return model["name"].get<std::string>(); }

std::string WinAndTieCurves(const json& models) {
  std::vector<PlotSeries> series;
  for (const json& model : models) {
    if (!model.contains("c_alpha")) continue;
    series.push_back({Name(model), {}});
    for (size_t percent = 0; percent < model["c_alpha"].size(); ++percent) {
      series.back().points.push_back({static_cast<double>(percent) / 100, model["c_alpha"][percent].get<double>()});
    }
  }
  PlotOptions options{"Win-and-Tie rate C over alpha, the allowed relative loss", "alpha"};
  options.high = 1;
  return LinePlot(options, series);
}

// Accuracy at each length, over all depths.
std::vector<PlotPoint> OverLength(const json& cells) {
  std::map<int64_t, std::pair<double, double>> sums;  // right answers and questions
  for (const json& cell : cells) {
    auto& [right, asked] = sums[cell["length"].get<int64_t>()];
    right += cell["accuracy"].get<double>() * cell["samples"].get<double>();
    asked += cell["samples"].get<double>();
  }
  std::vector<PlotPoint> points;
  for (const auto& [length, sum] : sums) points.push_back({static_cast<double>(length), sum.first / sum.second});
  return points;
}

std::string DepthGrid(const json& cells) {
  std::map<double, std::vector<HeatCell>> rows;
  for (const json& cell : cells) {
    const double accuracy = cell["accuracy"].get<double>();
    rows[cell["depth"].get<double>()].push_back(
        {accuracy,
         Format("%d tokens, depth %g: %.3f", cell["length"].get<int64_t>(), cell["depth"].get<double>(), accuracy)});
  }
  std::vector<std::string> names;
  std::vector<std::vector<HeatCell>> grid;
  for (auto& [depth, row] : rows) {
    names.push_back(Format("depth %g", depth));
    grid.push_back(std::move(row));
  }
  return HeatGrid("length, shortest first", names, grid);
}

std::string RecallOverLength(const json& models, size_t task) {
  if (!models[0]["tasks"][task].contains("cells")) return "";
  const std::string name = models[0]["tasks"][task]["task"];
  std::vector<PlotSeries> series;
  std::string grids;
  for (const json& model : models) {
    const json& cells = model["tasks"][task]["cells"];
    series.push_back({Name(model), OverLength(cells)});
    grids += "<h3>" + HtmlEscaped(Name(model)) + "</h3>\n" + DepthGrid(cells);
  }
  PlotOptions options{name + ": accuracy over length, mean of all depths", "tokens"};
  options.log_x = options.marks_every_x = true;
  options.high = 1;
  return "<h2>" + HtmlEscaped(name) + "</h2>\n" + LinePlot(options, series) + grids;
}

std::string Gates(const json& model) {
  if (!model.contains("gates")) return "";
  std::vector<std::string> names;
  std::vector<std::vector<HeatCell>> grid;
  for (size_t layer = 0; layer < model["gates"].size(); ++layer) {
    names.push_back(Format("layer %d", layer));
    grid.emplace_back();
    for (const json& gate : model["gates"][layer]) {
      const double mean = gate.is_number() ? gate.get<double>() : 0;
      grid.back().push_back({mean,
                             gate.is_number() ? Format("layer %d head %d: %.3f", layer, grid.back().size(), mean)
                                              : std::string("no mLSTM"),
                             !gate.is_number()});
    }
  }
  return "<h3>" + HtmlEscaped(Name(model)) + "</h3>\n" + HeatGrid("query heads", names, grid);
}

// What students of different memory answer, where there are at least three.
std::string OverMemory(const json& models) {
  std::map<std::string, PlotSeries> series;
  std::set<double> sizes;
  for (const json& model : models) {
    const json& state = model["state"];  // in bytes of this model's dtype: only shares compare
    const double share = state["bytes_per_token"].get<double>() / state["teacher_bytes_per_token"].get<double>();
    sizes.insert(share);
    for (const json& task : model["tasks"]) {
      if (!task.contains("accuracy")) continue;
      series[task["task"]].points.push_back({share, task["accuracy"].get<double>()});
    }
    if (model.contains("alpha_star")) series["alpha*"].points.push_back({share, model["alpha_star"].get<double>()});
  }
  if (sizes.size() < 3) return "";
  std::vector<PlotSeries> lines;
  for (auto& [name, line] : series) {
    std::stable_sort(line.points.begin(), line.points.end(),
                     [](const PlotPoint& a, const PlotPoint& b) { return a.x < b.x; });
    lines.push_back({name, std::move(line.points)});
  }
  PlotOptions options{"Accuracy and alpha* over the bytes a token adds to the state", "share of the teacher's"};
  options.marks_every_x = true;
  options.high = 1;
  return LinePlot(options, lines);
}

}  // namespace

std::string ReportPage(const json& result) {
  const json& models = result["models"];
  std::string page = PageHead("Evaluation against " + Name(models[0])) + WinAndTieCurves(models) + OverMemory(models);
  for (size_t task = 0; task < models[0]["tasks"].size(); ++task) page += RecallOverLength(models, task);
  std::string gates;
  for (const json& model : models) gates += Gates(model);
  if (!gates.empty()) page += "<h2>Mean gate: 0 is the window, 1 the mLSTM</h2>\n" + gates;
  return page + "</html>\n";
}

Status WriteReportPage(const std::string& path, const json& result) {
  std::ofstream page(path);
  page << ReportPage(result);
  page.close();
  return page ? absl::OkStatus() : IoError("the page ", path, " cannot be written");
}

}  // namespace xh
