// What the ops of sequence mixers ask of their arguments and parameters.

#include <climits>
#include <cmath>

#include "backends/common/requests.h"

namespace xh::backend {
namespace {

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

}  // namespace xh::backend
