#include "core/train/html_report.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include "absl/strings/str_format.h"

namespace xh {
namespace {

using nlohmann::json;

constexpr double kWidth = 640, kHeight = 220, kLeft = 70, kBottom = 24, kTop = 8;

struct Point {
  double x, y;
};

std::string Escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '&') {
      out += "&amp;";
    } else {
      out += c;
    }
  }
  return out;
}

// A line through the points with its least and greatest values at the axis.
std::string Plot(const std::string& name, const std::vector<Point>& points) {
  double low = points[0].y, high = points[0].y;
  for (const Point& point : points) {
    low = std::min(low, point.y);
    high = std::max(high, point.y);
  }
  const double span = high > low ? high - low : 1, first = points.front().x;
  const double length = std::max(1.0, points.back().x - first);
  std::string line;
  for (const Point& point : points) {
    const double x = kLeft + (point.x - first) / length * (kWidth - kLeft - 10);
    const double y = kTop + (high - point.y) / span * (kHeight - kTop - kBottom);
    line += absl::StrFormat("%.1f,%.1f ", x, y);
  }
  const double floor = kHeight - kBottom;
  return absl::StrFormat(
      "<figure><figcaption>%s</figcaption><svg viewBox=\"0 0 %g %g\">"
      "<path d=\"M%g %gV%gH%g\" class=\"axis\"/><text x=\"%g\" y=\"%g\" class=\"y\">%.4g</text>"
      "<text x=\"%g\" y=\"%g\" class=\"y\">%.4g</text><text x=\"%g\" y=\"%g\">step %g</text>"
      "<text x=\"%g\" y=\"%g\" class=\"y\">%g</text><polyline points=\"%s\"/></svg></figure>\n",
      Escaped(name), kWidth, kHeight, kLeft, kTop, floor, kWidth - 10, kLeft - 6, kTop + 10, high, kLeft - 6, floor,
      low, kLeft, kHeight - 6, first, kWidth - 10, kHeight - 6, points.back().x, line);
}

std::vector<Point> Series(const std::vector<json>& steps, const std::string& stage, const char* key) {
  std::vector<Point> points;
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
    rows += absl::StrFormat("<tr><td>%d</td><td>%.5f</td><td><div style=\"width:%.0fpx\"></div></td></tr>",
                            layer.value("layer", 0), loss, most > 0 ? 300 * loss / most : 0);
  }
  return "<table><tr><th>layer</th><th>relative loss, last step</th><th></th></tr>" + rows + "</table>\n";
}

constexpr char kHead[] =
    "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>%s</title><style>"
    "body{font:15px sans-serif;max-width:1340px;margin:2em "
    "auto;color:#222}figure{display:inline-block;width:640px;margin:8px}"
    "svg{width:100%%}polyline{fill:none;stroke:#1f6fb4;stroke-width:1.5}.axis{fill:none;stroke:#999}"
    "text{font-size:11px;fill:#555}.y{text-anchor:end}td,th{padding:2px 12px;text-align:left}"
    "td div{height:10px;background:#1f6fb4}</style><h1>%s</h1>\n";

}  // namespace

std::string HtmlReport(const std::string& title, const std::vector<json>& steps) {
  std::string page = absl::StrFormat(kHead, Escaped(title), Escaped(title));
  std::vector<std::string> stages;
  for (const json& step : steps) {
    const std::string stage = step.value("stage", "");
    if (stages.empty() || stages.back() != stage) stages.push_back(stage);
  }
  for (const std::string& stage : stages) {
    page += "<h2>" + Escaped(stage) + "</h2>\n";
    for (const char* key :
         {"loss", "relative_loss", "cross_entropy", "kl", "learning_rate", "gradient_norm", "tokens_per_second"}) {
      const std::vector<Point> points = Series(steps, stage, key);
      if (!points.empty()) page += Plot(key, points);
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
  for (std::string line; std::getline(metrics, line);) {
    json step = json::parse(line, nullptr, false);
    if (step.is_object()) steps.push_back(std::move(step));
  }
  const std::string path = directory + "/report.html";
  std::ofstream page(path);
  page << HtmlReport(directory, steps);
  page.close();
  return page ? absl::OkStatus() : IoError(path, " cannot be written");
}

}  // namespace xh
