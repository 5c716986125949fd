// One plan of the cpu backend, run from several threads, each with a stream and a workspace of its own.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "xhybrid_plugin.h"

namespace {

xh_error* NoErrors(xh_code, const char*, const char* text) {
  ADD_FAILURE() << text;
  return nullptr;
}
void Log(xh_log_level, const char*, const char*) {}
constexpr xh_host kHost = {XH_SIZED(xh_host), XH_ABI_VERSION, NoErrors, Log};

const xh_backend* Cpu() {
  void* library = dlopen(XH_CPU_PLUGIN, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return nullptr;
  const auto entry = reinterpret_cast<xh_plugin_entry>(dlsym(library, "xh_plugin_v1"));
  return static_cast<const xh_backend*>(entry(&kHost, 0)->table);
}

xh_tensor Matrix(std::vector<float>* values, int64_t rows, int64_t columns) {
  xh_tensor tensor = {};
  tensor.data = values != nullptr ? values->data() : nullptr;
  tensor.shape[0] = rows;
  tensor.shape[1] = columns;
  tensor.stride[0] = columns;
  tensor.stride[1] = 1;
  tensor.rank = 2;
  tensor.dtype = XH_F32;
  return tensor;
}

TEST(PlansTest, OnePlanOnManyStreams) {
  constexpr int64_t kRows = 33, kWidth = 48, kOut = 20;
  const xh_backend* cpu = Cpu();
  ASSERT_NE(cpu, nullptr) << dlerror();
  xh_option one = {};
  one.key = "threads";
  one.kind = XH_OPTION_INT;
  one.integer = 1;
  xh_device* device = nullptr;
  ASSERT_EQ(cpu->device_open(0, &one, 1, &device), nullptr);
  xh_tensor args[4] = {Matrix(nullptr, kRows, kWidth), Matrix(nullptr, kOut, kWidth), {}, Matrix(nullptr, kRows, kOut)};
  xh_op_desc desc = {};
  desc.struct_size = XH_SIZED(xh_op_desc);
  desc.op = XH_OP_MATMUL;
  desc.pass = XH_INFER;
  desc.args = args;
  desc.arg_count = 4;
  xh_plan_info info = {};
  info.struct_size = XH_SIZED(xh_plan_info);
  xh_plan* plan = nullptr;
  ASSERT_EQ(cpu->plan_open(device, &desc, &plan, &info), nullptr);

  std::vector<float> w(kOut * kWidth);
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i % 7) - 3;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      std::vector<float> x(kRows * kWidth), y(kRows * kOut);
      for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>((i + static_cast<size_t>(t)) % 5);
      xh_stream* stream = nullptr;
      EXPECT_EQ(cpu->stream_open(device, nullptr, &stream), nullptr);
      void* workspace = nullptr;
      EXPECT_EQ(cpu->allocate(device, info.workspace_bytes + 1, info.alignment, &workspace), nullptr);
      for (int round = 0; round < 20; ++round) {
        const xh_tensor run[4] = {Matrix(&x, kRows, kWidth), Matrix(&w, kOut, kWidth), {}, Matrix(&y, kRows, kOut)};
        EXPECT_EQ(cpu->plan_run(plan, stream, run, 4, workspace, nullptr), nullptr);
        EXPECT_EQ(cpu->synchronize(stream), nullptr);
        float expected = 0;  // whole numbers: exact in any order
        for (int64_t k = 0; k < kWidth; ++k) expected += x[k] * w[k];
        EXPECT_EQ(y[0], expected);
      }
      cpu->release(device, workspace);
      cpu->stream_close(stream);
    });
  }
  for (std::thread& thread : threads) thread.join();
  cpu->plan_close(plan);
  cpu->device_close(device);
}

}  // namespace
