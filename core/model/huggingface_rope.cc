#include "core/model/huggingface_rope.h"

#include <cmath>

#include "core/checkpoint/names.h"
#include "core/model/limits.h"
#include "nlohmann/json.hpp"

namespace xh {
namespace {

using nlohmann::json;

constexpr char kFullAttention[] = "full_attention";
constexpr char kSlidingAttention[] = "sliding_attention";

// What YaRN multiplies attention's logits with, by the paper's fit.
double YarnMagnitude(double factor, double scale) { return factor > 1 ? 0.1 * scale * std::log(factor) + 1 : 1; }

Status ReadYarn(JsonFields& fields, RopeConfig* rope) {
  XH_ASSIGN_OR_RETURN(const double beta_fast, fields.Real("beta_fast", 0, kMostRopeFactor, 0));
  XH_ASSIGN_OR_RETURN(const double beta_slow, fields.Real("beta_slow", 0, kMostRopeFactor, 0));
  if (beta_fast > 0) rope->beta_fast = beta_fast;
  if (beta_slow > 0) rope->beta_slow = beta_slow;
  XH_ASSIGN_OR_RETURN(rope->truncate, fields.Bool("truncate", true));
  XH_ASSIGN_OR_RETURN(const double scale, fields.Real("mscale", 0, kMostRopeFactor, 0));
  XH_ASSIGN_OR_RETURN(const double scale_all, fields.Real("mscale_all_dim", 0, kMostRopeFactor, 0));
  const double magnitude = scale > 0 && scale_all > 0
                               ? YarnMagnitude(rope->factor, scale) / YarnMagnitude(rope->factor, scale_all)
                               : YarnMagnitude(rope->factor, 1);
  XH_ASSIGN_OR_RETURN(rope->attention_factor, fields.Real("attention_factor", 0, kMostRopeFactor, magnitude));
  return absl::OkStatus();
}

// The fields of one scaling; rope->theta and rope->original_context hold what is taken where they are missing.
Status ReadScaling(JsonFields& fields, const std::string& where, int64_t context, RopeConfig* rope) {
  XH_ASSIGN_OR_RETURN(rope->theta, fields.Real("rope_theta", 1, kMostTheta, rope->theta));
  XH_ASSIGN_OR_RETURN(const double rotary, fields.Real("partial_rotary_factor", 0, 1, 1.0));
  if (rotary != 1) return Unsupported(where, ": \"partial_rotary_factor\" is ", rotary, "; allowed: 1");
  const char* key = fields.Has("rope_type") ? "rope_type" : "type";  // the older spelling
  XH_ASSIGN_OR_RETURN(rope->type, fields.Text(key, "default"));
  if (rope->type == "default") return absl::OkStatus();
  const bool known = rope->type == "linear" || rope->type == "llama3" || rope->type == "yarn";
  if (!known) {
    return Unsupported(where, ": \"", key, "\" is ", Quoted(rope->type),
                       R"(; allowed: "default", "linear", "llama3", "yarn")");
  }
  if (rope->type != "linear") {
    const int64_t missing = rope->original_context > 0 ? rope->original_context : context;
    XH_ASSIGN_OR_RETURN(rope->original_context,
                        fields.Int("original_max_position_embeddings", 1, kMostPositions, missing));
  }
  if (rope->type == "yarn" && !fields.Has("factor")) {
    rope->factor = static_cast<double>(context) / static_cast<double>(rope->original_context);
  } else {
    XH_ASSIGN_OR_RETURN(rope->factor, fields.Real("factor", 1, kMostRopeFactor));
  }
  if (rope->type == "yarn") return ReadYarn(fields, rope);
  if (rope->type == "linear") return absl::OkStatus();
  XH_ASSIGN_OR_RETURN(rope->low_freq_factor, fields.Real("low_freq_factor", 0, kMostRopeFactor));
  XH_ASSIGN_OR_RETURN(rope->high_freq_factor, fields.Real("high_freq_factor", 0, kMostRopeFactor));
  return absl::OkStatus();
}

Status ReadObject(const json* object, const std::string& where, int64_t context, RopeConfig* rope) {
  if (object == nullptr) return absl::OkStatus();
  JsonFields fields(object, where);
  return ReadScaling(fields, where, context, rope);
}

bool IsByLayer(const json& object) {
  return object.is_object() && (object.contains(kFullAttention) || object.contains(kSlidingAttention));
}

}  // namespace

Status ReadHuggingFaceRope(JsonFields& fields, const std::string& where, const RopeDefaults& defaults, RopeConfig* full,
                           RopeConfig* sliding) {
  XH_ASSIGN_OR_RETURN(full->theta, fields.Real("rope_theta", 1, kMostTheta, defaults.theta));
  XH_ASSIGN_OR_RETURN(full->original_context, fields.Int("original_max_position_embeddings", 0, kMostPositions, 0));
  *sliding = *full;
  const char* key = fields.Has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  const json* object = fields.Get(key);
  if (object != nullptr) {
    const std::string place = absl::StrCat(where, ": ", key);
    if (!IsByLayer(*object)) {
      XH_RETURN_IF_ERROR(ReadObject(object, place, defaults.context, full));
      sliding->theta = full->theta;
    } else if (!defaults.by_layer) {
      return Unsupported(place, " holds objects by kind of layer; allowed in this family: one for all layers");
    } else {
      JsonFields kinds(object, place);
      XH_RETURN_IF_ERROR(ReadObject(kinds.Get(kFullAttention), place + ": full_attention", defaults.context, full));
      XH_RETURN_IF_ERROR(
          ReadObject(kinds.Get(kSlidingAttention), place + ": sliding_attention", defaults.context, sliding));
    }
  }
  for (RopeConfig* rope : {full, sliding}) {
    if (rope->type == "default" || rope->type == "linear") rope->original_context = 0;
  }
  if (!defaults.by_layer) *sliding = *full;
  return absl::OkStatus();
}

}  // namespace xh
