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

// Queries of H heads read keys and values of KV.
Refusal CheckGroups(const char* op, const Dims& dims) {
  if (dims['H'] % dims['K'] == 0) return {};
  return Invalid(std::string(op) + ": H is " + std::to_string(dims['H']) + " and KV is " + std::to_string(dims['K']) +
                 ", H must be a multiple of KV");
}

// Three arguments that go together.
bool Any(const Request& request, int first) {
  return Present(request.args[first]) || Present(request.args[first + 1]) || Present(request.args[first + 2]);
}
bool All(const Request& request, int first) {
  return Present(request.args[first]) && Present(request.args[first + 1]) && Present(request.args[first + 2]);
}

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

// ---- mixers ----

Refusal CheckMlstm(const Request& request, Dims* dims, xh_mlstm_params* params) {
  enum { kState = 5, kStart = 8, kStateAfter = 10 };
  Refusal refusal = CheckArguments("MLSTM", request,
                                   {{"q", "BHTn", Type::kActivation, kNeeded},
                                    {"k", "BHTn", Type::kActivation, kNeeded},
                                    {"v", "BKTd", Type::kActivation, kNeeded},
                                    {"i", "BHT", Type::kF32, kNeeded | kAnyStride},
                                    {"f", "BHT", Type::kF32, kNeeded | kAnyStride},
                                    {"S", "BHnd", Type::kF32, kOptional | kConstant},
                                    {"z", "BHn", Type::kF32, kOptional | kConstant},
                                    {"m", "BH", Type::kF32, kOptional | kConstant},
                                    {"start", "BT", Type::kI32, kOptional | kConstant}},
                                   {{"h", "BHTd", Type::kActivation, kNeeded},
                                    {"S'", "BHnd", Type::kF32, kOptional | kConstant},
                                    {"z'", "BHn", Type::kF32, kOptional | kConstant},
                                    {"m'", "BH", Type::kF32, kOptional | kConstant}},
                                   dims);
  if (refusal.code == 0) refusal = Params("MLSTM", request, params);
  if (refusal.code != 0) return refusal;
  if (params->normalizer != XH_NORMALIZER_PLAIN && params->normalizer != XH_NORMALIZER_MAX) {
    return Invalid("MLSTM: normalizer is " + std::to_string(params->normalizer) + ", allowed is PLAIN (0) or MAX (1)");
  }
  if (params->chunk < 0) {
    return Invalid("MLSTM: chunk is " + std::to_string(params->chunk) +
                   ", allowed is 0 (the backend's choice) or more");
  }
  if (Any(request, kState) && !All(request, kState)) {
    return Invalid("MLSTM: S, z, m: some are present, allowed is all or none");
  }
  if (request.pass != XH_BACKWARD && Any(request, kStateAfter) && !All(request, kStateAfter)) {
    return Invalid("MLSTM: S', z', m': some are present, allowed is all or none");
  }
  if (Present(request.args[kStart]) && (Present(request.args[kState]) || Present(request.args[kStateAfter]))) {
    return Unsupported("MLSTM: a state before or after with start, documents are packed into whole rows only");
  }
  return CheckGroups("MLSTM", *dims);
}

namespace {

Refusal CheckAttentionParams(const xh_attention_params& params, int64_t kv_heads) {
  if (params.kv_heads != kv_heads || params.windows == nullptr) {
    return Invalid("ATTENTION: kv_heads is " + std::to_string(params.kv_heads) + " with windows " +
                   (params.windows == nullptr ? "NULL" : "given") + ", k has " + std::to_string(kv_heads) +
                   " heads and each needs a window");
  }
  if (params.sinks < 0) {
    return Invalid("ATTENTION: sinks is " + std::to_string(params.sinks) + ", at least 0 is allowed");
  }
  if (params.capacity < 0) {
    return Invalid("ATTENTION: capacity is " + std::to_string(params.capacity) + ", at least 0 is allowed");
  }
  for (int64_t j = 0; j < kv_heads; ++j) {
    if (params.windows[j] < 0) {
      return Invalid("ATTENTION: windows[" + std::to_string(j) + "] is " + std::to_string(params.windows[j]) +
                     ", allowed is 0 (unlimited) or more");
    }
  }
  return {};
}

Refusal CheckCache(const Request& request, const xh_attention_params& params, int64_t slots) {
  enum { kCache = 3, kStart = 6 };
  if (!Any(request, kCache)) return {};
  if (!All(request, kCache)) {
    return Invalid("ATTENTION: cache_k, cache_v, position: some are present, allowed is all or none");
  }
  if (request.pass != XH_INFER) {
    return Unsupported(std::string("ATTENTION: a cache with ") + PassName(request.pass) + ", it goes with INFER only");
  }
  if (Present(request.args[kStart])) {
    return Unsupported("ATTENTION: a cache with start, documents are packed into whole rows only");
  }
  int64_t needed = 0;
  for (int32_t j = 0; j < params.kv_heads; ++j) {
    needed += params.windows[j] == 0 ? params.capacity : params.sinks + int64_t{params.windows[j]};
  }
  if (slots == needed) return {};
  return Invalid("ATTENTION: the cache has " + std::to_string(slots) + " slots, its heads own " +
                 std::to_string(needed));
}

}  // namespace

