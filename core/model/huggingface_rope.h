// The rotary embedding of a Hugging Face config.json, in the spellings of transformers 4 and 5.
#ifndef XHYBRID_CORE_MODEL_HUGGINGFACE_ROPE_H_
#define XHYBRID_CORE_MODEL_HUGGINGFACE_ROPE_H_

#include <string>

#include "core/json_fields.h"
#include "core/model/config.h"

namespace xh {

// What a family and its config say before the rotary embedding is read.
struct RopeDefaults {
  double theta = 10000.0;
  int64_t context = 0;    // max_position_embeddings
  bool by_layer = false;  // sliding-window layers have a rotary embedding of their own
};

// rope_theta with rope_scaling (4), or rope_parameters (5), of all layers or one object a kind of layer. In the
// spelling of 4 a scaling concerns the layers with full attention alone. Unsupported for a rope type that is not known
// here.
Status ReadHuggingFaceRope(JsonFields& fields, const std::string& where, const RopeDefaults& defaults, RopeConfig* full,
                           RopeConfig* sliding);

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_HUGGINGFACE_ROPE_H_
