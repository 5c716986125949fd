// Runs ops of a backend plugin through xhybrid_plugin.h alone and times them. For programs of one source file.
#ifndef XHYBRID_TESTS_BENCH_GPU_BENCH_H_
#define XHYBRID_TESTS_BENCH_GPU_BENCH_H_

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
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
    int forward = -1;  // of BACKWARD: the place of its FORWARD among the calls; -1: the last one before it
  };

  // All the calls, one after the other, as one thing. `recorded`: repeated as a capture.
  Timed Time(const std::vector<Call>& calls, const char** implementation = nullptr, bool recorded = false) {
    std::vector<xh_plan*> plans;
    std::vector<void*> workspaces, saved;
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
      saved.push_back(call.pass == XH_FORWARD ? Allocate(info.saved_bytes) : nullptr);
      if (call.pass == XH_BACKWARD) saved.back() = saved[ForwardOf(calls, saved.size() - 1)];
      name_ = info.implementation;
      if (implementation != nullptr) *implementation = name_.c_str();
    }
    bool good = true;
    xh_capture* capture = nullptr;
    const auto once_all = [&] {
      for (size_t c = 0; c < calls.size() && good; ++c) {
        good = !Failed(g_backend->plan_run(plans[c], stream_, calls[c].args.data(),
                                           static_cast<int32_t>(calls[c].args.size()), workspaces[c], saved[c]));
      }
    };
    const auto run = [&](int times) {
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < times && good; ++i) {
        if (capture == nullptr) {
          once_all();
        } else {
          good = !Failed(g_backend->capture_replay(capture, stream_));
        }
      }
      good = good && !Failed(g_backend->synchronize(stream_));
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / times;
    };
    run(1);
    if (recorded && good) {
      Must(g_backend->capture_begin(stream_));
      once_all();
      Must(g_backend->capture_end(stream_, &capture));
      run(1);
    }
    const double once = run(2);
    const int times = static_cast<int>(std::clamp(2e-3 / std::max(once, 1e-6), 1.0, 200.0));
    std::vector<double> seconds;
    for (int i = 0; i < 20 && good; ++i) seconds.push_back(run(times));
    if (capture != nullptr) g_backend->capture_close(capture);
    for (xh_plan* plan : plans) g_backend->plan_close(plan);
    if (!good) return {};
    std::sort(seconds.begin(), seconds.end());
    return {seconds[seconds.size() / 2], seconds.front()};
  }

  xh_stream* stream() { return stream_; }
  const std::string& implementation() const { return name_; }

 private:
  static size_t ForwardOf(const std::vector<Call>& calls, size_t backward) {
    if (calls[backward].forward >= 0) return static_cast<size_t>(calls[backward].forward);
    size_t at = backward;
    while (calls[at].pass != XH_FORWARD) --at;
    return at;
  }

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

// Appends a figure to the file that XH_FIGURES names: name, milliseconds and their floor, with tabs between.
void Record(const std::string& name, double milliseconds, double floor) {
  const char* const path = std::getenv("XH_FIGURES");
  std::FILE* const file = path == nullptr ? nullptr : std::fopen(path, "a");
  if (file == nullptr) return;
  std::fprintf(file, "%s\t%.4f\tms\t%.4f\n", name.c_str(), milliseconds, floor);
  std::fclose(file);
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
  Record(name, timed.median * 1e3, floor * 1e3);
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

}  // namespace

#endif  // XHYBRID_TESTS_BENCH_GPU_BENCH_H_
