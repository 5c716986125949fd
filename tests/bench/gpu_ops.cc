// Times single ops of a backend plugin at the sizes of docs/performance.md, through xhybrid_plugin.h alone:
//   gpu_ops PLUGIN.so [FILTER]
// Each line: the median and the fastest of 20 runs, the floor (the larger of bytes over copy bandwidth and operations
// over matrix rate, both measured at the start), and the share of the floor reached. Inputs are random; several runs
// are queued between two synchronisations, so that launches do not count.
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "xhybrid_plugin.h"

namespace {

struct Text {
  std::string text;
};

xh_error* NewError(xh_code, const char* origin, const char* text) {
  return reinterpret_cast<xh_error*>(new Text{std::string(origin) + ": " + text});
}
void Log(xh_log_level, const char* origin, const char* text) { std::fprintf(stderr, "%s: %s\n", origin, text); }

// Prints and frees an error; true when there was one.
bool Failed(xh_error* error) {
  if (error == nullptr) return false;
  Text* const text = reinterpret_cast<Text*>(error);
  std::fprintf(stderr, "%s\n", text->text.c_str());
  delete text;
  return true;
}
void Must(xh_error* error) {
  if (Failed(error)) std::exit(1);
}

const xh_backend* g_backend = nullptr;
double g_bandwidth = 0, g_rate = 0;  // bytes and operations a second
std::string g_filter;

class Bench {
 public:
  Bench() {
    Must(g_backend->device_open(0, nullptr, 0, &device_));
    Must(g_backend->stream_open(device_, nullptr, &stream_));
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& value : normal_) value = normal(random);
  }
  ~Bench() {
    Clear();
    g_backend->stream_close(stream_);
    g_backend->device_close(device_);
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  void* Allocate(int64_t bytes) {
    void* memory = nullptr;
    Must(g_backend->allocate(device_, std::max<int64_t>(bytes, 256), 256, &memory));
    memory_.push_back(memory);
    return memory;
  }
  void Clear() {
    Must(g_backend->synchronize(stream_));
    for (void* memory : memory_) g_backend->release(device_, memory);
    memory_.clear();
  }

  // Normal numbers times `scale` plus `shift`; of 1 million distinct ones.
  xh_tensor Tensor(xh_dtype dtype, std::vector<int64_t> shape, float scale, float shift = 0) {
    xh_tensor x = {};
    x.dtype = dtype;
    x.rank = static_cast<int32_t>(shape.size());
    int64_t count = 1;
    for (int i = x.rank - 1; i >= 0; --i) {
      x.shape[i] = shape[static_cast<size_t>(i)];
      x.stride[i] = count;
      count *= x.shape[i];
    }
    const int64_t each = dtype == XH_BF16 ? 2 : 4;
    x.data = Allocate(count * each);
    std::vector<char> host(normal_.size() * static_cast<size_t>(each));
    for (size_t i = 0; i < normal_.size(); ++i) {
      const float value = normal_[i] * scale + shift;
      if (dtype == XH_I32) {
        const int32_t whole = static_cast<int32_t>(shift);
        std::memcpy(&host[4 * i], &whole, 4);
      } else if (dtype == XH_F32) {
        std::memcpy(&host[4 * i], &value, 4);
      } else {
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        const uint16_t half = static_cast<uint16_t>((bits + 0x8000u) >> 16);
        std::memcpy(&host[2 * i], &half, 2);
      }
    }
    const int64_t bytes = count * each, piece = static_cast<int64_t>(host.size());
    for (int64_t at = 0; at < bytes;) {  // double what is there
      const int64_t size = std::min(at == 0 ? piece : at, bytes - at);
      const void* const from = at == 0 ? static_cast<const void*>(host.data()) : x.data;
      Must(g_backend->copy(stream_, static_cast<char*>(x.data) + at, from, size));
      at += size;
    }
    Must(g_backend->synchronize(stream_));
    return x;
  }
  // [B,H,T,d] held token by token; d 0: [B,H,T].
  xh_tensor Heads(xh_dtype dtype, int64_t b, int64_t h, int64_t t, int64_t d, float scale, float shift = 0) {
    xh_tensor x = Tensor(dtype, {b, t, h, std::max<int64_t>(d, 1)}, scale, shift);
    std::swap(x.shape[1], x.shape[2]);
    std::swap(x.stride[1], x.stride[2]);
    if (d == 0) x.rank = 3;
    return x;
  }

  struct Timed {
    double median = -1, best = -1;
  };
  struct Call {
    xh_op op;
    xh_pass pass;
    std::string params;
    std::vector<xh_tensor> args;
  };

  // All the calls, one after the other, as one thing.
  Timed Time(const std::vector<Call>& calls, const char** implementation = nullptr) {
    std::vector<xh_plan*> plans;
    std::vector<void*> workspaces;
    void* saved = nullptr;
    for (const Call& call : calls) {
      xh_op_desc desc = {};
      desc.struct_size = XH_SIZED(xh_op_desc);
      desc.op = call.op;
      desc.pass = call.pass;
      desc.args = call.args.data();
      desc.arg_count = static_cast<int32_t>(call.args.size());
      desc.params_size = static_cast<uint32_t>(call.params.size());
      desc.params = call.params.empty() ? nullptr : call.params.data();
      xh_plan_info info = {};
      info.struct_size = XH_SIZED(xh_plan_info);
      xh_plan* plan = nullptr;
      if (Failed(g_backend->plan_open(device_, &desc, &plan, &info))) return {};
      plans.push_back(plan);
      workspaces.push_back(Allocate(info.workspace_bytes));
      if (call.pass == XH_FORWARD) saved = Allocate(info.saved_bytes);
      name_ = info.implementation;
      if (implementation != nullptr) *implementation = name_.c_str();
    }
    bool good = true;
    const auto run = [&](int times) {
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < times && good; ++i) {
        for (size_t c = 0; c < calls.size() && good; ++c) {
          good = !Failed(g_backend->plan_run(plans[c], stream_, calls[c].args.data(),
                                             static_cast<int32_t>(calls[c].args.size()), workspaces[c], saved));
        }
      }
      good = good && !Failed(g_backend->synchronize(stream_));
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / times;
    };
    run(1);
    const double once = run(2);
    const int times = static_cast<int>(std::clamp(2e-3 / std::max(once, 1e-6), 1.0, 200.0));
    std::vector<double> seconds;
    for (int i = 0; i < 20 && good; ++i) seconds.push_back(run(times));
    for (xh_plan* plan : plans) g_backend->plan_close(plan);
    if (!good) return {};
    std::sort(seconds.begin(), seconds.end());
    return {seconds[seconds.size() / 2], seconds.front()};
  }

