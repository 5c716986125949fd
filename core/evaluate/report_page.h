// An evaluation as a page to look at: Win-and-Tie curves, recall over length, gates, what memory buys.
#ifndef XHYBRID_CORE_EVALUATE_REPORT_PAGE_H_
#define XHYBRID_CORE_EVALUATE_REPORT_PAGE_H_

#include <string>

#include "core/error.h"
#include "nlohmann/json.hpp"

namespace xh {

// `result`: what an evaluation gives. The page needs nothing else.
std::string ReportPage(const nlohmann::json& result);
Status WriteReportPage(const std::string& path, const nlohmann::json& result);

}  // namespace xh

#endif  // XHYBRID_CORE_EVALUATE_REPORT_PAGE_H_
