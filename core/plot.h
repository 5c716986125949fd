// Plots as SVG text, for pages that need nothing else.
#ifndef XHYBRID_CORE_PLOT_H_
#define XHYBRID_CORE_PLOT_H_

#include <string>
#include <vector>

#include "core/error.h"

namespace xh {

struct PlotPoint {
  double x, y;
};
struct PlotSeries {
  std::string name;  // in the legend, where there are several
  std::vector<PlotPoint> points;
};
struct PlotOptions {
  std::string title, x_name;
  bool log_x = false;          // every x is then above 0
  double low = 0, high = 0;    // of the y axis; equal: what the points reach
  bool marks_every_x = false;  // a label at each x of the first series instead of the two ends
};
// Lines through points as a <figure>. "" without points.
std::string LinePlot(const PlotOptions& options, const std::vector<PlotSeries>& series);

struct HeatCell {
  double share = 0;  // white at 0, dark at 1
  std::string hint;  // shown under the pointer
  bool framed = false;
};
// A grid of cells with a name for each row, as <svg>. Rows may differ in length.
std::string HeatGrid(const std::string& columns, const std::vector<std::string>& rows,
                     const std::vector<std::vector<HeatCell>>& cells);

// Where the page of a result lies: NAME.html beside NAME.json. InvalidArgument when the result has that name itself.
StatusOr<std::string> PageBeside(const std::string& path);
// From <!doctype> to the heading; the page ends with "</html>".
std::string PageHead(const std::string& title);
std::string HtmlEscaped(const std::string& text);

}  // namespace xh

#endif  // XHYBRID_CORE_PLOT_H_
