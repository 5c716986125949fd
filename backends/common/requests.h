// The rules of xhybrid_plugin.h for each op's request, one function an op: what every backend refuses, and in which
// words. `dims` holds the sizes by the letters of the op's description when the result's code is 0; params are copied
// out. Any thread.
#ifndef XHYBRID_BACKENDS_COMMON_REQUESTS_H_
#define XHYBRID_BACKENDS_COMMON_REQUESTS_H_

#include <cstdint>
#include <vector>

#include "backends/common/arguments.h"

namespace xh::backend {

// Inputs and outputs of an op, and its name for messages; NULL for an op that does not exist.
struct OpSlots {
  xh_op op;
  const char* name;
  int inputs, outputs;
};
const OpSlots* FindOpSlots(xh_op op);
// Pass, flags and the number of arguments: before a Request is made of it.
Refusal CheckDesc(const OpSlots& op, const xh_op_desc& desc);

Refusal CheckMatmul(const Request& request, Dims* dims);                           // M N K
Refusal CheckRmsNorm(const Request& request, Dims* dims, xh_norm_params* params);  // M D
Refusal CheckRope(const Request& request, Dims* dims);                             // B T H d P
Refusal CheckAdd(const Request& request, Dims* dims);                              // M D
Refusal CheckSwiglu(const Request& request, Dims* dims);                           // M F
Refusal CheckEmbed(const Request& request, Dims* dims);                            // V D M
Refusal CheckCast(const Request& request);
Refusal CheckFill(const Request& request, xh_fill_params* params);
Refusal CheckReduce(const Request& request, Dims* dims, xh_reduce_params* params);  // M N
Refusal CheckTopK(const Request& request, Dims* dims, xh_top_k_params* params);     // M V k
// M D N F: F columns of y, N of them in w or, gated, twice as many. INFER only.
Refusal CheckDense(const Request& request, Dims* dims, xh_dense_params* params);
// B H K T n d, K for KV. State all or none, none with `start`; H is a multiple of KV.
Refusal CheckMlstm(const Request& request, Dims* dims, xh_mlstm_params* params);
// B H K T d C, K for KV. The cache all or none, INFER only, without `start`, with the slots that its heads own.
Refusal CheckAttention(const Request& request, Dims* dims, xh_attention_params* params);
Refusal CheckFeatureMap(const Request& request, Dims* dims, xh_feature_map_params* params);  // B U T d H n p
Refusal CheckHeadGate(const Request& request, Dims* dims);                                   // B H K T d w
// heads: which of the H heads of h the N mixed ones are.
Refusal CheckMix(const Request& request, Dims* dims, std::vector<int32_t>* heads);  // B N T d H
// heads: for each of the N heads of y the head of x.
Refusal CheckSelectHeads(const Request& request, Dims* dims, std::vector<int32_t>* heads);  // B U T d N
// B H K T d n p P C w, K for KV; n is -1 without maps. INFER of one token, every head with a window and an mLSTM.
Refusal CheckHybridStep(const Request& request, Dims* dims, xh_hybrid_step_params* params);
Refusal CheckAlignLoss(const Request& request, Dims* dims);                               // B H T d
Refusal CheckDistillLoss(const Request& request, Dims* dims, xh_distill_params* params);  // M V k (-1 without teacher)
Refusal CheckClip(const Request& request, Dims* dims, xh_clip_params* params);            // N, S (-1 without sums)
Refusal CheckAdamw(const Request& request, Dims* dims, xh_adamw_params* params);          // N

}  // namespace xh::backend

#endif  // XHYBRID_BACKENDS_COMMON_REQUESTS_H_