  xh_stream* stream() { return stream_; }
  const std::string& implementation() const { return name_; }

 private:
  xh_device* device_ = nullptr;
  xh_stream* stream_ = nullptr;
  std::vector<void*> memory_;
  std::vector<float> normal_ = std::vector<float>(1 << 20);
  std::string name_;
};

template <class P>
std::string Bytes(const P& params) {
  return std::string(reinterpret_cast<const char*>(&params), sizeof(params));
}

void Print(const std::string& name, const Bench::Timed& timed, double bytes, double operations, const Bench& bench) {
  if (timed.median < 0) {
    std::printf("%-58s failed\n", name.c_str());
    return;
  }
  const double floor = std::max(bytes / g_bandwidth, operations / g_rate);
  std::printf("%-58s %10.4f %10.4f %10.4f %6.1f%% %8.1f GB/s %7.1f TFLOP/s  %s\n", name.c_str(), timed.median * 1e3,
              timed.best * 1e3, floor * 1e3, 100 * floor / timed.median, bytes / timed.median * 1e-9,
              operations / timed.median * 1e-12, bench.implementation().c_str());
  std::fflush(stdout);
}

// Whether a line of this name is asked for.
bool Wanted(const std::string& name) { return g_filter.empty() || name.find(g_filter) != std::string::npos; }

void Ceilings(Bench& bench) {
  const int64_t bytes = int64_t{4} << 30;
  xh_tensor a = bench.Tensor(XH_BF16, {bytes / 2}, 1), b = bench.Tensor(XH_BF16, {bytes / 2}, 1);
  double best = INFINITY;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    for (int j = 0; j < 4; ++j) Must(g_backend->copy(bench.stream(), b.data, a.data, bytes));
    Must(g_backend->synchronize(bench.stream()));
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 4);
  }
  g_bandwidth = 2.0 * static_cast<double>(bytes) / best;
  bench.Clear();
  const int64_t n = 8192;
  const Bench::Timed product = bench.Time(
      {{XH_OP_MATMUL,
        XH_INFER,
        "",
        {bench.Tensor(XH_BF16, {n, n}, 1), bench.Tensor(XH_BF16, {n, n}, 1), {}, bench.Tensor(XH_BF16, {n, n}, 1)}}});
  g_rate = product.median > 0 ? 2.0 * n * n * n / product.median : 790e12;
  bench.Clear();
  std::printf("ceilings: copy %.2f TB/s, bf16 product %.0f TFLOP/s\n", g_bandwidth * 1e-12, g_rate * 1e-12);
  std::printf("%-58s %10s %10s %10s %7s\n", "", "median ms", "best ms", "floor ms", "share");
}

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
                              MlstmShape{64, 3, 1, 512, 128, 64}}) {
    TimeMlstm(bench, s);
  }
  for (const int64_t b : {1, 8, 64}) TimeStep(bench, b);
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
  TimeRows(bench, 65536, 4096);
  TimeHeadOps(bench, 8, 8192, 32, 8, 128);
  return 0;
}
