// A whole hybrid mixer as one figure, from q, k and v to h: feature maps, gate of the heads, both branches, mix. Once
// with the mLSTM's gates as given numbers and once with their products with x.
#ifndef XHYBRID_TESTS_BENCH_GPU_MIXER_H_
#define XHYBRID_TESTS_BENCH_GPU_MIXER_H_

#include "gpu_bench.h"

namespace {

struct MixerShape {
  int64_t b, h, kv, t, d, n, width;  // n: features before hedgehog doubles them; width: of x
  int32_t window, sinks;
};

// The tensors of a mixer, and the calls on them.
class Mixer {
 public:
  Mixer(Bench& bench, const MixerShape& s, bool from_x) : bench_(bench), s_(s), from_x_(from_x) {
    const float even = 1.0f / static_cast<float>(2 * s.n);
    q_plain_ = Head(s.h, s.d, 1), k_plain_ = Head(s.kv, s.d, 1);
    q_ = Head(s.h, s.d, 1), k_ = Head(s.kv, s.d, 1), v_ = Head(s.kv, s.d, 1);
    query_map_ = bench.Tensor(XH_BF16, {s.h, s.d, s.n}, 0.1f), key_map_ = bench.Tensor(XH_BF16, {s.h, s.d, s.n}, 0.1f);
    query_features_ = Head(s.h, 2 * s.n, 0, even), key_features_ = Head(s.h, 2 * s.n, 0, even);
    gate_weight_ = bench.Tensor(XH_BF16, {s.h, 3 * s.d}, 0.02f), gate_bias_ = bench.Tensor(XH_BF16, {s.h}, 0, -2);
    gate_ = bench.Heads(XH_F32, s.b, s.h, s.t, 0, 0.1f, 0.5f);
    far_ = Head(s.h, s.d, 0), near_ = Head(s.h, s.d, 0), mixed_ = Head(s.h, s.d, 0);
    if (from_x) {
      x_ = bench.Tensor(XH_BF16, {s.b * s.t, s.width}, 1);
      input_ = GateProduct(0), forget_ = GateProduct(4.5f);
    } else {
      input_.heads = bench.Heads(XH_F32, s.b, s.h, s.t, 0, 1),
      forget_.heads = bench.Heads(XH_F32, s.b, s.h, s.t, 0, 1, 4.5f);
    }
  }

  std::vector<Bench::Call> Forward(xh_pass pass) {
    std::vector<Bench::Call> calls = {{XH_OP_HEAD_GATE, pass, "", Gate()},
                                      {XH_OP_FEATURE_MAP, pass, Map(), {q_, query_map_, query_features_}},
                                      {XH_OP_FEATURE_MAP, pass, Map(), {k_, key_map_, key_features_}},
                                      {XH_OP_MLSTM, pass, Recurrence(), Far()},
                                      {XH_OP_ATTENTION, pass, Windows(), Near()},
                                      {XH_OP_MIX, pass, "", {gate_, far_, near_, mixed_}}};
    if (from_x_) {
      for (const GateOf* gate : {&input_, &forget_}) {
        calls.insert(calls.begin() + 3, {XH_OP_MATMUL, pass, "", {x_, gate->weight, gate->bias, gate->rows}});
      }
    }
    return calls;
  }