Refusal CheckAttention(const Request& request, Dims* dims, xh_attention_params* params) {
  Refusal refusal = CheckArguments("ATTENTION", request,
                                   {{"q", "BHTd", Type::kActivation, kNeeded},
                                    {"k", "BKTd", Type::kActivation, kNeeded},
                                    {"v", "BKTd", Type::kActivation, kNeeded},
                                    {"cache_k", "BCd", Type::kActivation, kOptional | kConstant},
                                    {"cache_v", "BCd", Type::kActivation, kOptional | kConstant},
                                    {"position", "B", Type::kI32, kOptional | kConstant},
                                    {"start", "BT", Type::kI32, kOptional | kConstant}},
                                   {{"o", "BHTd", Type::kActivation, kNeeded}}, dims);
  if (refusal.code == 0) refusal = Params("ATTENTION", request, params);
  if (refusal.code == 0) refusal = CheckAttentionParams(*params, (*dims)['K']);
  if (refusal.code == 0) refusal = CheckGroups("ATTENTION", *dims);
  if (refusal.code != 0) return refusal;
  return CheckCache(request, *params, (*dims)['C']);
}

Refusal CheckFeatureMap(const Request& request, Dims* dims, xh_feature_map_params* params) {
  Refusal refusal =
      CheckArguments("FEATURE_MAP", request,
                     {{"u", "BUTd", Type::kActivation, kNeeded}, {"a", "Hdn", Type::kFloat, kNeeded | kParameter}},
                     {{"phi", "BHTp", Type::kActivation, kNeeded}}, dims);
  if (refusal.code != 0) return refusal;
  refusal = Params("FEATURE_MAP", request, params);
  if (refusal.code != 0) return refusal;
  if (params->kind != XH_FEATURE_SOFTMAX && params->kind != XH_FEATURE_HEDGEHOG) {
    return Unsupported("FEATURE_MAP: kind is " + std::to_string(params->kind) +
                       ", allowed is SOFTMAX (0) or HEDGEHOG (1)");
  }
  const bool hedgehog = params->kind == XH_FEATURE_HEDGEHOG;
  if ((*dims)['H'] % (*dims)['U'] != 0) {
    return Invalid("FEATURE_MAP: u has " + std::to_string((*dims)['U']) + " heads, they must divide the " +
                   std::to_string((*dims)['H']) + " heads of a");
  }
  if ((*dims)['p'] != (*dims)['n'] * (hedgehog ? 2 : 1)) {
    return Invalid("FEATURE_MAP: phi.shape[3] is " + std::to_string((*dims)['p']) + ", expected " +
                   (hedgehog ? "2 x " : "") + std::to_string((*dims)['n']));
  }
  return {};
}

Refusal CheckHeadGate(const Request& request, Dims* dims) {
  // The last dimension of o is T, which a token-major layout does not keep contiguous.
  Refusal refusal = CheckArguments("HEAD_GATE", request,
                                   {{"q", "BHTd", Type::kActivation, kNeeded},
                                    {"k", "BKTd", Type::kActivation, kNeeded},
                                    {"v", "BKTd", Type::kActivation, kNeeded},
                                    {"w", "Hw", Type::kFloat, kNeeded | kParameter},
                                    {"b", "H", Type::kFloat, kParameter}},
                                   {{"o", "BHT", Type::kF32, kNeeded | kAnyStride}}, dims);
  if (refusal.code != 0) return refusal;
  if ((*dims)['H'] % (*dims)['K'] != 0) {
    return Invalid("HEAD_GATE: k has " + std::to_string((*dims)['K']) + " heads, they must divide the " +
                   std::to_string((*dims)['H']) + " heads of q");
  }
  if ((*dims)['w'] != 3 * (*dims)['d']) {
    return Invalid("HEAD_GATE: w.shape[1] is " + std::to_string((*dims)['w']) + ", expected 3 x " +
                   std::to_string((*dims)['d']));
  }
  return {};
}

