// What the cpu backend promises beyond the interface: its facts, and the words with which it refuses.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "tests/conformance/backend_fixture.h"

namespace xh::test {
namespace {

class Device {
 public:
  Device() {
    EXPECT_EQ(TakeError(Backend().device_open(0, nullptr, 0, &device_)).message, "");
    EXPECT_EQ(TakeError(Backend().stream_open(device_, nullptr, &stream_)).message, "");
  }
  ~Device() {
    Backend().stream_close(stream_);
    Backend().device_close(device_);
  }
  xh_device* device() { return device_; }
  xh_stream* stream() { return stream_; }

 private:
  xh_device* device_ = nullptr;
  xh_stream* stream_ = nullptr;
};

TEST(Plugin, DescribesItself) {
  const xh_plugin& plugin = BackendPlugin();
  EXPECT_EQ(plugin.struct_size, sizeof(xh_plugin));
  EXPECT_EQ(plugin.abi, XH_ABI_VERSION);
  EXPECT_EQ(plugin.kind, XH_PLUGIN_BACKEND);
  EXPECT_GT(plugin.score, 0);
  EXPECT_STREQ(plugin.name, "cpu");
  EXPECT_STREQ(plugin.license, "Apache-2.0");
  EXPECT_EQ(Backend().struct_size, sizeof(xh_backend));
}

TEST(Device, AnswersItsFacts) {
  Device device;
  int32_t count = 0;
  EXPECT_EQ(TakeError(Backend().device_count(&count)).code, 0);
  EXPECT_EQ(count, 1);
  xh_option fact = {};
  for (const char* key : {"name", "isa"}) {
    EXPECT_EQ(TakeError(Backend().device_query(device.device(), key, &fact)).message, "");
    EXPECT_EQ(fact.kind, XH_OPTION_TEXT);
    EXPECT_STREQ(fact.key, key);
    EXPECT_GT(std::strlen(fact.text), 0u);
  }
  for (const char* key : {"memory_bytes", "threads"}) {
    EXPECT_EQ(TakeError(Backend().device_query(device.device(), key, &fact)).message, "");
    EXPECT_EQ(fact.kind, XH_OPTION_INT);
    EXPECT_GT(fact.integer, 0);
  }
  EXPECT_EQ(TakeError(Backend().device_query(device.device(), "host_memory", &fact)).message, "");
  EXPECT_EQ(fact.kind, XH_OPTION_BOOL);
  EXPECT_EQ(fact.integer, 1);
  const Outcome unknown = TakeError(Backend().device_query(device.device(), "colour", &fact));
  EXPECT_EQ(unknown.code, XH_NOT_FOUND);
  EXPECT_NE(unknown.message.find("colour"), std::string::npos);
}

TEST(Device, RefusesUnknownOptionsAndIndices) {
  xh_device* device = nullptr;
  xh_option option = {};
  option.key = "speed";
  option.kind = XH_OPTION_INT;
  EXPECT_NE(TakeError(Backend().device_open(0, &option, 1, &device)).message.find("'speed'"), std::string::npos);
  option.key = "threads";
  option.integer = -1;
  EXPECT_NE(TakeError(Backend().device_open(0, &option, 1, &device)).message.find("is -1"), std::string::npos);
  option.kind = XH_OPTION_TEXT;
  EXPECT_EQ(TakeError(Backend().device_open(0, &option, 1, &device)).code, XH_INVALID_ARGUMENT);
  EXPECT_EQ(TakeError(Backend().device_open(1, nullptr, 0, &device)).code, XH_NOT_FOUND);
  EXPECT_EQ(TakeError(Backend().device_open(0, nullptr, 3, &device)).code, XH_INVALID_ARGUMENT);
  EXPECT_EQ(device, nullptr);
}

TEST(Memory, IsAlignedAndCopied) {
  Device device;
  const int64_t bytes = (3 << 20) + 17;  // more than one thread's worth
  void *a = nullptr, *b = nullptr;
  EXPECT_EQ(TakeError(Backend().allocate(device.device(), bytes, 4096, &a)).message, "");
  EXPECT_EQ(TakeError(Backend().allocate(device.device(), bytes, 0, &b)).message, "");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % 4096, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(b) % 64, 0u);
  for (int64_t i = 0; i < bytes; ++i) static_cast<char*>(a)[i] = static_cast<char>(i * 31);
  EXPECT_EQ(TakeError(Backend().copy(device.stream(), b, a, bytes)).message, "");
  EXPECT_EQ(std::memcmp(a, b, static_cast<size_t>(bytes)), 0);
  EXPECT_EQ(TakeError(Backend().copy(device.stream(), b, a, 0)).code, 0);
  EXPECT_EQ(TakeError(Backend().copy(device.stream(), b, a, -1)).code, XH_INVALID_ARGUMENT);
  EXPECT_EQ(TakeError(Backend().copy(device.stream(), nullptr, a, 4)).code, XH_INVALID_ARGUMENT);
  Backend().release(device.device(), a);
  Backend().release(device.device(), b);
  Backend().release(device.device(), nullptr);
}

TEST(Memory, RefusesWhatTheMachineLacks) {
  Device device;
  void* memory = nullptr;
  const Outcome huge = TakeError(Backend().allocate(device.device(), int64_t{1} << 60, 64, &memory));
  EXPECT_EQ(huge.code, XH_OUT_OF_MEMORY);
  EXPECT_NE(huge.message.find("1152921504606846976"), std::string::npos) << huge.message;
  EXPECT_EQ(TakeError(Backend().allocate(device.device(), -1, 64, &memory)).code, XH_INVALID_ARGUMENT);
  EXPECT_EQ(TakeError(Backend().allocate(device.device(), 64, 48, &memory)).code, XH_INVALID_ARGUMENT);
  EXPECT_EQ(memory, nullptr);
}

TEST(Streams, RecordAndWait) {
  Device device;
  xh_event* event = nullptr;
  EXPECT_EQ(TakeError(Backend().record(device.stream(), &event)).code, 0);
  EXPECT_EQ(TakeError(Backend().wait(device.stream(), event)).code, 0);
  EXPECT_EQ(TakeError(Backend().wait(device.stream(), nullptr)).code, XH_INVALID_ARGUMENT);
  Backend().event_close(event);
  EXPECT_EQ(TakeError(Backend().synchronize(device.stream())).code, 0);
  xh_stream* stream = nullptr;
  EXPECT_EQ(TakeError(Backend().stream_open(device.device(), &event, &stream)).code, XH_UNSUPPORTED);
}

// ADD of [2,3] with one thing wrong.
std::vector<Arg> AddArgs() { return {Random(XH_F32, {2, 3}, 1), Random(XH_F32, {2, 3}, 2), Output(XH_F32, {2, 3})}; }
std::string Refused(xh_op op, xh_pass pass, const std::vector<Arg>& args, xh_code code = XH_INVALID_ARGUMENT) {
  Op run(op);
  const Outcome outcome = run.Open(pass, args);
  EXPECT_EQ(outcome.code, code);
  return outcome.message;
}

TEST(Plans, NameWhatIsWrong) {
  std::vector<Arg> args = AddArgs();
  args[1].shape = {2, 4};
  EXPECT_EQ(Refused(XH_OP_ADD, XH_INFER, args), "ADD INFER: b.shape[1] is 4, but D is 3");
  args = AddArgs();
  args[0] = Absent();
  EXPECT_EQ(Refused(XH_OP_ADD, XH_INFER, args), "ADD INFER: a is absent, it is required");
  args = AddArgs();
  args[2] = Output(XH_F32, {2, 3, 1});
  EXPECT_EQ(Refused(XH_OP_ADD, XH_INFER, args), "ADD INFER: y has rank 3, expected 2 ([MD])");
  args = AddArgs();
  args[1].dtype = XH_I32;
  EXPECT_EQ(Refused(XH_OP_ADD, XH_INFER, args), "ADD INFER: b has dtype i32(4), allowed is f32 or bf16");
  args[1].dtype = XH_BF16;
  EXPECT_EQ(Refused(XH_OP_ADD, XH_INFER, args), "ADD INFER: b has dtype bf16, but the other activations are f32");
  args = AddArgs();
  args[0].order = {1, 0};
  EXPECT_EQ(Refused(XH_OP_ADD, XH_INFER, args),
            "ADD INFER: a.stride[1] is 2, the last dimension must be contiguous (1)");
  args = AddArgs();
  args[2].accumulate = true;
  EXPECT_EQ(Refused(XH_OP_ADD, XH_INFER, args), "ADD INFER: y.flags is 1, allowed is 0");
  args = AddArgs();
  args.pop_back();
  EXPECT_EQ(Refused(XH_OP_ADD, XH_FORWARD, args), "ADD: FORWARD takes 3 arguments (2 inputs and 1 outputs), got 2");
  EXPECT_EQ(Refused(999, XH_INFER, AddArgs(), XH_UNSUPPORTED), "plan_open: the cpu backend has no op 999");
  EXPECT_EQ(Refused(XH_OP_ADD, 7, AddArgs()), "ADD: pass is 7, allowed is INFER (0), FORWARD (1), BACKWARD (2)");
  EXPECT_EQ(
      Refused(XH_OP_RMS_NORM, XH_INFER, {Random(XH_F32, {2, 3}, 1), Random(XH_F32, {3}, 2), Output(XH_F32, {2, 3})}),
      "RMS_NORM: params is NULL, this op needs them");
  args = AddArgs();
  args[0].shape = args[1].shape = args[2].shape = {2, 0};
  EXPECT_EQ(Refused(XH_OP_ADD, XH_INFER, args), "ADD INFER: a.shape[1] is 0, at least 1 is allowed");
  args[0].shape = {int64_t{1} << 40, int64_t{1} << 20};
  EXPECT_EQ(Refused(XH_OP_ADD, XH_INFER, {args[0], Absent(), Absent()}),
            "ADD INFER: a reaches past the address space: shape and stride overflow");
}
TEST(Plans, RefuseToConvertIntegers) {
  Refused(XH_OP_CAST, XH_INFER, {Of(XH_I32, {2}, {1, 2}), Output(XH_F32, {2})}, XH_UNSUPPORTED);
}
TEST(Plans, LeaveOneDnnOutWhenAsked) {
  setenv("XHYBRID_CPU_GEMM", "panel", 1);
  Op op(XH_OP_MATMUL);
  std::vector<Arg> args = {Random(XH_F32, {150, 70}, 1), Random(XH_F32, {130, 70}, 2), Absent(),
                           Output(XH_F32, {150, 130})};
  MustRun(op, XH_INFER, &args);
  unsetenv("XHYBRID_CPU_GEMM");
  EXPECT_EQ(op.implementation(), "panel");
}
TEST(Plans, RefusePassesThatAnOpLacks) {
  EXPECT_EQ(Refused(XH_OP_REDUCE, XH_FORWARD, {Random(XH_F32, {2, 3}, 1), Output(XH_F32, {3})}, XH_UNSUPPORTED),
            "REDUCE: pass is FORWARD, it has INFER only");
}
TEST(Plans, RefuseGradientsThatDoNotExist) {
  std::vector<Arg> args = {
      Absent(),           Of(XH_I32, {2}, {0, 1}), Absent(), Random(XH_F32, {2, 3}, 1), Output(XH_F32, {5, 3}),
      Output(XH_F32, {2})};
  EXPECT_EQ(Refused(XH_OP_EMBED, XH_BACKWARD, args), "EMBED BACKWARD: gradient of ids is present, there is none");
}

xh_tensor Dense(float* data, int64_t rows, int64_t columns) {
  xh_tensor tensor = {};
  tensor.data = data;
  tensor.dtype = XH_F32;
  tensor.rank = 2;
  tensor.shape[0] = rows;
  tensor.shape[1] = columns;
  tensor.stride[0] = columns;
  tensor.stride[1] = 1;
  return tensor;
}

xh_plan* OpenMatmul(xh_device* device, const std::vector<xh_tensor>& args, xh_plan_info* info) {
  xh_op_desc desc = {};
  desc.struct_size = XH_SIZED(xh_op_desc);
  desc.op = XH_OP_MATMUL;
  desc.args = args.data();
  desc.arg_count = static_cast<int32_t>(args.size());
  *info = {};
  info->struct_size = XH_SIZED(xh_plan_info);
  xh_plan* plan = nullptr;
  EXPECT_EQ(TakeError(Backend().plan_open(device, &desc, &plan, info)).message, "");
  return plan;
}

TEST(Plans, CheckWhatARunIsGiven) {
  Device device;
  std::vector<float> x(200 * 40, 1.0f), w(300 * 40, 1.0f), y(200 * 300, 0.0f);
  const std::vector<xh_tensor> args = {
      Dense(x.data(), 200, 40), Dense(w.data(), 300, 40), {}, Dense(y.data(), 200, 300)};
  xh_plan_info info;
  xh_plan* plan = OpenMatmul(device.device(), args, &info);
  const auto run = [&](std::vector<xh_tensor> given, int32_t count, void* workspace) {
    return TakeError(Backend().plan_run(plan, device.stream(), given.data(), count, workspace, nullptr));
  };
  alignas(64) static char workspace[64 << 20];
  ASSERT_LE(info.workspace_bytes, static_cast<int64_t>(sizeof(workspace)) - 64);
  EXPECT_EQ(run(args, 4, workspace).message, "");
  EXPECT_EQ(y[200 * 300 - 1], 40.0f);
  EXPECT_EQ(run(args, 3, workspace).message, "plan_run MATMUL: the plan takes 4 arguments, got 3");
  std::vector<xh_tensor> missing = args;
  missing[1].data = nullptr;
  EXPECT_EQ(run(missing, 4, workspace).message, "plan_run MATMUL: argument 1 has no data");
  if (info.workspace_bytes > 0) {
    EXPECT_NE(run(args, 4, nullptr).message.find("workspace is NULL"), std::string::npos);
    EXPECT_NE(run(args, 4, workspace + 4).message.find("workspace is not aligned"), std::string::npos);
  }
  EXPECT_EQ(TakeError(Backend().plan_run(nullptr, device.stream(), args.data(), 4, workspace, nullptr)).code,
            XH_INVALID_ARGUMENT);
  Backend().plan_close(plan);
  Backend().plan_close(nullptr);
}

TEST(Plans, RunOnSeveralThreadsAtOnce) {
  Device device;
  const int64_t m = 150, n = 130, k = 70;
  std::vector<float> x(static_cast<size_t>(m * k)), w(static_cast<size_t>(n * k));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 13) - 6.0f;
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i % 7) - 3.0f;
  const std::vector<xh_tensor> args = {Dense(x.data(), m, k), Dense(w.data(), n, k), {}, Dense(nullptr, m, n)};
  xh_plan_info info;
  xh_plan* plan = OpenMatmul(device.device(), args, &info);
  std::vector<std::vector<float>> results(4, std::vector<float>(static_cast<size_t>(m * n)));
  std::vector<std::thread> threads;
  for (std::vector<float>& result : results) {
    threads.emplace_back([&] {
      void* workspace = nullptr;
      EXPECT_EQ(TakeError(Backend().allocate(device.device(), info.workspace_bytes, info.alignment, &workspace)).code,
                0);
      std::vector<xh_tensor> mine = args;
      mine[3].data = result.data();
      for (int i = 0; i < 20; ++i) {
        EXPECT_EQ(TakeError(Backend().plan_run(plan, device.stream(), mine.data(), 4, workspace, nullptr)).message, "");
      }
      Backend().release(device.device(), workspace);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<float>& result : results) EXPECT_EQ(result, results[0]);
  Backend().plan_close(plan);
}

}  // namespace
}  // namespace xh::test
