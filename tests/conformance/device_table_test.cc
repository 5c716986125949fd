// A backend's functions other than plans: facts, options, memory, copies and events.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/conformance/backend_fixture.h"
#include "tests/conformance/device_memory.h"

namespace xh::test {
namespace {

TEST(Device, CountsAtLeastOne) {
  int32_t count = 0;
  EXPECT_EQ(TakeError(Backend().device_count(&count)).message, "");
  EXPECT_GE(count, 1) << "a backend with a score has a device";
  xh_device* device = nullptr;
  EXPECT_EQ(TakeError(Backend().device_open(count, nullptr, 0, &device)).code, XH_NOT_FOUND);
  EXPECT_NE(TakeError(Backend().device_open(-1, nullptr, 0, &device)).code, 0);
  EXPECT_EQ(device, nullptr);
}

TEST(Device, AnswersItsFacts) {
  OpenDeviceScope scope;
  xh_option fact = {};
  EXPECT_EQ(TakeError(Backend().device_query(scope.device(), "name", &fact)).message, "");
  EXPECT_EQ(fact.kind, XH_OPTION_TEXT);
  EXPECT_GT(std::strlen(fact.text), 0u);
  EXPECT_EQ(TakeError(Backend().device_query(scope.device(), "memory_bytes", &fact)).message, "");
  EXPECT_EQ(fact.kind, XH_OPTION_INT);
  EXPECT_GT(fact.integer, 0);
  EXPECT_EQ(TakeError(Backend().device_query(scope.device(), "host_memory", &fact)).message, "");
  EXPECT_EQ(fact.kind, XH_OPTION_BOOL);
  const Outcome unknown = TakeError(Backend().device_query(scope.device(), "colour", &fact));
  EXPECT_EQ(unknown.code, XH_NOT_FOUND);
  EXPECT_TRUE(Names(unknown.message, {"colour"})) << unknown.message;
}

TEST(Device, RefusesUnknownOptionsByName) {
  xh_device* device = nullptr;
  xh_option option = {};
  option.key = "colour";
  option.kind = XH_OPTION_INT;
  const Outcome unknown = TakeError(Backend().device_open(0, &option, 1, &device));
  EXPECT_EQ(unknown.code, XH_INVALID_ARGUMENT);
  EXPECT_TRUE(Names(unknown.message, {"colour"})) << unknown.message;
  EXPECT_EQ(TakeError(Backend().device_open(0, nullptr, 3, &device)).code, XH_INVALID_ARGUMENT);
  EXPECT_EQ(device, nullptr);
}

// There, on the device, and back.
TEST(DeviceCopy, KeepsEveryByteInAnyDirection) {
  OpenDeviceScope scope;
  const int64_t bytes = (3 << 20) + 17;  // many pages and a rest
  void *a = nullptr, *b = nullptr;
  ASSERT_EQ(TakeError(Backend().allocate(scope.device(), bytes, 256, &a)).message, "");
  ASSERT_EQ(TakeError(Backend().allocate(scope.device(), bytes, 64, &b)).message, "");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % 256, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(b) % 64, 0u);
  std::string from(static_cast<size_t>(bytes), '\0'), to = from;
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<char>(i * 31);
  EXPECT_EQ(TakeError(Backend().copy(scope.stream(), a, from.data(), bytes)).message, "");
  EXPECT_EQ(TakeError(Backend().copy(scope.stream(), b, a, bytes)).message, "");
  EXPECT_EQ(TakeError(Backend().copy(scope.stream(), to.data(), b, bytes)).message, "");
  EXPECT_EQ(TakeError(Backend().copy(scope.stream(), b, a, 0)).message, "");
  EXPECT_EQ(TakeError(Backend().synchronize(scope.stream())).message, "");
  EXPECT_TRUE(to == from);
  EXPECT_EQ(TakeError(Backend().copy(scope.stream(), b, a, -1)).code, XH_INVALID_ARGUMENT);
  Backend().release(scope.device(), a);
  Backend().release(scope.device(), b);
}

TEST(DeviceMemoryRules, RefusesWhatIsNotThere) {
  OpenDeviceScope scope;
  void* memory = nullptr;
  EXPECT_EQ(TakeError(Backend().allocate(scope.device(), int64_t{1} << 60, 64, &memory)).code, XH_OUT_OF_MEMORY);
  EXPECT_EQ(TakeError(Backend().allocate(scope.device(), -1, 64, &memory)).code, XH_INVALID_ARGUMENT);
  EXPECT_EQ(TakeError(Backend().allocate(scope.device(), 64, 48, &memory)).code, XH_INVALID_ARGUMENT) << "alignment 48";
  EXPECT_EQ(memory, nullptr);
}

// Freeing nothing is allowed everywhere (xhybrid.h).
TEST(DeviceMemoryRules, ClosingNullDoesNothing) {
  OpenDeviceScope scope;
  Backend().release(scope.device(), nullptr);
  Backend().plan_close(nullptr);
  Backend().event_close(nullptr);
  Backend().stream_close(nullptr);
  Backend().device_close(nullptr);
}

// What a plan is asked that no backend can do has to be said, not done.
TEST(PlanRefusals, SayWhatIsWrong) {
  const std::vector<Arg> args = {Random(XH_F32, {2, 3}, 1), Random(XH_F32, {2, 3}, 2), Output(XH_F32, {2, 3})};
  EXPECT_EQ(Op(999).Open(XH_INFER, args).code, XH_UNSUPPORTED) << "an op that does not exist";
  EXPECT_EQ(Op(XH_OP_ADD).Open(7, args).code, XH_INVALID_ARGUMENT) << "a pass that does not exist";
  EXPECT_EQ(Op(XH_OP_ADD).Open(XH_INFER, {args[0], args[1]}).code, XH_INVALID_ARGUMENT) << "an argument too few";
  EXPECT_EQ(Op(XH_OP_ADD).Open(XH_INFER, {Absent(), args[1], args[2]}).code, XH_INVALID_ARGUMENT) << "a is absent";
  std::vector<Arg> wrong = args;
  wrong[1] = Random(XH_F32, {2, 4}, 2);
  const Outcome shape = Op(XH_OP_ADD).Open(XH_INFER, wrong);
  EXPECT_EQ(shape.code, XH_INVALID_ARGUMENT) << "shapes that do not go together";
  EXPECT_TRUE(Names(shape.message, {"4"})) << shape.message;
  wrong = args;
  wrong[1].dtype = XH_I32;
  EXPECT_NE(Op(XH_OP_ADD).Open(XH_INFER, wrong).code, 0) << "a sum of f32 and i32";
  Op norm(XH_OP_RMS_NORM);
  const std::vector<Arg> operands = {args[0], Random(XH_F32, {3}, 3), args[2]};
  EXPECT_EQ(OpenOrGap(norm, XH_INFER, operands).code, XH_INVALID_ARGUMENT) << "no params";
}

// REDUCE has INFER only.
TEST(PlanRefusals, PassesThatAnOpLacks) {
  const xh_reduce_params params = {XH_SIZED(xh_reduce_params), XH_REDUCE_SUM};
  EXPECT_EQ(Op(XH_OP_REDUCE, params).Open(XH_FORWARD, {Random(XH_F32, {2, 3}, 1), Output(XH_F32, {3})}).code,
            XH_UNSUPPORTED);
}

}  // namespace
}  // namespace xh::test
