// Graphs over a backend of this test that records: what is run, noted and repeated, and what happens where it cannot.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "core/graph.h"
#include "core/ops.h"
#include "core/plugin_check.h"
#include "core/plugin_host.h"

struct xh_capture {
  std::vector<const xh_tensor*> runs;
};

namespace xh {
namespace {

// What was called, and which of the calls refuses with which code.
struct Calls {
  int runs = 0, begins = 0, ends = 0, replays = 0, closes = 0;
  xh_capture* noting = nullptr;  // between begin and end
  xh_code begin_fails = 0, run_fails_noting = 0, end_fails = 0;
} calls;

xh_error* Refused(xh_code code) { return code == 0 ? nullptr : PluginHost()->error_new(code, "fake", "not recorded"); }

// a + b of f32, contiguous.
void AddUp(const xh_tensor* args) {
  ++calls.runs;
  const auto at = [&](int i) { return static_cast<float*>(args[i].data); };
  for (int64_t i = 0; i < args[0].shape[0] * args[0].shape[1]; ++i) at(2)[i] = at(0)[i] + at(1)[i];
}

xh_error* RunPlan(const xh_plan*, xh_stream*, const xh_tensor* args, int32_t, void*, void*) {
  if (calls.noting == nullptr) return AddUp(args), nullptr;
  if (calls.run_fails_noting != 0) return Refused(calls.run_fails_noting);
  calls.noting->runs.push_back(args);
  return nullptr;
}

xh_error* Begin(xh_stream*) {
  ++calls.begins;
  if (calls.begin_fails == 0) calls.noting = new xh_capture;
  return Refused(calls.begin_fails);
}

xh_error* End(xh_stream*, xh_capture** out) {
  ++calls.ends;
  xh_capture* noted = calls.noting;
  calls.noting = nullptr;
  if (calls.end_fails != 0) return delete noted, Refused(calls.end_fails);
  *out = noted;
  return nullptr;
}

xh_error* Replay(const xh_capture* capture, xh_stream*) {
  ++calls.replays;
  for (const xh_tensor* args : capture->runs) AddUp(args);
  return nullptr;
}

void Close(xh_capture* capture) {
  ++calls.closes;
  delete capture;
}

xh_backend Recorder() {
  xh_backend backend{};
  backend.struct_size = XH_SIZED(xh_backend);
  backend.device_count = [](int32_t* out) -> xh_error* { return *out = 1, nullptr; };
  backend.device_open = [](int32_t, const xh_option*, int64_t, xh_device**) -> xh_error* { return nullptr; };
  backend.device_close = [](xh_device*) {};
  backend.device_query = [](xh_device*, const char*, xh_option*) { return Refused(XH_NOT_FOUND); };
  backend.stream_open = [](xh_device*, void*, xh_stream**) -> xh_error* { return nullptr; };
  backend.stream_close = [](xh_stream*) {};
  backend.record = [](xh_stream*, xh_event**) -> xh_error* { return nullptr; };
  backend.wait = [](xh_stream*, xh_event*) -> xh_error* { return nullptr; };
  backend.event_close = [](xh_event*) {};
  backend.synchronize = [](xh_stream*) -> xh_error* { return nullptr; };
  backend.allocate = [](xh_device*, int64_t bytes, int64_t, void** out) -> xh_error* {
    return *out = std::malloc(static_cast<size_t>(bytes)), nullptr;
  };
  backend.release = [](xh_device*, void* memory) { std::free(memory); };
  backend.copy = [](xh_stream*, void* to, const void* from, int64_t bytes) -> xh_error* {
    return std::memmove(to, from, static_cast<size_t>(bytes)), nullptr;
  };
  backend.plan_open = [](xh_device*, const xh_op_desc*, xh_plan** out, xh_plan_info*) -> xh_error* {
    return *out = nullptr, nullptr;
  };
  backend.plan_close = [](xh_plan*) {};
  backend.plan_run = RunPlan;
  backend.capture_begin = Begin;
  backend.capture_end = End;
  backend.capture_replay = Replay;
  backend.capture_close = Close;
  return backend;
}

// Runs y = (x + x) + x so many times, each time with another x.
void RunTimes(const xh_backend& backend, int times, std::map<std::string, OpTime>* profile = nullptr) {
  std::shared_ptr<Device> device = *Device::Open(&backend, "fake", 0, nullptr, 0);
  Graph graph(device);
  const Value x = graph.Input(XH_F32, {1, 2});
  const Value y = Add(graph, Add(graph, x, x), x);
  graph.Keep(y);
  ASSERT_TRUE(graph.Compile().ok());
  graph.Profile(profile);
  for (int i = 1; i <= times; ++i) {
    const float in[2] = {1.0f * static_cast<float>(i), 10.0f * static_cast<float>(i)};
    float out[2] = {};
    ASSERT_TRUE(graph.Write(x, in, sizeof(in)).ok());
    const Status status = graph.Run();
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_TRUE(graph.Read(y, out, sizeof(out)).ok());
    EXPECT_EQ(out[0], 3 * in[0]);
    EXPECT_EQ(out[1], 3 * in[1]);
  }
}

class CaptureTest : public ::testing::Test {
 protected:
  void SetUp() override { calls = Calls{}; }
};

TEST_F(CaptureTest, TheSecondRunRecordsAndTheRestRepeat) {
  RunTimes(Recorder(), 4);
  EXPECT_EQ(calls.begins, 1);
  EXPECT_EQ(calls.ends, 1);
  EXPECT_EQ(calls.replays, 3);
  EXPECT_EQ(calls.runs, 8);
  EXPECT_EQ(calls.closes, 1);
}

TEST_F(CaptureTest, WhatRunsOnceIsNotRecorded) {
  RunTimes(Recorder(), 1);
  EXPECT_EQ(calls.begins, 0);
}

TEST_F(CaptureTest, AProfileSeesEveryOp) {
  std::map<std::string, OpTime> times;
  RunTimes(Recorder(), 3, &times);
  EXPECT_EQ(calls.begins, 0);
  EXPECT_EQ(times["add.infer"].calls, 6);
}

TEST_F(CaptureTest, TheEnvironmentSwitchesItOff) {
  setenv("XHYBRID_CAPTURE", "0", 1);
  RunTimes(Recorder(), 3);
  EXPECT_EQ(calls.begins, 0);
  setenv("XHYBRID_CAPTURE", "1", 1);
  RunTimes(Recorder(), 3);
  EXPECT_EQ(calls.begins, 1);
  unsetenv("XHYBRID_CAPTURE");
}

TEST_F(CaptureTest, WithoutItPlansRunOneByOne) {
  xh_backend older = Recorder();
  older.struct_size = offsetof(xh_backend, capture_begin);  // the slots behind it are not the plugin's
  RunTimes(older, 3);
  xh_backend empty = Recorder();
  empty.capture_begin = nullptr, empty.capture_end = nullptr;
  empty.capture_replay = nullptr, empty.capture_close = nullptr;
  RunTimes(empty, 3);
  EXPECT_EQ(calls.begins, 0);
  EXPECT_EQ(calls.runs, 12);
}

TEST_F(CaptureTest, ARefusalIsAnOrdinaryAnswer) {
  for (xh_code Calls::*refused : {&Calls::begin_fails, &Calls::run_fails_noting, &Calls::end_fails}) {
    calls = Calls{};
    calls.*refused = XH_UNSUPPORTED;
    RunTimes(Recorder(), 4);
    EXPECT_EQ(calls.begins, 1) << "asked once";
    EXPECT_EQ(calls.ends, calls.begin_fails == 0 ? 1 : 0);
    EXPECT_EQ(calls.replays, 0);
    EXPECT_EQ(calls.runs, 8);
    EXPECT_EQ(calls.noting, nullptr);
  }
}

TEST_F(CaptureTest, AnotherErrorIsOne) {
  const xh_backend backend = Recorder();
  for (xh_code Calls::*failing : {&Calls::begin_fails, &Calls::run_fails_noting, &Calls::end_fails}) {
    calls = Calls{};
    calls.*failing = XH_DEVICE_LOST;
    Graph graph(*Device::Open(&backend, "fake", 0, nullptr, 0));
    const Value x = graph.Input(XH_F32, {1, 2});
    graph.Keep(Add(graph, x, x));
    ASSERT_TRUE(graph.Compile().ok());
    EXPECT_TRUE(graph.Run().ok());
    EXPECT_EQ(CodeOf(graph.Run()), XH_DEVICE_LOST);
    EXPECT_EQ(calls.noting, nullptr);
  }
}

TEST_F(CaptureTest, ATableHasAllSlotsOrNone) {
  xh_backend table = Recorder();
  const xh_plugin plugin = {
      XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_BACKEND, 1, "fake", "1", "MIT", nullptr, &table, nullptr};
  EXPECT_TRUE(CheckPlugin(plugin).ok()) << CheckPlugin(plugin);
  table.capture_end = nullptr;
  EXPECT_EQ(CodeOf(CheckPlugin(plugin)), XH_INCOMPATIBLE);
  table.struct_size = offsetof(xh_backend, capture_begin);
  EXPECT_TRUE(CheckPlugin(plugin).ok()) << CheckPlugin(plugin);
  table.struct_size = offsetof(xh_backend, plan_run);
  EXPECT_EQ(CodeOf(CheckPlugin(plugin)), XH_INCOMPATIBLE);
}

}  // namespace
}  // namespace xh