  // Every gradient of every input, in the order in which a graph takes them back. What flows into one tensor from
  // several ops is written by the first and added to by the others; parameters gather.
  std::vector<Bench::Call> ForwardAndBackward() {
    std::vector<Bench::Call> calls = Forward(XH_FORWARD);
    const int mlstm = from_x_ ? 5 : 3;
    const xh_tensor dmixed = Head(s_.h, s_.d, 1), dfar = Like(far_), dnear = Like(near_), dgate = Like(gate_);
    const xh_tensor dq = Like(q_), dk = Like(k_), dv = Like(v_);
    const xh_tensor dquery = Like(query_features_), dkey = Like(key_features_);
    const xh_tensor dinput = Like(input_.heads), dforget = Like(forget_.heads);
    calls.push_back(
        {XH_OP_MIX, XH_BACKWARD, "", Joined({gate_, far_, near_, mixed_, dmixed, dgate, dfar, dnear}), mlstm + 2});
    calls.push_back(
        {XH_OP_ATTENTION, XH_BACKWARD, Windows(), Joined(Near(), {dnear, dq, dk, dv, {}, {}, {}, {}}), mlstm + 1});
    calls.push_back({XH_OP_MLSTM, XH_BACKWARD, Recurrence(),
                     Joined(Far(), {dfar, {}, {}, {}, dquery, dkey, Adding(dv), dinput, dforget, {}, {}, {}, {}}),
                     mlstm});
    if (from_x_) AppendGateProducts(&calls, dinput, dforget);
    calls.push_back({XH_OP_FEATURE_MAP,
                     XH_BACKWARD,
                     Map(),
                     {k_, key_map_, key_features_, dkey, Adding(dk), Parameter({s_.h, s_.d, s_.n})},
                     2});
    calls.push_back({XH_OP_FEATURE_MAP,
                     XH_BACKWARD,
                     Map(),
                     {q_, query_map_, query_features_, dquery, Adding(dq), Parameter({s_.h, s_.d, s_.n})},
                     1});
    calls.push_back({XH_OP_HEAD_GATE, XH_BACKWARD, "",
                     Joined(Gate(), {dgate, Like(q_plain_), Like(k_plain_), Adding(dv), Parameter({s_.h, 3 * s_.d}),
                                     Parameter({s_.h})}),
                     0});
    return calls;
  }

 private:
  struct GateOf {
    xh_tensor weight, bias, rows;  // where it is a product: [H,D], [H], f32[B*T,H]
    xh_tensor heads;               // [B,H,T]
  };

  xh_tensor Head(int64_t heads, int64_t d, float scale, float shift = 0) {
    return bench_.Heads(XH_BF16, s_.b, heads, s_.t, d, scale, shift);
  }
  // The same layout, other memory.
  xh_tensor Like(const xh_tensor& x) {
    xh_tensor other = x;
    int64_t count = 1;
    for (int i = 0; i < x.rank; ++i) count *= x.shape[i];
    other.data = bench_.Tensor(x.dtype, {count}, 0).data;
    return other;
  }
  static xh_tensor Adding(xh_tensor x) { return x.flags = XH_TENSOR_ACCUMULATE, x; }
  xh_tensor Parameter(const std::vector<int64_t>& shape) { return Adding(bench_.Tensor(XH_F32, shape, 0)); }
  static std::vector<xh_tensor> Joined(std::vector<xh_tensor> first, const std::vector<xh_tensor>& second = {}) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
  }

  GateOf GateProduct(float bias) {
    GateOf gate = {bench_.Tensor(XH_BF16, {s_.h, s_.width}, 0.01f),
                   bench_.Tensor(XH_BF16, {s_.h}, 0, bias),
                   bench_.Tensor(XH_F32, {s_.b * s_.t, s_.h}, 0),
                   {}};
    gate.heads = gate.rows;
    gate.heads.rank = 3;
    const int64_t shape[] = {s_.b, s_.h, s_.t}, stride[] = {s_.t * s_.h, 1, s_.h};
    std::copy(shape, shape + 3, gate.heads.shape);
    std::copy(stride, stride + 3, gate.heads.stride);
    return gate;
  }
  // Both flow into x.
  void AppendGateProducts(std::vector<Bench::Call>* calls, const xh_tensor& dinput, const xh_tensor& dforget) {
    const xh_tensor dx = Like(x_);
    for (const GateOf* gate : {&input_, &forget_}) {
      const bool first = gate == &input_;
      xh_tensor drows = gate->rows;
      drows.data = first ? dinput.data : dforget.data;
      calls->push_back({XH_OP_MATMUL,
                        XH_BACKWARD,
                        "",
                        {x_, gate->weight, gate->bias, gate->rows, drows, first ? dx : Adding(dx),
                         Parameter({s_.h, s_.width}), Parameter({s_.h})},
                        3});
    }
  }