namespace {

// `step` 1: heads are increasing; 0: or equal.
Refusal CheckHeads(const char* op, const xh_heads_params& params, int64_t count, int64_t heads, int32_t step) {
  const std::string where = std::string(op) + ": ";
  if (params.heads == nullptr || params.count != count) {
    return Invalid(where + "count is " + std::to_string(params.count) + " with heads " +
                   (params.heads == nullptr ? "NULL" : "given") + ", the arguments have " + std::to_string(count));
  }
  int64_t least = 0;
  for (int32_t j = 0; j < params.count; ++j) {
    if (params.heads[j] < least || params.heads[j] >= heads) {
      return Invalid(where + "heads[" + std::to_string(j) + "] is " + std::to_string(params.heads[j]) +
                     ", allowed are " + (step == 0 ? "sorted" : "increasing") + " numbers below " +
                     std::to_string(heads));
    }
    least = params.heads[j] + step;
  }
  return {};
}

}  // namespace

Refusal CheckMix(const Request& request, Dims* dims, std::vector<int32_t>* heads) {
  // The last dimension of o is T, which a token-major layout does not keep contiguous.
  Refusal refusal = CheckArguments("MIX", request,
                                   {{"o", "BNT", Type::kF32, kNeeded | kAnyStride},
                                    {"x", "BNTd", Type::kActivation, kNeeded},
                                    {"y", "BHTd", Type::kActivation, kNeeded}},
                                   {{"h", "BHTd", Type::kActivation, 0}}, dims);
  if (refusal.code != 0) return refusal;
  const int64_t mixed = (*dims)['N'], all = (*dims)['H'];
  if (request.params_size > 0) {
    xh_heads_params params = {};
    refusal = Params("MIX", request, &params);
    if (refusal.code == 0) refusal = CheckHeads("MIX", params, mixed, all, 1);
    if (refusal.code == 0) heads->assign(params.heads, params.heads + params.count);
    return refusal;
  }
  if (mixed != all) {
    return Invalid("MIX: o has " + std::to_string(mixed) + " heads and y " + std::to_string(all) +
                   ", without params they are as many");
  }
  heads->clear();
  for (int32_t h = 0; h < all; ++h) heads->push_back(h);
  return {};
}

Refusal CheckSelectHeads(const Request& request, Dims* dims, std::vector<int32_t>* heads) {
  Refusal refusal = CheckArguments("SELECT_HEADS", request, {{"x", "BUTd", Type::kActivation, 0}},
                                   {{"y", "BNTd", Type::kActivation, 0}}, dims);
  xh_heads_params params = {};
  if (refusal.code == 0) refusal = Params("SELECT_HEADS", request, &params);
  // BACKWARD has neither x nor y: their sizes are those of the gradients, which may be absent.
  const int64_t count = (*dims)['N'] < 0 ? params.count : (*dims)['N'];
  const int64_t from = (*dims)['U'] < 0 ? INT32_MAX : (*dims)['U'];
  if (refusal.code == 0) refusal = CheckHeads("SELECT_HEADS", params, count, from, 0);
  if (refusal.code == 0) heads->assign(params.heads, params.heads + params.count);
  return refusal;
}

