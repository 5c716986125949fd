// One function an op: declares it on a graph with the shapes of its outputs. Letters as in xhybrid_plugin.h.
#ifndef XHYBRID_CORE_OPS_H_
#define XHYBRID_CORE_OPS_H_

#include <vector>

#include "core/graph.h"

namespace xh {

// x[M,K] w[N,K]^T + bias[N]? -> [M,N] in `dtype`, 0 for x's.
Value MatMul(Graph& graph, Value x, Value w, Value bias = kAbsent, xh_dtype dtype = 0);
// x w[j]^T + bias[j]? -> [M,N_j] for each j: one product where the weights lie one behind the other and nothing trains.
// Backends then read x once and start once.
std::vector<Value> MatMuls(Graph& graph, Value x, const std::vector<Value>& weights, const std::vector<Value>& biases,
                           xh_dtype dtype = 0);
Value RmsNorm(Graph& graph, Value x, Value w, double eps);       // [M,D]
Value Rope(Graph& graph, Value x, Value table, Value position);  // [B,H,T,d] view; position i32[B] or i32[B*T]
Value Add(Graph& graph, Value a, Value b);
Value SwiGlu(Graph& graph, Value gate, Value up);
// What a layer reads, y = RmsNorm(x, w), with what it is made of, for a layer that makes it itself; or x as it is, and
// no w. A y that nobody reads is not computed.
struct Normed {
  Normed(Value value = kAbsent) : x(value), y(value) {}
  Value x, w, y;
  double eps = 0;
};
Normed NormedOf(Graph& graph, Value x, Value w, double eps);
// A dense layer with what stands around it: residual? + f(x.y w^T + bias?), f being the identity, or of two weights, if
// `gated`, silu of the first product times the second. Where nothing trains and the device offers it, it is one op
// (XH_OP_DENSE, with fewer roundings), else RmsNorm, MatMuls, SwiGlu and Add. Weights that do not train are constants.
struct DenseLayer {
  Normed x;
  std::vector<Value> weights, biases;
  bool gated = false;
  Value residual = kAbsent;
  xh_dtype dtype = 0;  // of the result, 0 for x's
};
// -> [M,N_j] of each weight; one value where it is gated. A residual goes with one weight, or two that are gated.
std::vector<Value> Dense(Graph& graph, const DenseLayer& layer);
Value Embed(Graph& graph, Value table, Value ids, xh_dtype dtype);  // ids[M] -> [M,D]
Value Cast(Graph& graph, Value x, xh_dtype dtype);
Value FeatureMap(Graph& graph, Value u, Value a, xh_feature_map kind);      // u[B,U,T,d], a[H,d,n] -> [B,H,T,n|2n]
Value HeadGate(Graph& graph, Value q, Value k, Value v, Value w, Value b);  // -> o f32[B,H,T]
// The heads [B,N,T,d] of x [B,U,T,d] that a sorted list names, any of them several times; x itself when it names each
// once.
Value SelectHeads(Graph& graph, Value x, const std::vector<int32_t>& heads);
// y [B,H,T,d] with o x + (1 - o) y in the N heads that the list names; o [B,N,T], x [B,N,T,d].
Value Mix(Graph& graph, Value o, Value x, Value y, const std::vector<int32_t>& heads);

struct MlstmState {
  Value S, z, m;  // f32 [B,H,n,d], [B,H,n], [B,H]; updated in place
};
// Without state: differentiable. With state: continues from it and updates it, not differentiable. start i32[B,T]: the
// documents that rows are packed from, each a sequence of its own; absent: one a row. Backends refuse both together.
Value Mlstm(Graph& graph, Value q, Value k, Value v, Value i, Value f, const xh_mlstm_params& params,
            const MlstmState* state = nullptr, Value start = kAbsent);

struct AttentionCache {
  Value k, v;      // [B,C,d], updated in place
  Value position;  // i32[B]: tokens before this call
  int64_t capacity;
};
// windows: one a key/value head, 0 unlimited. With a cache: continues from it, not differentiable. start as of Mlstm.
Value Attention(Graph& graph, Value q, Value k, Value v, const std::vector<int32_t>& windows, int32_t sinks,
                double scale, const AttentionCache* cache = nullptr, Value start = kAbsent);
// Slots C of a cache with these windows.
int64_t AttentionCacheSlots(const std::vector<int32_t>& windows, int32_t sinks, int64_t capacity);

// What a hybrid mixer's token reads (XH_OP_HYBRID_STEP). q [B,H,1,d], k and v [B,KV,1,d] before RoPE; maps [H,d,n], or
// absent; gates i and f [B,H,1]; w [H,3d] and b [H] of the output gate.
struct HybridStepInput {
  Value q, k, v, table, query_map, key_map, i, f, w, b;
};
// -> h [B,H,1,d], state and cache updated in place; absent where the device leaves the op out: compose it then.
// kv_heads and windows of `params` are set here.
Value HybridStep(Graph& graph, const HybridStepInput& in, const MlstmState& state, const AttentionCache& cache,
                 xh_hybrid_step_params params, const std::vector<int32_t>& windows);

// -> sums f32[2]
Value AlignLoss(Graph& graph, Value student, Value teacher, Value scale);
struct TopK {
  Value values, ids;  // f32[M,k], i32[M,k]
};
TopK SelectTopK(Graph& graph, Value logits, int32_t top_k);
// -> losses f32[M,2]
Value DistillLoss(Graph& graph, Value logits, Value targets, const TopK* teacher, Value scale,
                  const xh_distill_params& params);
// f32[M,N] -> f32[N]
Value Reduce(Graph& graph, Value x, xh_reduce_kind kind);
void AdamW(Graph& graph, Value gradient, Value schedule, Value param, Value first, Value second, Value master,
           const xh_adamw_params& params);
// squares f32[N], sums f32[S]? -> factor f32[1], which may be a part of something else
void Clip(Graph& graph, Value squares, Value sums, Value factor, double limit);
void Fill(Graph& graph, Value target, float value);

}  // namespace xh

#endif  // XHYBRID_CORE_OPS_H_
