// Device over a backend of this test: what is opened is closed, in order, whatever fails; errors keep their origin.
#include "core/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "core/plugin_host.h"

struct xh_device {
  int unused;
};
struct xh_stream {
  int unused;
};
struct xh_plan {
  int unused;
};

namespace xh {
namespace {

using ::testing::HasSubstr;

// What the backend holds open, and the calls that fail.
struct Backend {
  int devices = 0, streams = 0, plans = 0;
  std::set<void*> memory;
  bool stream_fails = false;
} state;

xh_error* Refuse(const char* text) { return PluginHost()->error_new(XH_UNSUPPORTED, "fake", text); }

xh_error* Count(int32_t* out) {
  *out = 1;
  return nullptr;
}
xh_error* OpenDevice(int32_t, const xh_option*, int64_t, xh_device** out) {
  ++state.devices;
  *out = new xh_device{};
  return nullptr;
}
void CloseDevice(xh_device* device) {
  --state.devices;
  delete device;
}
xh_error* Query(xh_device*, const char* key, xh_option* out) {
  if (std::strcmp(key, "threads") != 0) return Refuse("no such fact");
  out->kind = XH_OPTION_INT;
  out->integer = 3;
  return nullptr;
}
xh_error* Allocate(xh_device*, int64_t bytes, int64_t, void** out) {
  *out = ::operator new(static_cast<size_t>(bytes));
  state.memory.insert(*out);
  return nullptr;
}
void Release(xh_device*, void* memory) {
  EXPECT_EQ(state.memory.erase(memory), 1u);
  EXPECT_EQ(state.devices, 1);
  ::operator delete(memory);
}
xh_error* OpenStream(xh_device*, void*, xh_stream** out) {
  if (state.stream_fails) return Refuse("no streams today");
  ++state.streams;
  *out = new xh_stream{};
  return nullptr;
}
void CloseStream(xh_stream* stream) {
  EXPECT_EQ(state.devices, 1);
  --state.streams;
  delete stream;
}
xh_error* Record(xh_stream*, xh_event**) { return nullptr; }
xh_error* Wait(xh_stream*, xh_event*) { return nullptr; }
void CloseEvent(xh_event*) {}
xh_error* Synchronize(xh_stream*) { return nullptr; }
xh_error* Copy(xh_stream*, void* to, const void* from, int64_t bytes) {
  std::memcpy(to, from, static_cast<size_t>(bytes));
  return nullptr;
}
xh_error* OpenPlan(xh_device*, const xh_op_desc* desc, xh_plan** out, xh_plan_info* info) {
  if (desc->op != XH_OP_ADD) return Refuse("only sums");
  ++state.plans;
  *out = new xh_plan{};
  info->workspace_bytes = 64;
  return nullptr;
}
void ClosePlan(xh_plan* plan) {
  --state.plans;
  delete plan;
}
xh_error* RunPlan(const xh_plan*, xh_stream*, const xh_tensor*, int32_t, void*, void*) {
  return PluginHost()->error_new(XH_DEVICE_LOST, "fake", "unplugged");
}

constexpr xh_backend kBackend = {XH_SIZED(xh_backend),
                                 0,
                                 Count,
                                 OpenDevice,
                                 CloseDevice,
                                 Query,
                                 Allocate,
                                 Release,
                                 OpenStream,
                                 CloseStream,
                                 Record,
                                 Wait,
                                 CloseEvent,
                                 Synchronize,
                                 Copy,
                                 OpenPlan,
                                 ClosePlan,
                                 RunPlan,
                                 nullptr,
                                 nullptr,
                                 nullptr,
                                 nullptr};

class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override { state = Backend{}; }
  void TearDown() override {
    EXPECT_EQ(state.devices, 0);
    EXPECT_EQ(state.streams, 0);
    EXPECT_EQ(state.plans, 0);
    EXPECT_TRUE(state.memory.empty());
  }
  static StatusOr<std::shared_ptr<Device>> Open(int32_t index = 0) {
    return Device::Open(&kBackend, "fake", index, nullptr, 0);
  }
};

TEST_F(DeviceTest, ABufferKeepsItsDeviceAndFreesItself) {
  Buffer kept;
  {
    std::shared_ptr<Device> device = *Open();
    Buffer first = *device->Allocate(16);
    kept = *device->Allocate(0);
    Buffer moved = std::move(first);
    EXPECT_EQ(moved.bytes(), 16);
    EXPECT_EQ(state.memory.size(), 2u);
  }
  EXPECT_EQ(state.devices, 1);
  EXPECT_EQ(state.memory.size(), 1u);
  kept = Buffer();
}

TEST_F(DeviceTest, WhatFailsHalfWayIsClosedAgain) {
  state.stream_fails = true;
  const Status status = Open().status();
  EXPECT_EQ(CodeOf(status), XH_UNSUPPORTED);
  EXPECT_EQ(OriginOf(status), "fake");
  EXPECT_THAT(std::string(status.message()), HasSubstr("no streams today"));
  EXPECT_EQ(CodeOf(Open(1).status()), XH_NOT_FOUND);
  EXPECT_EQ(CodeOf(Open(-1).status()), XH_NOT_FOUND);
}

TEST_F(DeviceTest, CopiesAndFactsGoThrough) {
  std::shared_ptr<Device> device = *Open();
  Buffer buffer = *device->Allocate(4);
  const int32_t value = 42;
  ASSERT_TRUE(device->Copy(buffer.data(), &value, 4).ok());
  EXPECT_EQ(*static_cast<int32_t*>(buffer.data()), 42);
  EXPECT_EQ(*device->QueryInt("threads"), 3);
  EXPECT_EQ(CodeOf(device->QueryText("threads").status()), XH_INTERNAL);
  EXPECT_FALSE(device->QueryInt("colour").ok());
  EXPECT_EQ(CodeOf(device->Allocate(-1).status()), XH_INTERNAL);
}

TEST_F(DeviceTest, APlanIsClosedWithItsOwnerAndItsErrorsSurface) {
  std::shared_ptr<Device> device = *Open();
  xh_op_desc desc{};
  desc.struct_size = XH_SIZED(xh_op_desc);
  desc.op = XH_OP_ROPE;
  EXPECT_EQ(CodeOf(device->OpenPlan(desc).status()), XH_UNSUPPORTED);
  desc.op = XH_OP_ADD;
  StatusOr<OpenedPlan> plan = device->OpenPlan(desc);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->info.workspace_bytes, 64);
  EXPECT_EQ(CodeOf(device->RunPlan(*plan, nullptr, 0, nullptr, nullptr)), XH_DEVICE_LOST);
}

}  // namespace
}  // namespace xh
