// The importance of every layer and head as a page that needs nothing else.
#ifndef XHYBRID_CORE_PROBE_HEAT_MAP_H_
#define XHYBRID_CORE_PROBE_HEAT_MAP_H_

#include <string>

#include "nlohmann/json.hpp"

namespace xh {

// `result`: what a probe gives. Rows are layers, columns key/value heads; heads that were not looked at one by one have
// their layer's colour, kept ones a frame.
std::string HeatMap(const nlohmann::json& result);

}  // namespace xh

#endif  // XHYBRID_CORE_PROBE_HEAT_MAP_H_
