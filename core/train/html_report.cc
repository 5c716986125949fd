#include "core/train/html_report.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include "core/checkpoint/file.h"
#include "core/format.h"
#include "core/lines.h"
#include "core/plot.h"

namespace xh {
namespace {

using nlohmann::json;

std::vector<PlotPoint> Series(const std::vector<json>& steps, const std::string& stage, const char* key) {
  std::vector<PlotPoint> points;
  for (const json& step : steps) {
    const auto value = step.find(key);
    if (step.value("stage", "") != stage || value == step.end() || !value->is_number()) continue;
    if (std::isfinite(value->get<double>())) points.push_back({step.value("step", 0.0), value->get<double>()});
  }
  return points;
}

// Relative loss of each layer at the stage's last step, as bars.
std::string LayerTable(const json& last) {
  double most = 0;
  for (const json& layer : last["layers"]) most = std::max(most, layer.value("relative_loss", 0.0));
  std::string rows;
  for (const json& layer : last["layers"]) {
    const double loss = layer.value("relative_loss", 0.0);
    rows += Format("<tr><td>%d</td><td>%.5f</td><td><div style=\"width:%.0fpx\"></div></td></tr>",
                   layer.value("layer", 0), loss, most > 0 ? 300 * loss / most : 0);
  }
  return "<table><tr><th>layer</th><th>relative loss, last step</th><th></th></tr>" + rows + "</table>\n";
}

}  // namespace

std::string HtmlReport(const std::string& title, const std::vector<json>& steps) {
  std::string page = PageHead(title);
  std::vector<std::string> stages;
  for (const json& step : steps) {
    const std::string stage = step.value("stage", "");
    if (stages.empty() || stages.back() != stage) stages.push_back(stage);
  }
  for (const std::string& stage : stages) {
    page += "<h2>" + HtmlEscaped(stage) + "</h2>\n";
    for (const char* key :
         {"loss", "relative_loss", "cross_entropy", "kl", "learning_rate", "gradient_norm", "tokens_per_second"}) {
      const std::vector<PlotPoint> points = Series(steps, stage, key);
      page += LinePlot({key, "step"}, {{key, points}});
    }
    const auto last =
        std::find_if(steps.rbegin(), steps.rend(), [&](const json& step) { return step.value("stage", "") == stage; });
    if (last->contains("layers")) page += LayerTable(*last);
  }
  return page + "</html>\n";
}

Status WriteHtmlReport(const std::string& directory) {
  std::ifstream metrics(directory + "/metrics.jsonl");
  std::vector<json> steps;
  for (std::string line;;) {
    XH_ASSIGN_OR_RETURN(const bool more, NextLine(metrics, directory + "/metrics.jsonl", &line));
    if (!more) break;
    json step = json::parse(line, nullptr, false);
    if (step.is_object()) steps.push_back(std::move(step));
  }
  const std::string path = directory + "/report.html";
  std::ofstream page(path);
  page << HtmlReport(directory, steps);
  page.close();
  return page ? absl::OkStatus() : SystemError("write", path);
}

}  // namespace xh
