// Everything that a backend opens it gives back when it is closed.
#include <cmath>

#include "tests/conformance/backend_fixture.h"
#include "tests/conformance/heap.h"

namespace xh::test {
namespace {

TEST(Leaks, DevicesAndStreams) {
  ExpectNoLeak("device_open and device_close", [] {
    xh_device* device = nullptr;
    EXPECT_EQ(TakeError(Backend().device_open(0, nullptr, 0, &device)).message, "");
    Backend().device_close(device);
  });
  OpenDeviceScope scope;
  ExpectNoLeak("stream_open and stream_close", [&] {
    xh_stream* stream = nullptr;
    EXPECT_EQ(TakeError(Backend().stream_open(scope.device(), nullptr, &stream)).message, "");
    Backend().stream_close(stream);
  });
  ExpectNoLeak("record and event_close", [&] {
    xh_event* event = nullptr;
    EXPECT_EQ(TakeError(Backend().record(scope.stream(), &event)).message, "");
    Backend().event_close(event);
  });
  ExpectNoLeak("allocate and release", [&] {
    void* memory = nullptr;
    EXPECT_EQ(TakeError(Backend().allocate(scope.device(), 100000, 64, &memory)).message, "");
    Backend().release(scope.device(), memory);
  });
}

TEST(Leaks, Plans) {
  Op op(XH_OP_ADD);
  const std::vector<Arg> args = {Random(XH_F32, {3, 4}, 1), Random(XH_F32, {3, 4}, 2), Output(XH_F32, {3, 4})};
  ExpectNoLeak("plan_open and plan_close", [&] { EXPECT_EQ(op.Open(XH_INFER, args).message, ""); });
  ExpectNoLeak("plan_open, plan_run and plan_close", [&] {
    std::vector<Arg> mine = args;
    MustRun(op, XH_FORWARD, &mine);
  });
  ExpectNoLeak("refusals of plan_open", [&] { EXPECT_NE(op.Open(XH_INFER, {args[0], args[1]}).code, 0); });
}

TEST(Leaks, PlansWithWorkspace) {
  const int64_t t = 70, d = 16;
  Op op(XH_OP_MLSTM, xh_mlstm_params{XH_SIZED(xh_mlstm_params), XH_NORMALIZER_MAX, 0.25f, 0});
  std::vector<Arg> args = {Random(XH_F32, {1, 2, t, d}, 1), Random(XH_F32, {1, 2, t, d}, 2),
                           Random(XH_F32, {1, 1, t, d}, 3), Random(XH_F32, {1, 2, t}, 4), Random(XH_F32, {1, 2, t}, 5)};
  args.resize(9);
  args.push_back(Output(XH_F32, {1, 2, t, d}));
  args.resize(13);
  ExpectNoLeak("plan_open, plan_run and plan_close of MLSTM", [&] {
    std::vector<Arg> mine = args;
    MustRun(op, XH_FORWARD, &mine);
  });
}

}  // namespace
}  // namespace xh::test
