// Times single ops of a backend plugin at the sizes of docs/performance.md, through xhybrid_plugin.h alone:
//   gpu_ops PLUGIN.so [FILTER]
// Each line: the median and the fastest of 20 runs, the floor (the larger of bytes over copy bandwidth and operations
// over matrix rate, both measured at the start), and the share of the floor reached. Inputs are random; several runs
// are queued between two synchronisations, so that launches do not count.
#include <dlfcn.h>

#include "gpu_bench.h"
#include "gpu_mixer.h"

namespace {

struct MlstmShape {
  int64_t b, h, kv, t, n, d;
};

std::vector<xh_tensor> MlstmArgs(Bench& bench, const MlstmShape& s) {
  std::vector<xh_tensor> args = {bench.Heads(XH_BF16, s.b, s.h, s.t, s.n, 0.002f, 1.0f / static_cast<float>(s.n)),
                                 bench.Heads(XH_BF16, s.b, s.h, s.t, s.n, 0.002f, 1.0f / static_cast<float>(s.n)),
                                 bench.Heads(XH_BF16, s.b, s.kv, s.t, s.d, 1), bench.Heads(XH_F32, s.b, s.h, s.t, 0, 1),
                                 bench.Heads(XH_F32, s.b, s.h, s.t, 0, 1, 4.5f)};
  args.resize(9);
  args.push_back(bench.Heads(XH_BF16, s.b, s.h, s.t, s.d, 0));
  args.resize(13);
  return args;
}

// BACKWARD's arguments behind those of FORWARD: gradients of `outputs` (one of them) and of the first `inputs`.
std::vector<xh_tensor> WithGradients(Bench& bench, std::vector<xh_tensor> args, size_t inputs, size_t outputs,
                                     size_t wanted) {
  args.push_back(args[inputs]);
  std::vector<int64_t> shape(args[inputs].shape, args[inputs].shape + args[inputs].rank);
  args.back().data = bench.Tensor(args[inputs].dtype, shape, 1).data;
  args.resize(inputs + 2 * outputs);
  for (size_t i = 0; i < inputs; ++i) {
    xh_tensor gradient = args[i];
    if (i < wanted && gradient.dtype != 0) {
      shape.assign(gradient.shape, gradient.shape + gradient.rank);
      gradient.data = bench.Tensor(gradient.dtype, shape, 0).data;
    } else {
      gradient = {};
    }
    args.push_back(gradient);
  }
  return args;
}

void TimeMlstm(Bench& bench, const MlstmShape& s) {
  char text[128];
  std::snprintf(text, sizeof(text), "mlstm %lld x %lld, %lld/%lld heads, %lld x %lld", static_cast<long long>(s.b),
                static_cast<long long>(s.t), static_cast<long long>(s.h), static_cast<long long>(s.kv),
                static_cast<long long>(s.n), static_cast<long long>(s.d));
  const std::string name = text;
  if (!Wanted(name)) return;
  const std::string params = Bytes(xh_mlstm_params{XH_SIZED(xh_mlstm_params), XH_NORMALIZER_PLAIN, 1.0f, 0});
  const std::vector<xh_tensor> args = MlstmArgs(bench, s);
  const double tokens = static_cast<double>(s.b * s.h * s.t), n = static_cast<double>(s.n),
               d = static_cast<double>(s.d), kv = static_cast<double>(s.kv) / static_cast<double>(s.h);
  const double bytes = tokens * 2 * (2 * n + d * kv + d), flops = tokens * (65 * (n + d) + 4 * n * d);
  Print(name + " infer", bench.Time({{XH_OP_MLSTM, XH_INFER, params, args}}), bytes, flops, bench);
  const std::vector<xh_tensor> backward = WithGradients(bench, args, 9, 4, 5);
  const double back_bytes = bytes + tokens * 2 * (2 * n + 2 * d + d * kv + 2 * n + d * kv);
  Print(name + " forward + backward",
        bench.Time({{XH_OP_MLSTM, XH_FORWARD, params, args}, {XH_OP_MLSTM, XH_BACKWARD, params, backward}}), back_bytes,
        flops + tokens * (65 * (3 * n + 2 * d) + 8 * n * d), bench);
  bench.Clear();
}

void TimeStep(Bench& bench, int64_t b) {
  const std::string name = "mlstm step batch " + std::to_string(b) + ", 32 heads, 128 x 128";
  if (!Wanted(name)) return;
  const int64_t h = 32, n = 128;
  const std::string params = Bytes(xh_mlstm_params{XH_SIZED(xh_mlstm_params), XH_NORMALIZER_PLAIN, 1.0f, 0});
  std::vector<xh_tensor> args = {bench.Heads(XH_BF16, b, h, 1, n, 0.002f, 0.01f),
                                 bench.Heads(XH_BF16, b, h, 1, n, 0.002f, 0.01f),
                                 bench.Heads(XH_BF16, b, h, 1, n, 1),
                                 bench.Heads(XH_F32, b, h, 1, 0, 1),
                                 bench.Heads(XH_F32, b, h, 1, 0, 1, 4.5f),
                                 bench.Tensor(XH_F32, {b, h, n, n}, 1),
                                 bench.Tensor(XH_F32, {b, h, n}, 0.1f, 1),
                                 bench.Tensor(XH_F32, {b, h}, 0),
                                 {},
                                 bench.Heads(XH_BF16, b, h, 1, n, 0)};
  for (size_t i = 5; i < 8; ++i) args.push_back(args[i]);
  Print(name, bench.Time({{XH_OP_MLSTM, XH_INFER, params, args}}), static_cast<double>(b * h * n * n * 8), 0, bench);
  bench.Clear();
}

struct AttentionShape {
  int64_t b, h, kv, t, d;
  int32_t window, sinks;
};

void TimeAttention(Bench& bench, const AttentionShape& s, bool backward) {
  char text[128];
  std::snprintf(text, sizeof(text), "attention %lld x %lld, %lld/%lld heads x %lld, window %d",
                static_cast<long long>(s.b), static_cast<long long>(s.t), static_cast<long long>(s.h),
                static_cast<long long>(s.kv), static_cast<long long>(s.d), s.window);
  const std::string name = text;
  if (!Wanted(name)) return;
  const std::vector<int32_t> windows(static_cast<size_t>(s.kv), s.window);
  const std::string params =
      Bytes(xh_attention_params{XH_SIZED(xh_attention_params), s.sinks, 1.0f / std::sqrt(static_cast<float>(s.d)),
                                static_cast<int32_t>(s.kv), windows.data(), 0});
  std::vector<xh_tensor> args = {bench.Heads(XH_BF16, s.b, s.h, s.t, s.d, 1),
                                 bench.Heads(XH_BF16, s.b, s.kv, s.t, s.d, 1),
                                 bench.Heads(XH_BF16, s.b, s.kv, s.t, s.d, 1)};
  args.resize(7);
  args.push_back(bench.Heads(XH_BF16, s.b, s.h, s.t, s.d, 0));
  const double t = static_cast<double>(s.t);
  const double w = s.window == 0 ? t : std::min<double>(s.window, t);
  const double visible = w * (w + 1) / 2 + (t - w) * (w + (s.window == 0 ? 0 : s.sinks));
  const double flops = 4 * visible * static_cast<double>(s.b * s.h * s.d);
  const double bytes = 2.0 * t * static_cast<double>(s.b * s.d * (2 * s.h + 2 * s.kv));
  Print(name + " forward", bench.Time({{XH_OP_ATTENTION, XH_INFER, params, args}}), bytes, flops, bench);
  if (backward) {
    const std::vector<xh_tensor> all = WithGradients(bench, args, 7, 1, 3);
    Print(name + " forward + backward",
          bench.Time({{XH_OP_ATTENTION, XH_FORWARD, params, args}, {XH_OP_ATTENTION, XH_BACKWARD, params, all}}),
          3 * bytes, 3.5 * flops, bench);
  }
  bench.Clear();
}

void TimeFeatureMap(Bench& bench, int64_t b, int64_t t, int64_t u, int64_t h, int64_t d) {
  char text[128];
  std::snprintf(text, sizeof(text), "feature map %lld x %lld, %lld/%lld heads x %lld", static_cast<long long>(b),
                static_cast<long long>(t), static_cast<long long>(u), static_cast<long long>(h),
                static_cast<long long>(d));
  const std::string name = text;
  if (!Wanted(name)) return;
  const std::string params = Bytes(xh_feature_map_params{XH_SIZED(xh_feature_map_params), XH_FEATURE_SOFTMAX});
  const std::vector<xh_tensor> args = {bench.Heads(XH_BF16, b, u, t, d, 1), bench.Tensor(XH_BF16, {h, d, d}, 0.1f),
                                       bench.Heads(XH_BF16, b, h, t, d, 0)};
  const double rows = static_cast<double>(b * t * d);
  const double bytes = 2 * rows * static_cast<double>(u + h);
  const double flops = 2 * rows * static_cast<double>(h * d);
  Print(name + " forward", bench.Time({{XH_OP_FEATURE_MAP, XH_INFER, params, args}}), bytes, flops, bench);
  std::vector<xh_tensor> all = WithGradients(bench, args, 2, 1, 1);
  all[5] = bench.Tensor(XH_F32, {h, d, d}, 0);
  Print(name + " backward",
        bench.Time({{XH_OP_FEATURE_MAP, XH_FORWARD, params, args}, {XH_OP_FEATURE_MAP, XH_BACKWARD, params, all}}),
        2.5 * bytes, 3 * flops, bench);
  bench.Clear();
}

void TimeMatmul(Bench& bench, int64_t m, int64_t n, int64_t k) {
  const std::string name = "matmul " + std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k);
  if (!Wanted(name)) return;
  const std::vector<xh_tensor> args = {
      bench.Tensor(XH_BF16, {m, k}, 1), bench.Tensor(XH_BF16, {n, k}, 0.02f), {}, bench.Tensor(XH_BF16, {m, n}, 0)};
  Print(name, bench.Time({{XH_OP_MATMUL, XH_INFER, "", args}}), 2.0 * static_cast<double>(m * k + n * k + m * n),
        2.0 * static_cast<double>(m) * static_cast<double>(n * k), bench);
  bench.Clear();
}

