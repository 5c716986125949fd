// Dense layers over a backend of this test that has XH_OP_DENSE or leaves it out: which ops a graph then runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>

#include "core/ops.h"
#include "core/plugin_host.h"

struct xh_plan {
  xh_op op;
};

namespace xh {
namespace {

using ::testing::ElementsAre;

bool has_dense = true;
std::vector<xh_op> ran;

xh_error* Refused(xh_code code) { return PluginHost()->error_new(code, "fake", "not here"); }

xh_error* Open(xh_device*, const xh_op_desc* desc, xh_plan** out, xh_plan_info*) {
  if (desc->op == XH_OP_DENSE && !has_dense) return Refused(XH_UNSUPPORTED);
  *out = new xh_plan{desc->op};
  return nullptr;
}
xh_error* Run(const xh_plan* plan, xh_stream*, const xh_tensor*, int32_t, void*, void*) {
  ran.push_back(plan->op);
  return nullptr;
}

xh_backend Recorder() {
  xh_backend backend{};
  backend.struct_size = XH_SIZED(xh_backend);
  backend.device_count = [](int32_t* out) -> xh_error* { return *out = 1, nullptr; };
  backend.device_open = [](int32_t, const xh_option*, int64_t, xh_device**) -> xh_error* { return nullptr; };
  backend.device_close = [](xh_device*) {};
  backend.stream_open = [](xh_device*, void*, xh_stream**) -> xh_error* { return nullptr; };
  backend.stream_close = [](xh_stream*) {};
  backend.synchronize = [](xh_stream*) -> xh_error* { return nullptr; };
  backend.allocate = [](xh_device*, int64_t bytes, int64_t, void** out) -> xh_error* {
    return *out = std::malloc(static_cast<size_t>(bytes)), nullptr;
  };
  backend.release = [](xh_device*, void* memory) { std::free(memory); };
  backend.copy = [](xh_stream*, void* to, const void* from, int64_t bytes) -> xh_error* {
    return std::memmove(to, from, static_cast<size_t>(bytes)), nullptr;
  };
  backend.plan_open = Open;
  backend.plan_close = [](xh_plan* plan) { delete plan; };
  backend.plan_run = Run;
  return backend;
}

// What the ops run are, for a gated layer behind a norm and a layer with a residual. Weights train where they have a
// gradient.
std::vector<xh_op> OpsOf(bool offered, bool keeps_norm = false, float* gradient = nullptr) {
  static std::vector<float> gate_up(48), down(12), norm(4);
  const xh_backend backend = Recorder();
  has_dense = offered;
  ran.clear();
  Graph graph(*Device::Open(&backend, "fake", 0, nullptr, 0));
  const Value x = graph.Input(XH_F32, {2, 4});
  DenseLayer first, last;
  first.x = NormedOf(graph, x, graph.External(norm.data(), XH_F32, {4}), 1e-5);
  first.weights = {graph.External(gate_up.data(), XH_F32, {3, 4}), graph.External(gate_up.data() + 12, XH_F32, {3, 4})};
  first.biases = {kAbsent, kAbsent};
  first.gated = true;
  last.x = Dense(graph, first)[0];
  last.weights = {graph.Parameter(down.data(), XH_F32, {4, 3}, gradient)};
  last.biases = {kAbsent};
  last.residual = x;
  graph.Keep(Dense(graph, last)[0]);
  if (keeps_norm) graph.Keep(first.x.y);
  EXPECT_TRUE(graph.Compile().ok());
  EXPECT_TRUE(graph.Run().ok());
  return ran;
}

TEST(Dense, IsOneOpALayerWhereTheDeviceHasIt) { EXPECT_THAT(OpsOf(true), ElementsAre(XH_OP_DENSE, XH_OP_DENSE)); }

TEST(Dense, MakesTheNormAsWellForWhoKeepsIt) {
  EXPECT_THAT(OpsOf(true, true), ElementsAre(XH_OP_RMS_NORM, XH_OP_DENSE, XH_OP_DENSE));
}

TEST(Dense, IsComposedWhereTheDeviceLeavesItOut) {
  EXPECT_THAT(OpsOf(false), ElementsAre(XH_OP_RMS_NORM, XH_OP_MATMUL, XH_OP_SWIGLU, XH_OP_MATMUL, XH_OP_ADD));
}

TEST(Dense, IsComposedWhereAWeightTrains) {
  std::vector<float> gradient(12);
  EXPECT_THAT(OpsOf(true, false, gradient.data()), ElementsAre(XH_OP_DENSE, XH_OP_MATMUL, XH_OP_ADD));
}

}  // namespace
}  // namespace xh
