// Prints the time and the useful arithmetic a second of the sequence mixers at shapes of training and decoding: what
// the formulas need, products above the diagonal or outside the window not counted. Usage: mixer_speed [threads
// [repeats]]
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tests/conformance/backend_fixture.h"

namespace xh::test {
namespace {

class Device {
 public:
  explicit Device(int threads) {
    xh_option option = {};
    option.key = "threads";
    option.kind = XH_OPTION_INT;
    option.integer = threads;
    if (Failed(Backend().device_open(0, &option, 1, &device_)) ||
        Failed(Backend().stream_open(device_, nullptr, &stream_))) {
      std::exit(1);
    }
  }
  ~Device() {
    for (void* memory : memory_) Backend().release(device_, memory);
    Backend().stream_close(stream_);
    Backend().device_close(device_);
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  static bool Failed(xh_error* error) {
    const Outcome outcome = TakeError(error);
    if (outcome.code != 0) std::fprintf(stderr, "%s\n", outcome.message.c_str());
    return outcome.code != 0;
  }

  void* Allocate(int64_t bytes) {
    void* memory = nullptr;
    if (Failed(Backend().allocate(device_, std::max<int64_t>(bytes, 64), 64, &memory))) std::exit(1);
    memory_.push_back(memory);
    return memory;
  }

  // [B,H,T,d] (d 0: a gate [B,H,T]) stored token by token, filled with numbers of [low, high].
  xh_tensor TokenMajor(int64_t b, int64_t h, int64_t t, int64_t d, float low, float high) {
    const int64_t columns = d == 0 ? 1 : d;
    xh_tensor x = {};
    x.rank = d == 0 ? 3 : 4;
    x.dtype = XH_F32;
    const int64_t shape[] = {b, h, t, d}, stride[] = {t * h * columns, columns, h * columns, 1};
    for (int i = 0; i < x.rank; ++i) {
      x.shape[i] = shape[i];
      x.stride[i] = stride[i];
    }
    x.data = Fill(b * h * t * columns, low, high);
    return x;
  }

  xh_tensor Packed(std::vector<int64_t> shape, float low, float high) {
    xh_tensor x = {};
    x.rank = static_cast<int32_t>(shape.size());
    x.dtype = XH_F32;
    int64_t count = 1;
    for (int i = x.rank - 1; i >= 0; --i) {
      x.shape[i] = shape[static_cast<size_t>(i)];
      x.stride[i] = count;
      count *= x.shape[i];
    }
    x.data = Fill(count, low, high);
    return x;
  }

  // `start` of rows packed from documents of `length` tokens.
  xh_tensor Starts(int64_t batch, int64_t tokens, int64_t length) {
    xh_tensor x = Packed({batch, tokens}, 0.0f, 0.0f);
    x.dtype = XH_I32;
    for (int64_t e = 0; e < batch * tokens; ++e) {
      static_cast<int32_t*>(x.data)[e] = static_cast<int32_t>(e % tokens / length * length);
    }
    return x;
  }

  // Fastest of `repeats` runs in seconds.
  template <class P>
  double Time(xh_op op, xh_pass pass, const P& params, const std::vector<xh_tensor>& args, int repeats) {
    xh_op_desc desc = {};
    desc.struct_size = XH_SIZED(xh_op_desc);
    desc.op = op;
    desc.pass = pass;
    desc.args = args.data();
    desc.arg_count = static_cast<int32_t>(args.size());
    desc.params = &params;
    desc.params_size = sizeof(P);
    xh_plan_info info = {};
    info.struct_size = XH_SIZED(xh_plan_info);
    xh_plan* plan = nullptr;
    if (Failed(Backend().plan_open(device_, &desc, &plan, &info))) std::exit(1);
    void* const workspace = Allocate(info.workspace_bytes);
    if (pass != XH_BACKWARD) saved_ = Allocate(info.saved_bytes);
    double best = INFINITY;
    for (int i = 0; i < repeats; ++i) {
      const auto start = std::chrono::steady_clock::now();
      if (Failed(Backend().plan_run(plan, stream_, args.data(), desc.arg_count, workspace, saved_)) ||
          Failed(Backend().synchronize(stream_))) {
        std::exit(1);
      }
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    Backend().plan_close(plan);
    return best;
  }

 private:
  float* Fill(int64_t count, float low, float high) {
    float* const data = static_cast<float*>(Allocate(count * 4));
    for (int64_t i = 0; i < count; ++i) {
      data[i] = low + (high - low) * static_cast<float>(std::rand()) / static_cast<float>(RAND_MAX);
    }
    return data;
  }

  xh_device* device_ = nullptr;
  xh_stream* stream_ = nullptr;
  void* saved_ = nullptr;
  std::vector<void*> memory_;
};

void Print(const std::string& name, const char* pass, double seconds, double operations) {
  std::printf("%-52s %-8s %9.3f ms %7.1f GFLOP/s\n", name.c_str(), pass, seconds * 1e3, operations / seconds * 1e-9);
}

std::string Packing(int64_t documents) { return documents == 0 ? "" : " in " + std::to_string(documents); }

struct MlstmShape {
  int64_t b, h, kv, t, n, d;
  int64_t documents = 0;  // that each row is packed from; 0: not packed
};

void TimeMlstm(const MlstmShape& s, int threads, int repeats) {
  Device device(threads);
  const xh_mlstm_params params = {XH_SIZED(xh_mlstm_params), XH_NORMALIZER_PLAIN, 1.0f, 0};
  std::vector<xh_tensor> args = {
      device.TokenMajor(s.b, s.h, s.t, s.n, 0.0f, 0.1f), device.TokenMajor(s.b, s.h, s.t, s.n, 0.0f, 0.1f),
      device.TokenMajor(s.b, s.kv, s.t, s.d, -1.0f, 1.0f), device.TokenMajor(s.b, s.h, s.t, 0, -1.0f, 1.0f),
      device.TokenMajor(s.b, s.h, s.t, 0, 3.0f, 6.0f)};
  args.resize(9);
  if (s.documents > 0) args[8] = device.Starts(s.b, s.t, s.t / s.documents);
  args.push_back(device.TokenMajor(s.b, s.h, s.t, s.d, 0.0f, 0.0f));
  args.resize(13);
  const std::string name = "mlstm B" + std::to_string(s.b) + " H" + std::to_string(s.h) + " KV" + std::to_string(s.kv) +
                           " T" + std::to_string(s.t) + " n" + std::to_string(s.n) + " d" + std::to_string(s.d) +
                           Packing(s.documents);
  // In chunks of 64: inside a chunk the products up to the diagonal, across chunks those with the state.
  const double tokens = static_cast<double>(s.b * s.h * s.t), chunk = 65.0;
  const double n = static_cast<double>(s.n), d = static_cast<double>(s.d);
  const double forward = tokens * (chunk * (n + d) + 4.0 * n * d);
  const double backward = tokens * (chunk * (3.0 * n + 2.0 * d) + 8.0 * n * d);
  Print(name, "infer", device.Time(XH_OP_MLSTM, XH_INFER, params, args, repeats), forward);
  Print(name, "forward", device.Time(XH_OP_MLSTM, XH_FORWARD, params, args, repeats), forward);
  args.push_back(device.TokenMajor(s.b, s.h, s.t, s.d, -1.0f, 1.0f));
  args.resize(17);
  for (size_t i = 0; i < 5; ++i) {
    xh_tensor gradient = args[i];
    gradient.data = device.Allocate(gradient.shape[0] * gradient.stride[0] * 4);
    args.push_back(gradient);
  }
  args.resize(26);
  Print(name, "backward", device.Time(XH_OP_MLSTM, XH_BACKWARD, params, args, repeats), backward);
}

void TimeStep(const MlstmShape& s, int threads, int repeats) {
  Device device(threads);
  const xh_mlstm_params params = {XH_SIZED(xh_mlstm_params), XH_NORMALIZER_PLAIN, 1.0f, 0};
  std::vector<xh_tensor> args = {device.TokenMajor(s.b, s.h, 1, s.n, 0.0f, 0.1f),
                                 device.TokenMajor(s.b, s.h, 1, s.n, 0.0f, 0.1f),
                                 device.TokenMajor(s.b, s.kv, 1, s.d, -1.0f, 1.0f),
                                 device.TokenMajor(s.b, s.h, 1, 0, -1.0f, 1.0f),
                                 device.TokenMajor(s.b, s.h, 1, 0, 3.0f, 6.0f),
                                 device.Packed({s.b, s.h, s.n, s.d}, -1.0f, 1.0f),
                                 device.Packed({s.b, s.h, s.n}, 0.5f, 1.0f),
                                 device.Packed({s.b, s.h}, 0.0f, 1.0f),
                                 xh_tensor{},
                                 device.TokenMajor(s.b, s.h, 1, s.d, 0.0f, 0.0f)};
  for (size_t i = 5; i < 8; ++i) args.push_back(args[i]);
  const double seconds = device.Time(XH_OP_MLSTM, XH_INFER, params, args, repeats * 20);
  std::printf("mlstm step B%lld H%lld n%lld d%lld %38.1f us %8.1f GB/s\n", static_cast<long long>(s.b),
              static_cast<long long>(s.h), static_cast<long long>(s.n), static_cast<long long>(s.d), seconds * 1e6,
              static_cast<double>(s.b * s.h * s.n * s.d * 8) / seconds * 1e-9);
}

struct AttentionShape {
  int64_t b, h, kv, t, d;
  int32_t window, sinks;
  int64_t documents = 0;  // that each row is packed from; 0: not packed
};

void TimeAttention(const AttentionShape& s, int threads, int repeats) {
  Device device(threads);
  const std::vector<int32_t> windows(static_cast<size_t>(s.kv), s.window);
  const xh_attention_params params = {XH_SIZED(xh_attention_params), s.sinks,        0.125f,
                                      static_cast<int32_t>(s.kv),    windows.data(), 0};
  std::vector<xh_tensor> args = {device.TokenMajor(s.b, s.h, s.t, s.d, -1.0f, 1.0f),
                                 device.TokenMajor(s.b, s.kv, s.t, s.d, -1.0f, 1.0f),
                                 device.TokenMajor(s.b, s.kv, s.t, s.d, -1.0f, 1.0f)};
  args.resize(7);
  if (s.documents > 0) args[6] = device.Starts(s.b, s.t, s.t / s.documents);
  args.push_back(device.TokenMajor(s.b, s.h, s.t, s.d, 0.0f, 0.0f));
  double visible = 0.0;
  for (int64_t t = 0; t < s.t; ++t) {
    const int64_t start = s.documents == 0 ? 0 : t / (s.t / s.documents) * (s.t / s.documents);
    for (int64_t p = start; p <= t; ++p) {
      visible += s.window == 0 || t - p < s.window || p - start < s.sinks ? 1.0 : 0.0;
    }
  }
  const double product = 2.0 * visible * static_cast<double>(s.b * s.h * s.d);
  const std::string name = "attention B" + std::to_string(s.b) + " H" + std::to_string(s.h) + " KV" +
                           std::to_string(s.kv) + " T" + std::to_string(s.t) + " d" + std::to_string(s.d) + " window " +
                           std::to_string(s.window) + Packing(s.documents);
  Print(name, "forward", device.Time(XH_OP_ATTENTION, XH_FORWARD, params, args, repeats), 2.0 * product);
  args.push_back(device.TokenMajor(s.b, s.h, s.t, s.d, -1.0f, 1.0f));
  for (size_t i = 0; i < 3; ++i) {
    xh_tensor gradient = args[i];
    gradient.data = device.Allocate(gradient.shape[0] * gradient.stride[0] * 4);
    args.push_back(gradient);
  }
  args.resize(16);
  Print(name, "backward", device.Time(XH_OP_ATTENTION, XH_BACKWARD, params, args, repeats), 5.0 * product);
}

void TimeDecode(const AttentionShape& s, int threads, int repeats) {
  Device device(threads);
  const std::vector<int32_t> windows(static_cast<size_t>(s.kv), s.window);
  const int64_t each = s.window == 0 ? s.t : s.window + s.sinks;
  const xh_attention_params params = {XH_SIZED(xh_attention_params), s.sinks,        0.125f,
                                      static_cast<int32_t>(s.kv),    windows.data(), s.t};
  std::vector<xh_tensor> args = {device.TokenMajor(s.b, s.h, 1, s.d, -1.0f, 1.0f),
                                 device.TokenMajor(s.b, s.kv, 1, s.d, -1.0f, 1.0f),
                                 device.TokenMajor(s.b, s.kv, 1, s.d, -1.0f, 1.0f),
                                 device.Packed({s.b, s.kv * each, s.d}, -1.0f, 1.0f),
                                 device.Packed({s.b, s.kv * each, s.d}, -1.0f, 1.0f),
                                 device.Packed({s.b}, 0.0f, 0.0f),
                                 xh_tensor{},
                                 device.TokenMajor(s.b, s.h, 1, s.d, 0.0f, 0.0f)};
  args[5].dtype = XH_I32;
  for (int64_t b = 0; b < s.b; ++b) static_cast<int32_t*>(args[5].data)[b] = static_cast<int32_t>(s.t - 1);
  const double seconds = device.Time(XH_OP_ATTENTION, XH_INFER, params, args, repeats * 20);
  std::printf("attention step B%lld H%lld KV%lld d%lld window %d context %lld %16.1f us %8.1f GB/s\n",
              static_cast<long long>(s.b), static_cast<long long>(s.h), static_cast<long long>(s.kv),
              static_cast<long long>(s.d), s.window, static_cast<long long>(s.t), seconds * 1e6,
              static_cast<double>(s.b * s.kv * std::min(each, s.t) * s.d * 8) / seconds * 1e-9);
}

}  // namespace
}  // namespace xh::test

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 0;
  const int repeats = argc > 2 ? std::atoi(argv[2]) : 10;
  using xh::test::AttentionShape;
  using xh::test::MlstmShape;
  for (const MlstmShape& s :
       {MlstmShape{8, 3, 1, 512, 64, 64}, MlstmShape{8, 3, 1, 512, 128, 64}, MlstmShape{8, 3, 1, 512, 64, 64, 8},
        MlstmShape{1, 3, 1, 4096, 64, 64}, MlstmShape{2, 8, 8, 1024, 128, 128}}) {
    xh::test::TimeMlstm(s, threads, repeats);
  }
  for (const MlstmShape& s : {MlstmShape{1, 3, 1, 1, 64, 64}, MlstmShape{1, 32, 8, 1, 128, 128}}) {
    xh::test::TimeStep(s, threads, repeats);
  }
  for (const AttentionShape& s : {AttentionShape{8, 3, 1, 512, 64, 512, 4}, AttentionShape{8, 3, 1, 512, 64, 64, 4},
                                  AttentionShape{8, 3, 1, 512, 64, 64, 4, 8}, AttentionShape{8, 3, 3, 512, 64, 0, 0},
                                  AttentionShape{1, 8, 2, 4096, 128, 512, 4}}) {
    xh::test::TimeAttention(s, threads, repeats);
  }
  for (const AttentionShape& s :
       {AttentionShape{1, 3, 1, 4096, 64, 512, 4}, AttentionShape{1, 32, 8, 4096, 128, 0, 0}}) {
    xh::test::TimeDecode(s, threads, repeats);
  }
  return 0;
}