// A layer of a token: norm, product, gate and sum in one.
void TimeDense(Bench& bench, int64_t n, int64_t k, bool gated) {
  const int64_t f = gated ? n / 2 : n;
  const std::string name = "dense " + std::to_string(n) + " x " + std::to_string(k) + (gated ? " gated" : "");
  if (!Wanted(name)) return;
  const xh_dense_params params = {XH_SIZED(xh_dense_params), gated ? XH_DENSE_SWIGLU : XH_DENSE_LINEAR, 1e-5f};
  const std::vector<xh_tensor> args = {bench.Tensor(XH_BF16, {1, k}, 1),     bench.Tensor(XH_BF16, {k}, 1),
                                       bench.Tensor(XH_BF16, {n, k}, 0.02f), {},
                                       bench.Tensor(XH_BF16, {1, f}, 1),     bench.Tensor(XH_BF16, {1, f}, 0)};
  Print(name, bench.Time({{XH_OP_DENSE, XH_INFER, Bytes(params), args}}), 2.0 * static_cast<double>(n * k + k + 2 * f),
        2.0 * static_cast<double>(n * k), bench);
  bench.Clear();
}

void TimeRows(Bench& bench, int64_t m, int64_t d) {
  const std::string where = " [" + std::to_string(m) + ", " + std::to_string(d) + "]";
  const double size = 2.0 * static_cast<double>(m * d);
  const auto time = [&](const char* name, xh_op op, const std::string& params, std::vector<xh_tensor> args,
                        double moved) {
    if (Wanted(name + where)) Print(name + where, bench.Time({{op, XH_INFER, params, args}}), moved, 0, bench);
  };
  if (!Wanted("rows" + where)) return;
  const xh_tensor x = bench.Tensor(XH_BF16, {m, d}, 1), y = bench.Tensor(XH_BF16, {m, d}, 1),
                  z = bench.Tensor(XH_BF16, {m, d}, 0), w = bench.Tensor(XH_BF16, {d}, 1);
  time("rms_norm", XH_OP_RMS_NORM, Bytes(xh_norm_params{XH_SIZED(xh_norm_params), 1e-5f}), {x, w, z}, 2 * size);
  time("add", XH_OP_ADD, "", {x, y, z}, 3 * size);
  time("swiglu", XH_OP_SWIGLU, "", {x, y, z}, 3 * size);
  bench.Clear();
}

