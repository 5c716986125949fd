#include "backends/common/requests.h"

#include <climits>
#include <cmath>

namespace xh::backend {
namespace {

constexpr OpSlots kOps[] = {
    {XH_OP_MATMUL, "MATMUL", 3, 1},
    {XH_OP_RMS_NORM, "RMS_NORM", 2, 1},
    {XH_OP_ROPE, "ROPE", 3, 1},
    {XH_OP_ADD, "ADD", 2, 1},
    {XH_OP_SWIGLU, "SWIGLU", 2, 1},
    {XH_OP_EMBED, "EMBED", 2, 1},
    {XH_OP_CAST, "CAST", 1, 1},
    {XH_OP_FILL, "FILL", 0, 1},
    {XH_OP_REDUCE, "REDUCE", 1, 1},
    {XH_OP_TOP_K, "TOP_K", 1, 2},
    {XH_OP_DENSE, "DENSE", 5, 1},
    {XH_OP_MLSTM, "MLSTM", 9, 4},
    {XH_OP_ATTENTION, "ATTENTION", 7, 1},
    {XH_OP_FEATURE_MAP, "FEATURE_MAP", 2, 1},
    {XH_OP_HEAD_GATE, "HEAD_GATE", 5, 1},
    {XH_OP_MIX, "MIX", 3, 1},
    {XH_OP_SELECT_HEADS, "SELECT_HEADS", 1, 1},
    {XH_OP_HYBRID_STEP, "HYBRID_STEP", 16, 1},
    {XH_OP_ALIGN_LOSS, "ALIGN_LOSS", 3, 1},
    {XH_OP_DISTILL_LOSS, "DISTILL_LOSS", 5, 1},
    {XH_OP_ADAMW, "ADAMW", 2, 4},
    {XH_OP_CLIP, "CLIP", 2, 1},
};

int ArgumentCount(const OpSlots& op, xh_pass pass) {
  const int once = op.inputs + op.outputs;
  return pass == XH_BACKWARD ? 2 * once : once;
}

bool IsFloat(xh_dtype dtype) { return dtype == XH_F32 || dtype == XH_BF16; }

}  // namespace

const OpSlots* FindOpSlots(xh_op op) {
  for (const OpSlots& slots : kOps) {
    if (slots.op == op) return &slots;
  }
  return nullptr;
}

Refusal CheckDesc(const OpSlots& op, const xh_op_desc& desc) {
  const std::string where = std::string(op.name) + ": ";
  if (desc.pass < XH_INFER || desc.pass > XH_BACKWARD) {
    return Invalid(where + "pass is " + std::to_string(desc.pass) +
                   ", allowed is INFER (0), FORWARD (1), BACKWARD (2)");
  }
  if (desc.flags != 0) return Unsupported(where + "flags is " + std::to_string(desc.flags) + ", allowed is 0");
  const int expected = ArgumentCount(op, desc.pass);
  if (desc.arg_count != expected || desc.args == nullptr) {
    return Invalid(where + PassName(desc.pass) + " takes " + std::to_string(expected) + " arguments (" +
                   std::to_string(op.inputs) + " inputs and " + std::to_string(op.outputs) + " outputs" +
                   (desc.pass == XH_BACKWARD ? ", then as many gradients" : "") + "), got " +
                   (desc.args == nullptr ? "none" : std::to_string(desc.arg_count)));
  }
  return {};
}

// ---- dense ----

Refusal CheckMatmul(const Request& request, Dims* dims) {
  enum { kX, kW, kBias, kY, kDy, kDx, kDw };
  Refusal refusal = CheckArguments("MATMUL", request,
                                   {{"x", "MK", Type::kFloat, 0},
                                    {"w", "NK", Type::kFloat, kParameter},
                                    {"bias", "N", Type::kFloat, kOptional | kParameter}},
                                   {{"y", "MN", Type::kFloat, 0}}, dims);
  if (refusal.code != 0 || request.pass != XH_BACKWARD) return refusal;
  // Each product reads one of the two, so a frozen weight need not keep x alive.
  if (Present(request.args[kDx]) && !Present(request.args[kW])) {
    return Invalid("MATMUL BACKWARD: w is absent, the gradient of x needs it");
  }
  if (Present(request.args[kDw]) && !Present(request.args[kX])) {
    return Invalid("MATMUL BACKWARD: x is absent, the gradient of w needs it");
  }
  return {};
}

Refusal CheckRmsNorm(const Request& request, Dims* dims, xh_norm_params* params) {
  Refusal refusal = CheckArguments(
      "RMS_NORM", request, {{"x", "MD", Type::kActivation, kNeeded}, {"w", "D", Type::kFloat, kNeeded | kParameter}},
      {{"y", "MD", Type::kActivation, 0}}, dims);
  if (refusal.code != 0) return refusal;
  if (request.pass != XH_BACKWARD || request.params != nullptr) refusal = Params("RMS_NORM", request, params);
  if (refusal.code != 0) return refusal;
  if (!(params->eps >= 0.0f)) {
    return Invalid("RMS_NORM: eps is " + std::to_string(params->eps) + ", at least 0 is allowed");
  }
  return {};
}

Refusal CheckRope(const Request& request, Dims* dims) {
  Refusal refusal = CheckArguments("ROPE", request,
                                   {{"x", "BTHd", Type::kActivation, 0},
                                    {"table", "Pd", Type::kF32, kNeeded | kConstant},
                                    {"position", "B", Type::kI32, kNeeded | kConstant}},
                                   {{"y", "BTHd", Type::kActivation, 0}}, dims);
  if (refusal.code != 0) return refusal;
  if ((*dims)['d'] % 2 == 0) return {};
  return Invalid("ROPE: d is " + std::to_string((*dims)['d']) + ", an even size is needed");
}

Refusal CheckAdd(const Request& request, Dims* dims) {
  return CheckArguments("ADD", request, {{"a", "MD", Type::kActivation, 0}, {"b", "MD", Type::kActivation, 0}},
                        {{"y", "MD", Type::kActivation, 0}}, dims);
}

Refusal CheckSwiglu(const Request& request, Dims* dims) {
  return CheckArguments("SWIGLU", request,
                        {{"gate", "MF", Type::kActivation, kNeeded}, {"up", "MF", Type::kActivation, kNeeded}},
                        {{"y", "MF", Type::kActivation, 0}}, dims);
}

Refusal CheckEmbed(const Request& request, Dims* dims) {
  return CheckArguments("EMBED", request,
                        {{"table", "VD", Type::kFloat, kParameter}, {"ids", "M", Type::kI32, kNeeded | kConstant}},
                        {{"y", "MD", Type::kFloat, 0}}, dims);
}

namespace {

Refusal CheckSameShape(const xh_tensor& a, const xh_tensor& b, const char* where) {
  if (!Present(a) || !Present(b)) return {};
  bool same = a.rank == b.rank;
  for (int i = 0; same && i < a.rank; ++i) same = a.shape[i] == b.shape[i];
  if (!same) return Invalid(std::string(where) + ": x and y have different shapes");
  if (a.dtype != b.dtype && !(IsFloat(a.dtype) && IsFloat(b.dtype))) {
    return Unsupported(std::string(where) + ": dtype " + std::to_string(a.dtype) + " to " + std::to_string(b.dtype) +
                       ", allowed is f32 and bf16 to each other, or the same dtype");
  }
  return {};
}

}  // namespace

Refusal CheckCast(const Request& request) {
  Dims dims;
  Refusal refusal = CheckArguments("CAST", request, {{"x", "*", Type::kAny, kAnyStride}},
                                   {{"y", "*", Type::kAny, kAnyStride}}, &dims);
  if (refusal.code != 0) return refusal;
  const bool backward = request.pass == XH_BACKWARD;
  const xh_tensor &from = request.args[backward ? 2 : 0], &to = request.args[backward ? 3 : 1];
  refusal = CheckSameShape(from, to, backward ? "CAST BACKWARD" : "CAST");
  if (refusal.code != 0) return refusal;
  if (backward && Present(to) && !IsFloat(to.dtype)) {
    return Invalid("CAST BACKWARD: gradient of x has dtype " + std::to_string(to.dtype) + ", allowed is f32 or bf16");
  }
  return {};
}

Refusal CheckFill(const Request& request, xh_fill_params* params) {
  Dims dims;
  Refusal refusal = RequireInfer("FILL", request);
  if (refusal.code != 0) return refusal;
  refusal = CheckArguments("FILL", request, {}, {{"y", "*", Type::kAny, kAnyStride}}, &dims);
  if (refusal.code != 0) return refusal;
  refusal = Params("FILL", request, params);
  if (refusal.code != 0) return refusal;
  const xh_tensor& y = request.args[0];
  if (!IsFloat(y.dtype) && y.dtype != XH_I32) {
    return Unsupported("FILL: y has dtype " + std::to_string(y.dtype) + ", allowed is f32, bf16 or i32");
  }
  if (y.dtype == XH_I32 && !(params->value >= -2147483648.0f && params->value < 2147483648.0f)) {
    return Invalid("FILL: value is " + std::to_string(params->value) + ", it does not fit i32");
  }
  return {};
}

Refusal CheckReduce(const Request& request, Dims* dims, xh_reduce_params* params) {
  Refusal refusal = RequireInfer("REDUCE", request);
  if (refusal.code != 0) return refusal;
  refusal = CheckArguments("REDUCE", request, {{"x", "MN", Type::kF32, 0}}, {{"y", "N", Type::kF32, 0}}, dims);
  if (refusal.code != 0) return refusal;
  refusal = Params("REDUCE", request, params);
  if (refusal.code != 0) return refusal;
  if (params->kind != XH_REDUCE_SUM && params->kind != XH_REDUCE_SUM_SQUARES) {
    return Invalid("REDUCE: kind is " + std::to_string(params->kind) + ", allowed is SUM (0) or SUM_SQUARES (1)");
  }
  return {};
}

Refusal CheckTopK(const Request& request, Dims* dims, xh_top_k_params* params) {
  Refusal refusal = RequireInfer("TOP_K", request);
  if (refusal.code != 0) return refusal;
  refusal = CheckArguments("TOP_K", request, {{"logits", "MV", Type::kFloat, 0}},
                           {{"values", "Mk", Type::kF32, 0}, {"ids", "Mk", Type::kI32, 0}}, dims);
  if (refusal.code != 0) return refusal;
  refusal = Params("TOP_K", request, params);
  if (refusal.code != 0) return refusal;
  if (params->top_k != (*dims)['k'] || params->top_k < 1 || params->top_k > (*dims)['V']) {
    return Invalid("TOP_K: top_k is " + std::to_string(params->top_k) + ", values has " + std::to_string((*dims)['k']) +
                   " columns and logits " + std::to_string((*dims)['V']) + "; allowed is 1 to V, equal to the columns");
  }
  if ((*dims)['V'] > INT32_MAX) return Invalid("TOP_K: V is " + std::to_string((*dims)['V']) + ", ids are i32");
  return {};
}

Refusal CheckDense(const Request& request, Dims* dims, xh_dense_params* params) {
  Refusal refusal = RequireInfer("DENSE", request);
  if (refusal.code != 0) return refusal;
  refusal = CheckArguments("DENSE", request,
                           {{"x", "MD", Type::kFloat, 0},
                            {"norm", "D", Type::kFloat, kOptional},
                            {"w", "ND", Type::kFloat, 0},
                            {"bias", "N", Type::kFloat, kOptional},
                            {"residual", "MF", Type::kFloat, kOptional}},
                           {{"y", "MF", Type::kFloat, 0}}, dims);
  if (refusal.code == 0) refusal = Params("DENSE", request, params);
  if (refusal.code != 0) return refusal;
  if (params->activation != XH_DENSE_LINEAR && params->activation != XH_DENSE_SWIGLU) {
    return Unsupported("DENSE: activation is " + std::to_string(params->activation) +
                       ", allowed is LINEAR (0) or SWIGLU (1)");
  }
  if (!(params->eps >= 0.0f)) {
    return Invalid("DENSE: eps is " + std::to_string(params->eps) + ", at least 0 is allowed");
  }
  const bool gated = params->activation == XH_DENSE_SWIGLU;
  const int64_t rows = (*dims)['F'] * (gated ? 2 : 1);
  if ((*dims)['N'] == rows) return {};
  return Invalid("DENSE: w.shape[0] is " + std::to_string((*dims)['N']) + ", expected " + std::to_string(rows) +
                 " for " + std::to_string((*dims)['F']) + " columns of y" + (gated ? " with SWIGLU" : ""));
}

// ---- losses and the optimiser ----

Refusal CheckAlignLoss(const Request& request, Dims* dims) {
  Refusal refusal = CheckArguments("ALIGN_LOSS", request,
                                   {{"x", "BHTd", Type::kActivation, kNeeded},
                                    {"teacher", "BHTd", Type::kActivation, kNeeded | kConstant},
                                    {"scale", "1", Type::kF32, kNeeded | kConstant}},
                                   {{"sums", "2", Type::kF32, kConstant}}, dims);
  if (refusal.code != 0) return refusal;
  if ((*dims)['1'] != 1 || ((*dims)['2'] >= 0 && (*dims)['2'] != 2)) {
    return Invalid("ALIGN_LOSS: scale has " + std::to_string((*dims)['1']) + " elements and sums " +
                   std::to_string((*dims)['2']) + ", expected 1 and 2");
  }
  return {};
}

namespace {

Refusal CheckDistillParams(const xh_distill_params& params) {
  if (params.mode < XH_KL_RENORMALIZED || params.mode > XH_KL_TAIL_BUCKET) {
    return Invalid("DISTILL_LOSS: mode is " + std::to_string(params.mode) +
                   ", allowed is RENORMALIZED (0), FULL_STUDENT (1) or TAIL_BUCKET (2)");
  }
  if (!(params.temperature > 0.0f) || !std::isfinite(params.temperature)) {
    return Invalid("DISTILL_LOSS: temperature is " + std::to_string(params.temperature) + ", allowed is above 0");
  }
  if (!std::isfinite(params.gamma) || !std::isfinite(params.beta)) {
    return Invalid("DISTILL_LOSS: gamma is " + std::to_string(params.gamma) + " and beta " +
                   std::to_string(params.beta) + ", finite numbers are needed");
  }
  return {};
}

}  // namespace

Refusal CheckDistillLoss(const Request& request, Dims* dims, xh_distill_params* params) {
  enum { kTeacherValues = 2, kTeacherIds = 3 };
  Refusal refusal = CheckArguments("DISTILL_LOSS", request,
                                   {{"logits", "MV", Type::kActivation, kNeeded},
                                    {"targets", "M", Type::kI32, kNeeded | kConstant},
                                    {"teacher_values", "Mk", Type::kF32, kOptional | kNeeded | kConstant},
                                    {"teacher_ids", "Mk", Type::kI32, kOptional | kNeeded | kConstant},
                                    {"scale", "1", Type::kF32, kNeeded | kConstant}},
                                   {{"losses", "M2", Type::kF32, kConstant}}, dims);
  if (refusal.code != 0) return refusal;
  refusal = Params("DISTILL_LOSS", request, params);
  if (refusal.code == 0) refusal = CheckDistillParams(*params);
  if (refusal.code != 0) return refusal;
  if (Present(request.args[kTeacherValues]) != Present(request.args[kTeacherIds])) {
    return Invalid("DISTILL_LOSS: teacher_values and teacher_ids belong together, one of them is absent");
  }
  if ((*dims)['1'] != 1 || ((*dims)['2'] >= 0 && (*dims)['2'] != 2)) {
    return Invalid("DISTILL_LOSS: scale has " + std::to_string((*dims)['1']) + " elements and losses " +
                   std::to_string((*dims)['2']) + " columns, expected 1 and 2");
  }
  if ((*dims)['k'] > (*dims)['V']) {
    return Invalid("DISTILL_LOSS: the teacher has " + std::to_string((*dims)['k']) +
                   " ids a row, at most the vocabulary of " + std::to_string((*dims)['V']) + " is allowed");
  }
  return {};
}

Refusal CheckAdamw(const Request& request, Dims* dims, xh_adamw_params* params) {
  Refusal refusal = RequireInfer("ADAMW", request);
  if (refusal.code != 0) return refusal;
  refusal = CheckArguments("ADAMW", request, {{"grad", "N", Type::kF32, 0}, {"schedule", "4", Type::kF32, 0}},
                           {{"param", "N", Type::kFloat, 0},
                            {"first", "N", Type::kF32, 0},
                            {"second", "N", Type::kF32, 0},
                            {"master", "N", Type::kF32, kOptional}},
                           dims);
  if (refusal.code != 0) return refusal;
  refusal = Params("ADAMW", request, params);
  if (refusal.code != 0) return refusal;
  if ((*dims)['4'] != 4)
    return Invalid("ADAMW: schedule has " + std::to_string((*dims)['4']) + " elements, expected 4");
  const auto fraction = [](float x) { return x >= 0.0f && x < 1.0f; };
  if (!fraction(params->beta1) || !fraction(params->beta2) || !(params->eps >= 0.0f) ||
      !(params->weight_decay >= 0.0f)) {
    return Invalid("ADAMW: beta1 " + std::to_string(params->beta1) + ", beta2 " + std::to_string(params->beta2) +
                   ", eps " + std::to_string(params->eps) + ", weight_decay " + std::to_string(params->weight_decay) +
                   "; allowed are betas in [0, 1) and the others at least 0");
  }
  return {};
}

Refusal CheckClip(const Request& request, Dims* dims, xh_clip_params* params) {
  Refusal refusal = RequireInfer("CLIP", request);
  if (refusal.code != 0) return refusal;
  refusal = CheckArguments("CLIP", request, {{"squares", "N", Type::kF32, 0}, {"sums", "S", Type::kF32, kOptional}},
                           {{"factor", "1", Type::kF32, 0}}, dims);
  if (refusal.code != 0) return refusal;
  refusal = Params("CLIP", request, params);
  if (refusal.code != 0) return refusal;
  if ((*dims)['1'] != 1) return Invalid("CLIP: factor has " + std::to_string((*dims)['1']) + " elements, expected 1");
  if (!(params->limit >= 0.0f)) {
    return Invalid("CLIP: limit is " + std::to_string(params->limit) + ", allowed is 0 (not clipped) and more");
  }
  return {};
}

}  // namespace xh::backend
