// The curves of a run as one HTML page that needs nothing else.
#ifndef XHYBRID_CORE_TRAIN_HTML_REPORT_H_
#define XHYBRID_CORE_TRAIN_HTML_REPORT_H_

#include <string>
#include <vector>

#include "core/error.h"
#include "nlohmann/json.hpp"

namespace xh {

// `steps`: the lines of metrics.jsonl. A plot for each metric and stage, and the relative alignment loss by layer.
std::string HtmlReport(const std::string& title, const std::vector<nlohmann::json>& steps);

// Reads DIRECTORY/metrics.jsonl and writes DIRECTORY/report.html.
Status WriteHtmlReport(const std::string& directory);

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_HTML_REPORT_H_