void TimeHeadOps(Bench& bench, int64_t b, int64_t t, int64_t h, int64_t kv, int64_t d) {
  if (!Wanted("head ops")) return;
  const double head = 2.0 * static_cast<double>(b * t * d);
  const xh_tensor q = bench.Heads(XH_BF16, b, h, t, d, 1), k = bench.Heads(XH_BF16, b, kv, t, d, 1),
                  v = bench.Heads(XH_BF16, b, kv, t, d, 1), x = bench.Heads(XH_BF16, b, h, t, d, 1),
                  y = bench.Heads(XH_BF16, b, h, t, d, 0), o = bench.Heads(XH_F32, b, h, t, 0, 0.1f, 0.5f);
  const xh_tensor table = bench.Tensor(XH_F32, {t, d}, 1), position = bench.Tensor(XH_I32, {b}, 0);
  xh_tensor rows = q, turned = y;
  std::swap(rows.shape[1], rows.shape[2]);
  std::swap(rows.stride[1], rows.stride[2]);
  std::swap(turned.shape[1], turned.shape[2]);
  std::swap(turned.stride[1], turned.stride[2]);
  Print("head ops: rope", bench.Time({{XH_OP_ROPE, XH_INFER, "", {rows, table, position, turned}}}),
        2 * head * static_cast<double>(h), 0, bench);
  Print("head ops: gate",
        bench.Time({{XH_OP_HEAD_GATE,
                     XH_INFER,
                     "",
                     {q, k, v, bench.Tensor(XH_BF16, {h, 3 * d}, 0.02f), bench.Tensor(XH_BF16, {h}, 0, -2), o}}}),
        head * static_cast<double>(h + 2 * kv), 0, bench);
  Print("head ops: mix", bench.Time({{XH_OP_MIX, XH_INFER, "", {o, q, x, y}}}), 3 * head * static_cast<double>(h), 0,
        bench);
  // BACKWARD alone: what FORWARD saves is empty.
  const std::vector<xh_tensor> gate = {
      q, k, v, bench.Tensor(XH_F32, {h, 3 * d}, 0.02f), bench.Tensor(XH_F32, {h}, 0, -2), o};
  Print("head ops: gate backward",
        bench.Time({{XH_OP_HEAD_GATE, XH_BACKWARD, "", WithGradients(bench, gate, 5, 1, 5)}}),
        2 * head * static_cast<double>(h + 2 * kv), 0, bench);
  const std::vector<xh_tensor> mix = {o, q, x, y};
  Print("head ops: mix backward", bench.Time({{XH_OP_MIX, XH_BACKWARD, "", WithGradients(bench, mix, 3, 1, 3)}}),
        5 * head * static_cast<double>(h), 0, bench);
  bench.Clear();
}