  std::vector<xh_tensor> Gate() { return {q_plain_, k_plain_, v_, gate_weight_, gate_bias_, gate_}; }
  std::vector<xh_tensor> Far() {
    return {query_features_, key_features_, v_, input_.heads, forget_.heads, {}, {}, {}, {}, far_, {}, {}, {}};
  }
  std::vector<xh_tensor> Near() { return {q_, k_, v_, {}, {}, {}, {}, near_}; }
  static std::string Map() {
    return Bytes(xh_feature_map_params{XH_SIZED(xh_feature_map_params), XH_FEATURE_HEDGEHOG});
  }
  static std::string Recurrence() {
    return Bytes(xh_mlstm_params{XH_SIZED(xh_mlstm_params), XH_NORMALIZER_PLAIN, 1.0f, 0});
  }
  std::string Windows() {
    windows_.assign(static_cast<size_t>(s_.kv), s_.window);
    return Bytes(xh_attention_params{XH_SIZED(xh_attention_params), s_.sinks,
                                     1.0f / std::sqrt(static_cast<float>(s_.d)), static_cast<int32_t>(s_.kv),
                                     windows_.data(), 0});
  }

  Bench& bench_;
  MixerShape s_;
  bool from_x_;
  std::vector<int32_t> windows_;
  xh_tensor q_plain_, k_plain_, q_, k_, v_, query_map_, key_map_, query_features_, key_features_;
  xh_tensor gate_weight_, gate_bias_, gate_, far_, near_, mixed_, x_;
  GateOf input_, forget_;
};

// The bytes that must move and the operations that must be done: inputs and results once each, nothing in between.
struct MixerFloor {
  double bytes, operations, backward_bytes, backward_operations;
};
MixerFloor FloorOf(const MixerShape& s, bool from_x) {
  const double tokens = static_cast<double>(s.b * s.t), h = static_cast<double>(s.h), kv = static_cast<double>(s.kv),
               d = static_cast<double>(s.d), n = static_cast<double>(2 * s.n), t = static_cast<double>(s.t),
               w = std::min<double>(s.window, t), width = static_cast<double>(s.width);
  const double visible = w * (w + 1) / 2 + (t - w) * (w + s.sinks);
  const double maps = 4 * tokens * h * d * n / 2, attention = 4 * visible * static_cast<double>(s.b) * h * d;
  const double recurrence = tokens * h * (65 * (n + d) + 4 * n * d);
  const double products = from_x ? 4 * tokens * h * width : 0;
  const double inputs = tokens * (2 * d * (2 * h + 3 * kv) + (from_x ? 2 * width : 8 * h)), result = tokens * 2 * d * h;
  return {inputs + result, maps + attention + recurrence + products, 3 * inputs + 2 * result,
          3 * maps + 3.5 * attention + recurrence + tokens * h * (65 * (3 * n + 2 * d) + 8 * n * d) + 3 * products};
}

// Where the time of forward + backward goes: each op with its gradients, in milliseconds, one line.
void PrintParts(Bench& bench, const std::vector<Bench::Call>& calls) {
  std::printf("  of which (op, ms):");
  for (const Bench::Call& call : calls) {
    if (call.pass != XH_BACKWARD) continue;
    Bench::Call backward = call;
    backward.forward = 0;
    const Bench::Timed both = bench.Time({calls[static_cast<size_t>(call.forward)], backward});
    std::printf(" %d %.2f", call.op, both.median * 1e3);
  }
  std::printf("\n");
}

void TimeMixer(Bench& bench, const MixerShape& s) {
  for (const bool from_x : {false, true}) {
    char text[128];
    std::snprintf(text, sizeof(text), "mixer %lld x %lld, %lld/%lld heads x %lld%s", static_cast<long long>(s.b),
                  static_cast<long long>(s.t), static_cast<long long>(s.h), static_cast<long long>(s.kv),
                  static_cast<long long>(s.d), from_x ? ", gates of x" : "");
    const std::string name = text;
    if (!Wanted(name)) continue;
    const MixerFloor floor = FloorOf(s, from_x);
    Mixer mixer(bench, s, from_x);
    Print(name + " forward", bench.Time(mixer.Forward(XH_INFER)), floor.bytes, floor.operations, bench);
    const std::vector<Bench::Call> both = mixer.ForwardAndBackward();
    Print(name + " forward + backward", bench.Time(both), floor.backward_bytes, floor.backward_operations, bench);
    PrintParts(bench, both);
    bench.Clear();
  }
}

}  // namespace

#endif  // XHYBRID_TESTS_BENCH_GPU_MIXER_H_
