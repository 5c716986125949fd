// Which key/value heads a student keeps at unlimited window: what a probe writes and a distillation starts from.
#ifndef XHYBRID_CORE_PROBE_PLAN_H_
#define XHYBRID_CORE_PROBE_PLAN_H_

#include <string>
#include <vector>

#include "core/model/config.h"
#include "core/probe/ablation.h"
#include "nlohmann/json.hpp"

namespace xh {

struct Plan {
  int32_t window = 0;
  int32_t sinks = 0;
  Mask kept;  // [layer][key/value head]
};

// Bytes that a token of context adds to the state of one sequence: keys and values of the kept heads.
int64_t BytesPerToken(const ModelConfig& config, const Mask& kept, xh_dtype dtype);

// {"format": 1, "model": {sizes}, "window", "sinks", "keep": [{"layer": 4, "heads": [0]}]}
nlohmann::json PlanToJson(const ModelConfig& config, const Plan& plan);
// Incompatible when the plan is for a model of other sizes, by the field; InvalidArgument for a layer or head that does
// not exist. Other keys (what a probe measured) are passed over.
StatusOr<Plan> PlanFromJson(const ModelConfig& config, const nlohmann::json& object, const std::string& where);

// Options of a new student (kStudentSchema) with the plan's window, sinks and kept heads under those of `given`, which
// stand where both say something. InvalidArgument when `given` names a layer that the plan keeps heads of.
StatusOr<nlohmann::json> StudentOptions(const Plan& plan, const nlohmann::json& given, const std::string& where);

}  // namespace xh

#endif  // XHYBRID_CORE_PROBE_PLAN_H_
