#include "core/plot.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/format.h"

namespace xh {
namespace {

constexpr double kWidth = 640, kHeight = 220, kLeft = 70, kRight = 10, kBottom = 24, kTop = 8;
constexpr int kCell = 28, kGridLeft = 110, kGridTop = 28;
// Told apart by people who see red and green alike.
constexpr const char* kColours[] = {"#1f6fb4", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555"};

// Places of values on the paper.
struct Axes {
  double first, last, low, high;
  bool log_x;

  double X(double x) const {
    const double from = log_x ? std::log(first) : first, to = log_x ? std::log(last) : last;
    const double share = to > from ? ((log_x ? std::log(x) : x) - from) / (to - from) : 0;
    return kLeft + share * (kWidth - kLeft - kRight);
  }
  double Y(double y) const { return kTop + (high - y) / (high > low ? high - low : 1) * (kHeight - kTop - kBottom); }
};

Axes AxesOf(const PlotOptions& options, const std::vector<PlotSeries>& series) {
  Axes axes{HUGE_VAL, -HUGE_VAL, HUGE_VAL, -HUGE_VAL, options.log_x};
  for (const PlotSeries& line : series) {
    for (const PlotPoint& point : line.points) {
      axes.first = std::min(axes.first, point.x);
      axes.last = std::max(axes.last, point.x);
      axes.low = std::min(axes.low, point.y);
      axes.high = std::max(axes.high, point.y);
    }
  }
  if (options.high > options.low) axes.low = options.low, axes.high = options.high;
  return axes;
}

std::string Line(const Axes& axes, const PlotSeries& series, const char* colour) {
  std::string points;
  for (const PlotPoint& point : series.points) {
    points += Format("%.1f,%.1f ", axes.X(point.x), axes.Y(point.y));
  }
  return Format("<polyline points=\"%s\" stroke=\"%s\"/>", points, colour);
}

std::string AxisLabels(const Axes& axes, const PlotOptions& options, const PlotSeries& longest) {
  const double floor = kHeight - kBottom;
  std::string out = Format(
      "<path d=\"M%g %gV%gH%g\" class=\"axis\"/><text x=\"%g\" y=\"%g\" class=\"y\">%.4g</text>"
      "<text x=\"%g\" y=\"%g\" class=\"y\">%.4g</text>",
      kLeft, kTop, floor, kWidth - kRight, kLeft - 6, kTop + 10, axes.high, kLeft - 6, floor, axes.low);
  if (!options.marks_every_x) {
    return out + Format("<text x=\"%g\" y=\"%g\">%s %g</text><text x=\"%g\" y=\"%g\" class=\"y\">%g</text>", kLeft,
                        kHeight - 6, HtmlEscaped(options.x_name), axes.first, kWidth - kRight, kHeight - 6, axes.last);
  }
  out += Format("<text x=\"2\" y=\"%g\">%s</text>", kHeight - 6, HtmlEscaped(options.x_name));
  for (const PlotPoint& point : longest.points) {
    out += Format("<text x=\"%.1f\" y=\"%g\" class=\"y\">%g</text>", axes.X(point.x), kHeight - 6, point.x);
  }
  return out;
}

std::string Legend(const std::vector<PlotSeries>& series) {
  if (series.size() < 2) return "";
  std::string out = "<figcaption class=\"legend\">";
  for (size_t i = 0; i < series.size(); ++i) {
    out += Format("<span style=\"color:%s\">&#9644; %s</span> ", kColours[i % std::size(kColours)],
                  HtmlEscaped(series[i].name));
  }
  return out + "</figcaption>";
}

std::string Colour(double share) {
  const double s = std::clamp(share, 0.0, 1.0);
  return Format("rgb(%d,%d,%d)", static_cast<int>(255 - 235 * s), static_cast<int>(255 - 195 * s),
                static_cast<int>(255 - 115 * s));
}

std::string Cell(size_t row, size_t column, const HeatCell& cell) {
  return Format(
      "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\" stroke=\"%s\" stroke-width=\"%d\">"
      "<title>%s</title></rect>\n",
      kGridLeft + static_cast<int>(column) * kCell, kGridTop + static_cast<int>(row) * kCell, kCell - 3, kCell - 3,
      Colour(cell.share), cell.framed ? "#c33" : "#ccc", cell.framed ? 3 : 1, HtmlEscaped(cell.hint));
}

constexpr char kHead[] =
    "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>%s</title><style>"
    "body{font:15px sans-serif;max-width:1340px;margin:2em auto;color:#222}"
    "figure{display:inline-block;width:640px;margin:8px}figure svg{width:100%%}.legend span{margin-right:1em}"
    "polyline{fill:none;stroke-width:1.5}.axis{fill:none;stroke:#999}text{font-size:11px;fill:#555}"
    ".y{text-anchor:end}td,th{padding:2px 12px;text-align:left}td div{height:10px;background:#1f6fb4}"
    "</style><h1>%s</h1>\n";

}  // namespace

std::string LinePlot(const PlotOptions& options, const std::vector<PlotSeries>& series) {
  const auto longest = std::max_element(series.begin(), series.end(), [](const PlotSeries& a, const PlotSeries& b) {
    return a.points.size() < b.points.size();
  });
  if (longest == series.end() || longest->points.empty()) return "";
  const Axes axes = AxesOf(options, series);
  std::string lines;
  for (size_t i = 0; i < series.size(); ++i) lines += Line(axes, series[i], kColours[i % std::size(kColours)]);
  return Format("<figure><figcaption>%s</figcaption><svg viewBox=\"0 0 %g %g\">%s%s</svg>%s</figure>\n",
                HtmlEscaped(options.title), kWidth, kHeight, AxisLabels(axes, options, *longest), lines,
                Legend(series));
}

std::string HeatGrid(const std::string& columns, const std::vector<std::string>& rows,
                     const std::vector<std::vector<HeatCell>>& cells) {
  std::string out;
  size_t widest = 0;
  for (size_t row = 0; row < rows.size(); ++row) {
    out += Format("<text x=\"4\" y=\"%d\">%s</text>\n", kGridTop + static_cast<int>(row) * kCell + 17,
                  HtmlEscaped(rows[row]));
    for (size_t column = 0; column < cells[row].size(); ++column) out += Cell(row, column, cells[row][column]);
    widest = std::max(widest, cells[row].size());
  }
  const int width = kGridLeft + std::max(static_cast<int>(widest) * kCell, 160);
  return Format("<svg width=\"%d\" height=\"%d\"><text x=\"%d\" y=\"18\">%s</text>\n%s</svg>\n", width,
                kGridTop + static_cast<int>(rows.size()) * kCell + 4, kGridLeft, HtmlEscaped(columns), out);
}

StatusOr<std::string> PageBeside(const std::string& path) {
  const std::string page = std::filesystem::path(path).replace_extension(".html").string();
  if (page != path) return page;
  return InvalidArgument("\"output\" is \"", path,
                         "\", where the page of plots goes; allowed: another ending, NAME.json");
}

std::string PageHead(const std::string& title) { return Format(kHead, HtmlEscaped(title), HtmlEscaped(title)); }

std::string HtmlEscaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '"') {
      out += "&quot;";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace xh