namespace {

Refusal CheckHybridStepParams(const xh_hybrid_step_params& params, bool maps, int64_t kv_heads) {
  if (params.kv_heads != kv_heads || params.windows == nullptr) {
    return Invalid("HYBRID_STEP: kv_heads is " + std::to_string(params.kv_heads) + " with windows " +
                   (params.windows == nullptr ? "NULL" : "given") + ", k has " + std::to_string(kv_heads) +
                   " heads and each needs a window");
  }
  for (int64_t j = 0; j < kv_heads; ++j) {
    if (params.windows[j] < 1) {
      return Invalid("HYBRID_STEP: windows[" + std::to_string(j) + "] is " + std::to_string(params.windows[j]) +
                     ", allowed is 1 or more: a head without a window has no mLSTM");
    }
  }
  if (params.sinks < 0 || params.reserved != 0) {
    return Invalid("HYBRID_STEP: sinks is " + std::to_string(params.sinks) + " and reserved " +
                   std::to_string(params.reserved) + ", allowed are at least 0 and 0");
  }
  if (params.normalizer != XH_NORMALIZER_PLAIN && params.normalizer != XH_NORMALIZER_MAX) {
    return Invalid("HYBRID_STEP: normalizer is " + std::to_string(params.normalizer) +
                   ", allowed is PLAIN (0) or MAX (1)");
  }
  if (maps && params.map != XH_FEATURE_SOFTMAX && params.map != XH_FEATURE_HEDGEHOG) {
    return Unsupported("HYBRID_STEP: map is " + std::to_string(params.map) +
                       ", allowed is SOFTMAX (0) or HEDGEHOG (1)");
  }
  return {};
}

Refusal CheckHybridStepSizes(const Dims& dims, const xh_hybrid_step_params& params) {
  const auto differs = [](const char* what, int64_t is, int64_t expected) {
    return Invalid(std::string("HYBRID_STEP: ") + what + " is " + std::to_string(is) + ", expected " +
                   std::to_string(expected));
  };
  int64_t slots = 0, features = dims['d'];
  for (int32_t j = 0; j < params.kv_heads; ++j) slots += params.sinks + int64_t{params.windows[j]};
  if (dims['n'] >= 0) features = dims['n'] * (params.map == XH_FEATURE_HEDGEHOG ? 2 : 1);
  if (dims['T'] != 1) return differs("T", dims['T'], 1);
  if (dims['d'] % 2 != 0) return Invalid("HYBRID_STEP: d is " + std::to_string(dims['d']) + ", an even size is needed");
  if (dims['w'] != 3 * dims['d']) return differs("w.shape[1]", dims['w'], 3 * dims['d']);
  if (dims['p'] != features) return differs("S.shape[2]", dims['p'], features);
  if (dims['C'] != slots) return differs("cache_k.shape[1]", dims['C'], slots);
  return {};
}

}  // namespace

Refusal CheckHybridStep(const Request& request, Dims* dims, xh_hybrid_step_params* params) {
  enum { kQueryMap = 5, kKeyMap = 6 };
  Refusal refusal = RequireInfer("HYBRID_STEP", request);
  if (refusal.code != 0) return refusal;
  refusal = CheckArguments("HYBRID_STEP", request,
                           {{"q", "BHTd", Type::kActivation, 0},
                            {"k", "BKTd", Type::kActivation, 0},
                            {"v", "BKTd", Type::kActivation, 0},
                            {"table", "Pd", Type::kF32, 0},
                            {"position", "B", Type::kI32, 0},
                            {"query_map", "Hdn", Type::kFloat, kOptional},
                            {"key_map", "Hdn", Type::kFloat, kOptional},
                            {"i", "BHT", Type::kF32, kAnyStride},
                            {"f", "BHT", Type::kF32, kAnyStride},
                            {"w", "Hw", Type::kFloat, 0},
                            {"b", "H", Type::kFloat, 0},
                            {"S", "BHpd", Type::kF32, 0},
                            {"z", "BHp", Type::kF32, 0},
                            {"m", "BH", Type::kF32, 0},
                            {"cache_k", "BCd", Type::kActivation, 0},
                            {"cache_v", "BCd", Type::kActivation, 0}},
                           {{"h", "BHTd", Type::kActivation, 0}}, dims);
  if (refusal.code == 0) refusal = Params("HYBRID_STEP", request, params);
  if (refusal.code != 0) return refusal;
  const bool maps = Present(request.args[kQueryMap]);
  if (maps != Present(request.args[kKeyMap])) {
    return Invalid("HYBRID_STEP: query_map and key_map belong together, one of them is absent");
  }
  refusal = CheckHybridStepParams(*params, maps, (*dims)['K']);
  if (refusal.code == 0) refusal = CheckHybridStepSizes(*dims, *params);
  if (refusal.code == 0) refusal = CheckGroups("HYBRID_STEP", *dims);
  return refusal;
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
