// Plans on several streams: one plan runs on two at once, events order streams, and a plan gives the same bits whoever
// runs it.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <thread>

#include "tests/conformance/backend_fixture.h"
#include "tests/conformance/device_memory.h"

namespace xh::test {
namespace {

// What one run of a plan needs: its arguments, workspace and saved memory, all on the device.
class Operands {
 public:
  Operands(OpenDeviceScope* scope, const std::vector<Arg>& args, const xh_plan_info& info) {
    for (const Arg& arg : args) {
      xh_tensor tensor = TensorOf(arg);
      int64_t count = arg.dtype == 0 ? 0 : 1;
      for (int32_t i = 0; i < tensor.rank; ++i) count *= tensor.shape[i];
      memory_.push_back(std::make_unique<DeviceMemory>(4 * count));
      for (size_t e = 0; e < arg.values.size(); ++e) {
        const float value = static_cast<float>(arg.values[e]);
        const int32_t integer = static_cast<int32_t>(arg.values[e]);
        const void* const bits = arg.dtype == XH_I32 ? static_cast<const void*>(&integer) : &value;
        std::memcpy(memory_.back()->host() + 4 * e, bits, 4);
      }
      memory_.back()->Upload(scope->device(), scope->stream());
      tensor.data = arg.dtype == 0 ? nullptr : memory_.back()->device();
      tensors_.push_back(tensor);
    }
    for (int64_t bytes : {info.workspace_bytes, info.saved_bytes}) {
      memory_.push_back(std::make_unique<DeviceMemory>(bytes, info.alignment));
      memory_.back()->Upload(scope->device(), scope->stream());
    }
  }

  Outcome Run(const xh_plan* plan, xh_stream* stream) {
    const size_t args = tensors_.size();
    return TakeError(Backend().plan_run(plan, stream, tensors_.data(), static_cast<int32_t>(args),
                                        memory_[args]->device(), memory_[args + 1]->device()));
  }

  // The bytes of argument `i`; the streams must be idle.
  std::string Bytes(size_t i) {
    memory_[i]->Download();
    return std::string(memory_[i]->host(), static_cast<size_t>(memory_[i]->bytes()));
  }
  const DeviceMemory& memory(size_t i) const { return *memory_[i]; }

 private:
  std::vector<std::unique_ptr<DeviceMemory>> memory_;
  std::vector<xh_tensor> tensors_;
};

// A plan of a kind of op that needs workspace on most backends.
struct Work {
  xh_op op;
  std::string params;
  std::vector<Arg> args;
  size_t output;
};

template <class P>
std::string BytesOf(const P& params) {
  return std::string(reinterpret_cast<const char*>(&params), sizeof(params));
}

// `seed` changes the values, not the shapes.
Work MatmulWork(uint32_t seed) {
  return {XH_OP_MATMUL,
          "",
          {Random(XH_F32, {150, 70}, seed), Random(XH_F32, {130, 70}, seed + 1), Absent(), Output(XH_F32, {150, 130})},
          3};
}
Work MlstmWork(uint32_t seed) {
  const int64_t t = 90;
  Work work = {XH_OP_MLSTM,
               BytesOf(xh_mlstm_params{XH_SIZED(xh_mlstm_params), XH_NORMALIZER_MAX, 0.25f, 0}),
               {Random(XH_F32, {1, 2, t, 16}, seed), Random(XH_F32, {1, 2, t, 16}, seed + 1),
                Random(XH_F32, {1, 1, t, 24}, seed + 2), Random(XH_F32, {1, 2, t}, seed + 3),
                Random(XH_F32, {1, 2, t}, seed + 4)},
               9};
  work.args.resize(9);
  work.args.push_back(Output(XH_F32, {1, 2, t, 24}));
  work.args.resize(13);
  return work;
}

class Plan {
 public:
  Plan(OpenDeviceScope* scope, const Work& work) {
    std::vector<xh_tensor> tensors;
    for (const Arg& arg : work.args) tensors.push_back(TensorOf(arg));
    xh_op_desc desc = {};
    desc.struct_size = XH_SIZED(xh_op_desc);
    desc.op = work.op;
    desc.args = tensors.data();
    desc.arg_count = static_cast<int32_t>(tensors.size());
    desc.params_size = static_cast<uint32_t>(work.params.size());
    desc.params = work.params.empty() ? nullptr : work.params.data();
    info_.struct_size = XH_SIZED(xh_plan_info);
    const Outcome outcome = TakeError(Backend().plan_open(scope->device(), &desc, &plan_, &info_));
    EndAtGap(work.op, "f32", XH_INFER, outcome);
    EXPECT_EQ(outcome.message, "");
  }
  ~Plan() { Backend().plan_close(plan_); }
  Plan(const Plan&) = delete;
  const xh_plan* get() const { return plan_; }
  const xh_plan_info& info() const { return info_; }

