#include "core/ops.h"

#include <cmath>

namespace xh {
namespace {

// Bits of the inputs and outputs that BACKWARD reads: "needs" of xhybrid_plugin.h.
constexpr OpTraits kTraits[] = {
    {XH_OP_MATMUL, "matmul", 0b011, 0, false},
    {XH_OP_RMS_NORM, "rms_norm", 0b11, 0, false},
    {XH_OP_ROPE, "rope", 0b110, 0, false},
    {XH_OP_ADD, "add", 0, 0, false},
    {XH_OP_SWIGLU, "swiglu", 0b11, 0, false},
    {XH_OP_EMBED, "embed", 0b10, 0, false},
    {XH_OP_CAST, "cast", 0, 0, false},
    {XH_OP_FILL, "fill", 0, 0, false},
    {XH_OP_REDUCE, "reduce", 0, 0, false},
    {XH_OP_TOP_K, "top_k", 0, 0, false},
    {XH_OP_DENSE, "dense", 0, 0, false},
    {XH_OP_MLSTM, "mlstm", 0b111111111, 0b0001, false},
    {XH_OP_ATTENTION, "attention", 0b1000111, 0b1, false},
    {XH_OP_FEATURE_MAP, "feature_map", 0b11, 0b1, false},
    {XH_OP_HEAD_GATE, "head_gate", 0b1111, 0b1, false},
    {XH_OP_MIX, "mix", 0b111, 0, false},
    {XH_OP_SELECT_HEADS, "select_heads", 0, 0, false},
    {XH_OP_HYBRID_STEP, "hybrid_step", 0, 0, false},
    {XH_OP_ALIGN_LOSS, "align_loss", 0b111, 0, true},
    {XH_OP_DISTILL_LOSS, "distill_loss", 0b11111, 0, true},
    {XH_OP_ADAMW, "adamw", 0, 0, false},
    {XH_OP_CLIP, "clip", 0, 0, false},
};

Value One(Graph& graph, xh_op op, const std::vector<Value>& inputs, const OutputType& output) {
  return graph.Op(op, nullptr, 0, inputs, {output})[0];
}

template <typename Params>
Value One(Graph& graph, xh_op op, const Params& params, const std::vector<Value>& inputs, const OutputType& output) {
  return graph.Op(op, &params, sizeof(params), inputs, {output})[0];
}

}  // namespace

const OpTraits* FindOpTraits(xh_op op) {
  static constexpr OpTraits kUnknown{0, "unknown op", 0, 0, false};
  for (const OpTraits& traits : kTraits) {
    if (traits.op == op) return &traits;
  }
  return &kUnknown;
}

Value MatMul(Graph& graph, Value x, Value w, Value bias, xh_dtype dtype) {
  if (dtype == 0) dtype = graph.dtype(x);
  return One(graph, XH_OP_MATMUL, {x, w, bias}, {dtype, {graph.shape(x)[0], graph.shape(w)[0]}});
}

namespace {

// Weights of several products of one x as those of one.
struct JoinedLayer {
  Value weight, bias;
};
// False where they do not lie one behind the other, or something trains.
bool Join(Graph& graph, Value x, const std::vector<Value>& weights, const std::vector<Value>& biases,
          JoinedLayer* joined) {
  const bool has_bias = biases[0].valid();
  *joined = {weights[0], biases[0]};
  if (weights.size() == 1) return !graph.RequiresGradient(x) && !graph.RequiresGradient(weights[0]);
  joined->weight = graph.RequiresGradient(x) ? kAbsent : graph.Joined(weights);
  joined->bias = has_bias ? graph.Joined(biases) : kAbsent;
  return joined->weight.valid() && joined->bias.valid() == has_bias;
}

// The columns of a joined product, by weight.
std::vector<Value> Apart(Graph& graph, Value rows, const std::vector<Value>& weights) {
  if (weights.size() == 1) return {rows};
  std::vector<Value> products;
  int64_t first = 0;
  for (Value part : weights) {
    products.push_back(graph.Columns(rows, first, graph.shape(part)[0]));
    first += graph.shape(part)[0];
  }
  return products;
}

// XH_OP_DENSE, or absent where something trains or the device leaves it out.
Value OneDense(Graph& graph, const DenseLayer& layer) {
  const Normed& x = layer.x;
  JoinedLayer joined;
  if (!Join(graph, x.x, layer.weights, layer.biases, &joined)) return kAbsent;
  const int64_t columns = graph.shape(joined.weight)[0] / (layer.gated ? 2 : 1);
  const OutputType output{layer.dtype != 0 ? layer.dtype : graph.dtype(x.x), {graph.shape(x.x)[0], columns}};
  const xh_dense_params params{XH_SIZED(xh_dense_params), layer.gated ? XH_DENSE_SWIGLU : XH_DENSE_LINEAR,
                               static_cast<float>(x.eps)};
  const std::vector<Value> inputs = {x.x, x.w, joined.weight, joined.bias, layer.residual};
  for (Value input : inputs) {
    if (graph.RequiresGradient(input)) return kAbsent;
  }
  std::vector<Value> args = inputs;
  args.push_back(graph.Uninitialized(output));
  if (!graph.Offers(XH_OP_DENSE, XH_INFER, &params, sizeof(params), args)) return kAbsent;
  return One(graph, XH_OP_DENSE, params, inputs, output);
}

}  // namespace

std::vector<Value> MatMuls(Graph& graph, Value x, const std::vector<Value>& weights, const std::vector<Value>& biases,
                           xh_dtype dtype) {
  JoinedLayer joined;
  if (Join(graph, x, weights, biases, &joined)) {
    return Apart(graph, MatMul(graph, x, joined.weight, joined.bias, dtype), weights);
  }
  std::vector<Value> products;
  for (size_t j = 0; j < weights.size(); ++j) products.push_back(MatMul(graph, x, weights[j], biases[j], dtype));
  return products;
}

Normed NormedOf(Graph& graph, Value x, Value w, double eps) {
  Normed normed = x;
  normed.w = w;
  normed.y = RmsNorm(graph, x, w, eps);
  normed.eps = eps;
  return normed;
}

std::vector<Value> Dense(Graph& graph, const DenseLayer& layer) {
  const Value one = OneDense(graph, layer);
  if (one.valid()) return layer.gated ? std::vector<Value>{one} : Apart(graph, one, layer.weights);
  std::vector<Value> y = MatMuls(graph, layer.x.y, layer.weights, layer.biases, layer.dtype);
  if (layer.gated) y = {SwiGlu(graph, y[0], y[1])};
  if (layer.residual.valid()) y[0] = Add(graph, layer.residual, y[0]);
  return y;
}

Value RmsNorm(Graph& graph, Value x, Value w, double eps) {
  xh_norm_params params{XH_SIZED(xh_norm_params), static_cast<float>(eps)};
  return One(graph, XH_OP_RMS_NORM, params, {x, w}, {graph.dtype(x), graph.shape(x)});
}

Value Rope(Graph& graph, Value x, Value table, Value position) {
  const Shape heads = graph.shape(x);  // [B,H,T,d]; the op takes [B,T,H,d], as it lies in memory
  // A position for each token makes every token a sequence of one.
  const int64_t sequences = graph.size(position);
  Value tokens = graph.TokensFirst(x, sequences);
  Value y = One(graph, XH_OP_ROPE, {tokens, table, position}, {graph.dtype(x), graph.shape(tokens)});
  return graph.SplitHeads(y, heads[0], heads[2], heads[1]);
}

Value Add(Graph& graph, Value a, Value b) { return One(graph, XH_OP_ADD, {a, b}, {graph.dtype(a), graph.shape(a)}); }

Value SwiGlu(Graph& graph, Value gate, Value up) {
  return One(graph, XH_OP_SWIGLU, {gate, up}, {graph.dtype(gate), graph.shape(gate)});
}

Value Embed(Graph& graph, Value table, Value ids, xh_dtype dtype) {
  return One(graph, XH_OP_EMBED, {table, ids}, {dtype, {graph.size(ids), graph.shape(table)[1]}});
}

Value Cast(Graph& graph, Value x, xh_dtype dtype) {
  if (graph.dtype(x) == dtype) return x;
  return One(graph, XH_OP_CAST, {x}, {dtype, graph.shape(x)});
}

Value FeatureMap(Graph& graph, Value u, Value a, xh_feature_map kind) {
  xh_feature_map_params params{XH_SIZED(xh_feature_map_params), kind};
  const Shape& in = graph.shape(u);
  const Shape& map = graph.shape(a);
  int64_t features = kind == XH_FEATURE_HEDGEHOG ? 2 * map[2] : map[2];
  return One(graph, XH_OP_FEATURE_MAP, params, {u, a}, {graph.dtype(u), {in[0], map[0], in[2], features}, true});
}

Value HeadGate(Graph& graph, Value q, Value k, Value v, Value w, Value b) {
  const Shape& in = graph.shape(q);
  return One(graph, XH_OP_HEAD_GATE, {q, k, v, w, b}, {XH_F32, {in[0], in[1], in[2]}, true});
}

Value SelectHeads(Graph& graph, Value x, const std::vector<int32_t>& heads) {
  const Shape shape = graph.shape(x);
  const int64_t count = static_cast<int64_t>(heads.size());
  bool same = count == shape[1];
  for (int64_t j = 0; same && j < count; ++j) same = heads[j] == j;
  if (same) return x;
  xh_heads_params params{XH_SIZED(xh_heads_params), static_cast<int32_t>(count), graph.Intern(heads)};
  return One(graph, XH_OP_SELECT_HEADS, params, {x}, {graph.dtype(x), {shape[0], count, shape[2], shape[3]}, true});
}

Value Mix(Graph& graph, Value o, Value x, Value y, const std::vector<int32_t>& heads) {
  const OutputType output{graph.dtype(y), graph.shape(y), true};
  const int64_t count = static_cast<int64_t>(heads.size());
  if (count == graph.shape(y)[1]) return One(graph, XH_OP_MIX, {o, x, y}, output);
  xh_heads_params params{XH_SIZED(xh_heads_params), static_cast<int32_t>(count), graph.Intern(heads)};
  return One(graph, XH_OP_MIX, params, {o, x, y}, output);
}

Value Mlstm(Graph& graph, Value q, Value k, Value v, Value i, Value f, const xh_mlstm_params& params,
            const MlstmState* state, Value start) {
  const Shape& in = graph.shape(q);
  OutputType output{graph.dtype(v), {in[0], in[1], in[2], graph.shape(v)[3]}, true};
  if (state == nullptr) {
    // Outputs that nobody asks for are absent, so that the plan keeps no final state.
    std::vector<Value> inputs = {q, k, v, i, f, kAbsent, kAbsent, kAbsent, start};
    return graph.Op(XH_OP_MLSTM, &params, sizeof(params), inputs, {output, {0, {}}, {0, {}}, {0, {}}})[0];
  }
  Value h = graph.Uninitialized(output);
  graph.Emit(XH_OP_MLSTM, XH_INFER, &params, sizeof(params),
             {q, k, v, i, f, state->S, state->z, state->m, start, h, state->S, state->z, state->m});
  return h;
}

Value Attention(Graph& graph, Value q, Value k, Value v, const std::vector<int32_t>& windows, int32_t sinks,
                double scale, const AttentionCache* cache, Value start) {
  xh_attention_params params{XH_SIZED(xh_attention_params), sinks,
                             static_cast<float>(scale),     static_cast<int32_t>(windows.size()),
                             graph.Intern(windows),         cache != nullptr ? cache->capacity : 0};
  OutputType output{graph.dtype(q), graph.shape(q), true};
  if (cache == nullptr) return One(graph, XH_OP_ATTENTION, params, {q, k, v, kAbsent, kAbsent, kAbsent, start}, output);
  Value o = graph.Uninitialized(output);
  graph.Emit(XH_OP_ATTENTION, XH_INFER, &params, sizeof(params),
             {q, k, v, cache->k, cache->v, cache->position, start, o});
  return o;
}

Value HybridStep(Graph& graph, const HybridStepInput& in, const MlstmState& state, const AttentionCache& cache,
                 xh_hybrid_step_params params, const std::vector<int32_t>& windows) {
  params.kv_heads = static_cast<int32_t>(windows.size());
  params.windows = graph.Intern(windows);
  Value h = graph.Uninitialized({graph.dtype(in.q), graph.shape(in.q), true});
  const std::vector<Value> args = {in.q, in.k, in.v,    in.table, cache.position, in.query_map, in.key_map, in.i, in.f,
                                   in.w, in.b, state.S, state.z,  state.m,        cache.k,      cache.v,    h};
  if (!graph.Offers(XH_OP_HYBRID_STEP, XH_INFER, &params, sizeof(params), args)) return kAbsent;
  graph.Emit(XH_OP_HYBRID_STEP, XH_INFER, &params, sizeof(params), args);
  return h;
}

int64_t AttentionCacheSlots(const std::vector<int32_t>& windows, int32_t sinks, int64_t capacity) {
  int64_t slots = 0;
  for (int32_t window : windows) slots += window > 0 ? sinks + window : capacity;
  return slots;
}

Value AlignLoss(Graph& graph, Value student, Value teacher, Value scale) {
  return One(graph, XH_OP_ALIGN_LOSS, {student, teacher, scale}, {XH_F32, {2}});
}

TopK SelectTopK(Graph& graph, Value logits, int32_t top_k) {
  xh_top_k_params params{XH_SIZED(xh_top_k_params), top_k};
  const int64_t rows = graph.shape(logits)[0];
  std::vector<Value> outputs =
      graph.Op(XH_OP_TOP_K, &params, sizeof(params), {logits}, {{XH_F32, {rows, top_k}}, {XH_I32, {rows, top_k}}});
  return {outputs[0], outputs[1]};
}

Value DistillLoss(Graph& graph, Value logits, Value targets, const TopK* teacher, Value scale,
                  const xh_distill_params& params) {
  Value values = teacher != nullptr ? teacher->values : kAbsent;
  Value ids = teacher != nullptr ? teacher->ids : kAbsent;
  return One(graph, XH_OP_DISTILL_LOSS, params, {logits, targets, values, ids, scale},
             {XH_F32, {graph.shape(logits)[0], 2}});
}

Value Reduce(Graph& graph, Value x, xh_reduce_kind kind) {
  xh_reduce_params params{XH_SIZED(xh_reduce_params), kind};
  return One(graph, XH_OP_REDUCE, params, {x}, {XH_F32, {graph.shape(x)[1]}});
}

void AdamW(Graph& graph, Value gradient, Value schedule, Value param, Value first, Value second, Value master,
           const xh_adamw_params& params) {
  graph.Emit(XH_OP_ADAMW, XH_INFER, &params, sizeof(params), {gradient, schedule, param, first, second, master});
}

void Clip(Graph& graph, Value squares, Value sums, Value factor, double limit) {
  const xh_clip_params params{XH_SIZED(xh_clip_params), static_cast<float>(limit)};
  graph.Emit(XH_OP_CLIP, XH_INFER, &params, sizeof(params), {squares, sums, factor});
}

void Fill(Graph& graph, Value target, float value) {
  xh_fill_params params{XH_SIZED(xh_fill_params), value};
  graph.Emit(XH_OP_FILL, XH_INFER, &params, sizeof(params), {target});
}

}  // namespace xh
