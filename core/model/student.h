// How a student begins: its config from a teacher's and options, and the values of its new parameters (SPEC.md 1.3).
#ifndef XHYBRID_CORE_MODEL_STUDENT_H_
#define XHYBRID_CORE_MODEL_STUDENT_H_

#include <string>
#include <vector>

#include "core/error.h"
#include "core/model/config.h"
#include "nlohmann/json.hpp"

namespace xh {

// Options of a student in the format of options.h: "kind", "feature_map", "features" (0: head_dim), "window", "sinks",
// "output_gate_bias", and "layers", a list that overrides them layer by layer:
//   [{"layer": 4, "kind": "attention"}, {"layer": 0, "window": [64, 0], "kind": "window"}]
// In the list, "window" may be a list with one number a key/value head; 0 is unlimited.
extern const char kStudentSchema[];

// The teacher's config with these mixers. `mixer_options` has no other keys; one that is missing takes its default.
StatusOr<ModelConfig> StudentConfig(const ModelConfig& teacher, const nlohmann::json& mixer_options);

// The values a new parameter starts with. Feature maps start as the identity times a scale; where the number of
// features is not head_dim, they are drawn from N(0, 1/head_dim) and scaled, by a generator that the parameter's name
// seeds: the same name and shape give the same values everywhere. InvalidArgument for a parameter that comes from the
// teacher.
StatusOr<std::vector<float>> InitialValue(const ParameterSpec& spec);

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_STUDENT_H_