 private:
  xh_plan* plan_ = nullptr;
  xh_plan_info info_ = {};
};

using MakeWork = Work (*)(uint32_t seed);
constexpr MakeWork kWorks[] = {MatmulWork, MlstmWork};

// The output of a run alone.
std::string Alone(OpenDeviceScope* scope, const Plan& plan, const Work& work) {
  Operands operands(scope, work.args, plan.info());
  EXPECT_EQ(operands.Run(plan.get(), scope->stream()).message, "");
  EXPECT_EQ(TakeError(Backend().synchronize(scope->stream())).message, "");
  return operands.Bytes(work.output);
}

TEST(Streams, OnePlanRunsOnTwoAtOnce) {
  for (MakeWork make : kWorks) {
    OpenDeviceScope scope;
    const Work works[2] = {make(1), make(50)};
    const Plan plan(&scope, works[0]);
    ASSERT_NE(plan.get(), nullptr);
    xh_stream* streams[2] = {};
    for (xh_stream*& stream : streams) {
      ASSERT_EQ(TakeError(Backend().stream_open(scope.device(), nullptr, &stream)).message, "");
    }
    std::string expected[2], given[2];
    std::unique_ptr<Operands> operands[2];
    for (size_t i = 0; i < 2; ++i) {
      expected[i] = Alone(&scope, plan, works[i]);
      operands[i] = std::make_unique<Operands>(&scope, works[i].args, plan.info());
    }
    ASSERT_NE(expected[0], expected[1]);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < 2; ++i) {
      threads.emplace_back([&, i] {
        for (int run = 0; run < 20; ++run) EXPECT_EQ(operands[i]->Run(plan.get(), streams[i]).message, "");
        EXPECT_EQ(TakeError(Backend().synchronize(streams[i])).message, "");
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (size_t i = 0; i < 2; ++i) EXPECT_EQ(operands[i]->Bytes(works[i].output), expected[i]) << "stream " << i;
    for (xh_stream* stream : streams) Backend().stream_close(stream);
  }
}

TEST(Streams, WaitingForAnEventSeesWhatCameBeforeIt) {
  OpenDeviceScope scope;
  const Work work = MlstmWork(3);
  const Plan plan(&scope, work);
  ASSERT_NE(plan.get(), nullptr);
  xh_stream* second = nullptr;
  ASSERT_EQ(TakeError(Backend().stream_open(scope.device(), nullptr, &second)).message, "");
  const std::string expected = Alone(&scope, plan, work);
  Operands operands(&scope, work.args, plan.info());
  EXPECT_EQ(operands.Run(plan.get(), scope.stream()).message, "");
  xh_event* event = nullptr;
  EXPECT_EQ(TakeError(Backend().record(scope.stream(), &event)).message, "");
  EXPECT_EQ(TakeError(Backend().wait(second, event)).message, "");
  std::string seen(expected.size(), '\0');
  const DeviceMemory& output = operands.memory(work.output);
  EXPECT_EQ(TakeError(Backend().copy(second, seen.data(), output.device(), output.bytes())).message, "");
  EXPECT_EQ(TakeError(Backend().synchronize(second)).message, "");
  EXPECT_EQ(seen, expected);
  Backend().event_close(event);
  Backend().stream_close(second);
}

void CopyOnDevice(OpenDeviceScope* scope, const DeviceMemory& to, const DeviceMemory& from) {
  EXPECT_EQ(TakeError(Backend().copy(scope->stream(), to.device(), from.device(), from.bytes())).message, "");
}

// Recording is optional, and so is recording these ops.
TEST(Capture, NotesWorkAndRepeatsIt) {
  if (!XH_COVERS(xh_backend, &Backend(), capture_close) || Backend().capture_begin == nullptr) return;
  for (MakeWork make : kWorks) {
    OpenDeviceScope scope;
    const Work works[2] = {make(1), make(50)};
    const Plan plan(&scope, works[0]);
    ASSERT_NE(plan.get(), nullptr);
    const std::string expected[2] = {Alone(&scope, plan, works[0]), Alone(&scope, plan, works[1])};
    Operands operands(&scope, works[0].args, plan.info()), others(&scope, works[1].args, plan.info());
    const size_t output = works[0].output;
    const std::string untouched = operands.Bytes(output);
    DeviceMemory copied(operands.memory(output).bytes());
    copied.Upload(scope.device(), scope.stream());
    ASSERT_EQ(TakeError(Backend().capture_begin(scope.stream())).message, "");
    const Outcome noted = operands.Run(plan.get(), scope.stream());
    if (noted.code == 0) CopyOnDevice(&scope, copied, operands.memory(output));
    xh_capture* capture = nullptr;
    const Outcome ended = TakeError(Backend().capture_end(scope.stream(), &capture));
    if (noted.code == XH_UNSUPPORTED || ended.code == XH_UNSUPPORTED) continue;
    ASSERT_EQ(noted.message + ended.message, "");
    EXPECT_EQ(operands.Bytes(output), untouched) << "noted, not executed";
    for (const size_t i : {0, 1, 1}) {
      for (size_t arg = 0; i == 1 && arg < output; ++arg) {
        CopyOnDevice(&scope, operands.memory(arg), others.memory(arg));
      }
      ASSERT_EQ(TakeError(Backend().capture_replay(capture, scope.stream())).message, "");
      ASSERT_EQ(TakeError(Backend().synchronize(scope.stream())).message, "");
      EXPECT_EQ(operands.Bytes(output), expected[i]);
      copied.Download();
      EXPECT_EQ(std::string(copied.host(), static_cast<size_t>(copied.bytes())), expected[i]);
    }
    Backend().capture_close(capture);
  }
}

// What only a run can see is told by the stream that ran it, also when the one that noted the work is gone.
TEST(Capture, BadDataIsToldWhereItIsReplayed) {
  if (!XH_COVERS(xh_backend, &Backend(), capture_close) || Backend().capture_begin == nullptr) return;
  OpenDeviceScope scope;
  const Work work = {
      XH_OP_EMBED, "", {Random(XH_F32, {5, 8}, 1), Of(XH_I32, {3}, {0, 9, 4}), Output(XH_F32, {3, 8})}, 2};
  const Plan plan(&scope, work);
  ASSERT_NE(plan.get(), nullptr);
  Operands operands(&scope, work.args, plan.info());
  xh_stream* first = nullptr;
  ASSERT_EQ(TakeError(Backend().stream_open(scope.device(), nullptr, &first)).message, "");
  const Outcome begun = TakeError(Backend().capture_begin(first));
  const Outcome noted = begun.code == 0 ? operands.Run(plan.get(), first) : begun;
  xh_capture* capture = nullptr;
  const Outcome ended = begun.code == 0 ? TakeError(Backend().capture_end(first, &capture)) : begun;
  Backend().stream_close(first);
  if (noted.code == XH_UNSUPPORTED || ended.code == XH_UNSUPPORTED) return;
  ASSERT_EQ(noted.message + ended.message, "");
  for (int run = 0; run < 2; ++run) {
    const Outcome replayed = TakeError(Backend().capture_replay(capture, scope.stream()));
    const Outcome seen = replayed.code == 0 ? TakeError(Backend().synchronize(scope.stream())) : replayed;
    EXPECT_EQ(seen.code, XH_INVALID_ARGUMENT) << "run " << run;
    EXPECT_NE(seen.message.find("ids[1] is 9"), std::string::npos) << seen.message;
  }
  EXPECT_EQ(TakeError(Backend().synchronize(scope.stream())).message, "") << "told once";
  Backend().capture_close(capture);
}

TEST(Streams, TheSameRunGivesTheSameBits) {
  for (MakeWork make : kWorks) {
    OpenDeviceScope scope;
    const Work work = make(7);
    const Plan plan(&scope, work);
    ASSERT_NE(plan.get(), nullptr);
    const std::string first = Alone(&scope, plan, work);
    for (int run = 0; run < 10; ++run) EXPECT_EQ(Alone(&scope, plan, work), first) << "run " << run;
  }
}

}  // namespace
}  // namespace xh::test