// A token of hybrid mixers, window full, one behind the other with state of their own: as one op each, then as the ops
// it is composed of. Times are of one mixer.
void TimeHybridStep(Bench& bench, int64_t b, int layers) {
  const std::string name = "hybrid step, batch " + std::to_string(b);
  if (!Wanted(name)) return;
  constexpr int64_t h = 32, kv = 8, d = 128, n = 64, p = 2 * n, sinks = 4, window = 512, slots = kv * (window + sinks);
  static const std::vector<int32_t> windows(kv, window);
  const xh_hybrid_step_params params = {XH_SIZED(xh_hybrid_step_params),
                                        XH_FEATURE_HEDGEHOG,
                                        XH_NORMALIZER_PLAIN,
                                        1,
                                        0.088f,
                                        sinks,
                                        kv,
                                        0,
                                        windows.data()};
  const xh_attention_params attention = {XH_SIZED(xh_attention_params), sinks, 0.088f, kv, windows.data(), 0};
  const xh_feature_map_params map = {XH_SIZED(xh_feature_map_params), XH_FEATURE_HEDGEHOG};
  const xh_mlstm_params mlstm = {XH_SIZED(xh_mlstm_params), XH_NORMALIZER_PLAIN, 1, 0};
  const auto rows = [&](int64_t heads, int64_t width) { return bench.Heads(XH_BF16, b, heads, 1, width, 1); };
  const auto swapped = [](xh_tensor x) {
    std::swap(x.shape[1], x.shape[2]);
    std::swap(x.stride[1], x.stride[2]);
    return x;
  };
  const xh_tensor table = bench.Tensor(XH_F32, {4096, d}, 1), position = bench.Tensor(XH_I32, {b}, 0, 2000);
  std::vector<Bench::Call> one, composed;
  for (int layer = 0; layer < layers; ++layer) {
    const xh_tensor q = rows(h, d), k = rows(kv, d), v = rows(kv, d), i = bench.Heads(XH_F32, b, h, 1, 0, 1),
                    f = bench.Heads(XH_F32, b, h, 1, 0, 1, 3), query_map = bench.Tensor(XH_BF16, {h, d, n}, 0.1f),
                    key_map = bench.Tensor(XH_BF16, {h, d, n}, 0.1f), w = bench.Tensor(XH_BF16, {h, 3 * d}, 0.02f),
                    bias = bench.Tensor(XH_BF16, {h}, 0, -2), S = bench.Tensor(XH_F32, {b, h, p, d}, 1),
                    z = bench.Tensor(XH_F32, {b, h, p}, 0.1f, 1), m = bench.Tensor(XH_F32, {b, h}, 1),
                    cache_k = bench.Tensor(XH_BF16, {b, slots, d}, 1),
                    cache_v = bench.Tensor(XH_BF16, {b, slots, d}, 1), out = rows(h, d);
    one.push_back({XH_OP_HYBRID_STEP,
                   XH_INFER,
                   Bytes(params),
                   {q, k, v, table, position, query_map, key_map, i, f, w, bias, S, z, m, cache_k, cache_v, out}});
    const xh_tensor o = bench.Heads(XH_F32, b, h, 1, 0, 1), turned_q = rows(h, d), turned_k = rows(kv, d),
                    phi_q = rows(h, p), phi_k = rows(h, p), x = rows(h, d), y = rows(h, d), none = {};
    composed.push_back({XH_OP_ROPE, XH_INFER, "", {swapped(q), table, position, swapped(turned_q)}});
    composed.push_back({XH_OP_ROPE, XH_INFER, "", {swapped(k), table, position, swapped(turned_k)}});
    composed.push_back({XH_OP_HEAD_GATE, XH_INFER, "", {q, k, v, w, bias, o}});
    composed.push_back({XH_OP_FEATURE_MAP, XH_INFER, Bytes(map), {turned_q, query_map, phi_q}});
    composed.push_back({XH_OP_FEATURE_MAP, XH_INFER, Bytes(map), {turned_k, key_map, phi_k}});
    composed.push_back({XH_OP_MLSTM, XH_INFER, Bytes(mlstm), {phi_q, phi_k, v, i, f, S, z, m, none, x, S, z, m}});
    composed.push_back(
        {XH_OP_ATTENTION, XH_INFER, Bytes(attention), {turned_q, turned_k, v, cache_k, cache_v, position, none, y}});
    composed.push_back({XH_OP_MIX, XH_INFER, "", {o, x, y, out}});
  }
  const double bytes = static_cast<double>(b) * (8.0 * h * p * d + 4.0 * slots * d) + 4.0 * h * d * n;
  for (const auto* calls : {&one, &composed}) {
    Bench::Timed timed = bench.Time(*calls, nullptr, true);
    timed.median /= layers;
    timed.best /= layers;
    Print(name + (calls == &one ? ", one op" : ", composed"), timed, bytes, 0, bench);
  }
  bench.Clear();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: gpu_ops PLUGIN.so [FILTER]\n");
    return 2;
  }
  g_filter = argc > 2 ? argv[2] : "";
  void* const library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  static const xh_host host = {XH_SIZED(xh_host), XH_ABI_VERSION, NewError, Log};
  const xh_plugin* const plugin = reinterpret_cast<xh_plugin_entry>(dlsym(library, "xh_plugin_v1"))(&host, 0);
  if (plugin == nullptr || plugin->score == 0) {
    std::fprintf(stderr, "%s: %s\n", argv[1], plugin == nullptr ? "no plugin" : plugin->unavailable);
    return 2;
  }
  g_backend = static_cast<const xh_backend*>(plugin->table);
  Bench bench;
  Ceilings(bench);
  for (const MlstmShape& s : {MlstmShape{8, 32, 32, 8192, 128, 128}, MlstmShape{1, 32, 32, 65536, 128, 128},
                              MlstmShape{8, 32, 8, 8192, 128, 128}, MlstmShape{16, 32, 8, 4096, 64, 64},
                              MlstmShape{64, 3, 1, 512, 128, 64}, MlstmShape{1, 32, 8, 16384, 256, 128}}) {
    TimeMlstm(bench, s);
  }
  for (const int64_t b : {1, 8, 64}) TimeStep(bench, b);
  TimeHybridStep(bench, 1, 32);
  TimeHybridStep(bench, 8, 8);
  for (const int64_t b : {12, 16, 20, 24, 32, 40, 64}) TimeHybridStep(bench, b, 4);
  TimeAttention(bench, {8, 32, 8, 8192, 128, 512, 4}, true);
  TimeAttention(bench, {8, 32, 8, 8192, 128, 0, 0}, false);
  TimeAttention(bench, {16, 32, 8, 4096, 64, 512, 4}, true);
  TimeAttention(bench, {64, 3, 1, 512, 64, 64, 4}, true);
  TimeFeatureMap(bench, 8, 8192, 32, 32, 128);
  TimeFeatureMap(bench, 8, 8192, 8, 32, 128);
  TimeFeatureMap(bench, 16, 4096, 32, 32, 64);
  for (const int64_t m : {1, 8, 64, 16384}) TimeMatmul(bench, m, 14336, 4096);
  TimeMatmul(bench, 1, 1024, 4096);
  TimeMatmul(bench, 1, 4096, 14336);
  TimeMatmul(bench, 1, 128256, 4096);
  for (const int64_t n : {4096, 6144}) TimeDense(bench, n, 4096, false);
  TimeDense(bench, 28672, 4096, true);
  TimeDense(bench, 4096, 14336, false);
  TimeRows(bench, 65536, 4096);
  TimeHeadOps(bench, 8, 8192, 32, 8, 128);
  TimeMixer(bench, {8, 32, 8, 8192, 128, 64, 4096, 512, 4});
  return 0;
}
