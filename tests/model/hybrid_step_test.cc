// Decoding on a device that takes a hybrid mixer's token as one op: what the core hands to XH_OP_HYBRID_STEP. The
// device is the cpu backend with that op composed as xhybrid_plugin.h says, so that logits and states are those of the
// cpu.
#include <set>

#include "core/generate/session.h"
#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

using nlohmann::json;

enum { kQ, kK, kV, kTable, kPosition, kQueryMap, kKeyMap, kI, kF, kW, kB, kS, kZ, kM, kCacheK, kCacheV, kH };

xh_backend cpu{}, composing{};
int64_t steps_run = 0;

// Ops of the cpu one behind the other. Arguments are numbers of tensors: those of XH_OP_HYBRID_STEP, then results in
// between.
class Composed {
 public:
  explicit Composed(const xh_op_desc& desc) : tensors_(desc.args, desc.args + desc.arg_count) {}
  ~Composed() {
    for (const Call& call : calls_) cpu.plan_close(call.plan);
  }
  Composed(const Composed&) = delete;

  int Result(xh_dtype dtype, std::vector<int64_t> shape) {
    xh_tensor tensor{};
    tensor.dtype = dtype;
    tensor.rank = static_cast<int32_t>(shape.size());
    int64_t count = 1;
    for (int i = tensor.rank - 1; i >= 0; --i) {
      tensor.shape[i] = shape[i];
      tensor.stride[i] = count;
      count *= shape[i];
    }
    memory_.emplace_back(count * 4);
    tensor.data = memory_.back().data();
    tensors_.push_back(tensor);
    return static_cast<int>(tensors_.size()) - 1;
  }
  // [B,H,T,d] as [B,T,H,d] and back.
  int Swapped(int from) {
    xh_tensor tensor = tensors_[from];
    std::swap(tensor.shape[1], tensor.shape[2]);
    std::swap(tensor.stride[1], tensor.stride[2]);
    tensors_.push_back(tensor);
    swapped_.push_back({static_cast<int>(tensors_.size()) - 1, from});
    return static_cast<int>(tensors_.size()) - 1;
  }
  template <class P>
  xh_error* Add(xh_device* device, xh_op op, const P& params, std::vector<int> args) {
    return Add(device, op, &params, sizeof(params), std::move(args));
  }
  xh_error* Add(xh_device* device, xh_op op, const void* params, uint32_t size, std::vector<int> args) {
    std::vector<xh_tensor> tensors = Tensors(args);
    for (xh_tensor& tensor : tensors) tensor.data = nullptr;
    const xh_op_desc desc{
        XH_SIZED(xh_op_desc), op, XH_INFER, 0, tensors.data(), static_cast<int32_t>(args.size()), size, params};
    Call call{nullptr, {}, std::move(args), {}};
    call.info.struct_size = XH_SIZED(xh_plan_info);
    if (xh_error* error = cpu.plan_open(device, &desc, &call.plan, &call.info)) return error;
    call.workspace.resize(call.info.workspace_bytes + 64);
    calls_.push_back(std::move(call));
    return nullptr;
  }
  xh_error* Run(xh_stream* stream, const xh_tensor* args, int32_t count) {
    for (int i = 0; i < count; ++i) tensors_[i].data = args[i].data;
    for (const auto& [to, from] : swapped_) tensors_[to].data = tensors_[from].data;
    for (Call& call : calls_) {
      const std::vector<xh_tensor> tensors = Tensors(call.args);
      const uintptr_t at = (reinterpret_cast<uintptr_t>(call.workspace.data()) + 63) / 64 * 64;
      xh_error* error = cpu.plan_run(call.plan, stream, tensors.data(), static_cast<int32_t>(tensors.size()),
                                     reinterpret_cast<void*>(at), nullptr);
      if (error != nullptr) return error;
    }
    return nullptr;
  }
  const xh_tensor& operator[](int i) const { return tensors_[i]; }

 private:
  struct Call {
    xh_plan* plan;
    xh_plan_info info;
    std::vector<int> args;
    std::vector<char> workspace;
  };
  std::vector<xh_tensor> Tensors(const std::vector<int>& args) const {
    std::vector<xh_tensor> tensors;
    for (int arg : args) tensors.push_back(arg < 0 ? xh_tensor{} : tensors_[arg]);
    return tensors;
  }
  std::vector<xh_tensor> tensors_;
  std::vector<std::vector<char>> memory_;
  std::vector<std::pair<int, int>> swapped_;
  std::vector<Call> calls_;
};

xh_error* Compose(xh_device* device, const xh_hybrid_step_params& p, Composed* step) {
  const xh_tensor q = (*step)[kQ], k = (*step)[kK], S = (*step)[kS];
  const int64_t batch = q.shape[0], heads = q.shape[1], kv_heads = k.shape[1], d = q.shape[3];
  const bool maps = (*step)[kQueryMap].dtype != 0;
  const auto rows = [&](int64_t count, int64_t width) { return step->Result(q.dtype, {batch, count, 1, width}); };
  const int o = step->Result(XH_F32, {batch, heads, 1}), turned_q = rows(heads, d), turned_k = rows(kv_heads, d);
  const int x = rows(heads, d), y = rows(heads, d);
  const int phi_q = maps ? rows(heads, S.shape[2]) : turned_q, phi_k = rows(heads, S.shape[2]);
  const xh_feature_map_params map{XH_SIZED(xh_feature_map_params), p.map};
  const xh_mlstm_params mlstm{XH_SIZED(xh_mlstm_params), p.normalizer, p.mlstm_scale, 0};
  const xh_attention_params window{XH_SIZED(xh_attention_params), p.sinks, p.scale, p.kv_heads, p.windows, 0};
  std::vector<int32_t> repeated;
  for (int64_t h = 0; h < heads; ++h) repeated.push_back(static_cast<int32_t>(h / (heads / kv_heads)));
  const xh_heads_params select{XH_SIZED(xh_heads_params), static_cast<int32_t>(heads), repeated.data()};
  xh_error* error = step->Add(device, XH_OP_HEAD_GATE, nullptr, 0, {kQ, kK, kV, kW, kB, o});
  const auto add = [&](xh_op op, const auto& params, std::vector<int> args) {
    if (error == nullptr) error = step->Add(device, op, params, std::move(args));
  };
  const auto plain = [&](xh_op op, std::vector<int> args) {
    if (error == nullptr) error = step->Add(device, op, nullptr, 0, std::move(args));
  };
  plain(XH_OP_ROPE, {step->Swapped(kQ), kTable, kPosition, step->Swapped(turned_q)});
  plain(XH_OP_ROPE, {step->Swapped(kK), kTable, kPosition, step->Swapped(turned_k)});
  if (maps) {
    add(XH_OP_FEATURE_MAP, map, {turned_q, kQueryMap, phi_q});
    add(XH_OP_FEATURE_MAP, map, {turned_k, kKeyMap, phi_k});
  } else {
    add(XH_OP_SELECT_HEADS, select, {turned_k, phi_k});
  }
  add(XH_OP_MLSTM, mlstm, {phi_q, phi_k, kV, kI, kF, kS, kZ, kM, -1, x, kS, kZ, kM});
  add(XH_OP_ATTENTION, window, {turned_q, turned_k, kV, kCacheK, kCacheV, kPosition, -1, y});
  plain(XH_OP_MIX, {o, x, y, kH});
  return error;
}

std::set<const xh_plan*>& Steps() {
  static std::set<const xh_plan*> steps;
  return steps;
}

xh_error* OpenPlan(xh_device* device, const xh_op_desc* desc, xh_plan** out, xh_plan_info* info) {
  if (desc->op != XH_OP_HYBRID_STEP) return cpu.plan_open(device, desc, out, info);
  auto step = std::make_unique<Composed>(*desc);
  if (xh_error* error = Compose(device, *static_cast<const xh_hybrid_step_params*>(desc->params), step.get())) {
    return error;
  }
  info->flags = 0;
  info->workspace_bytes = info->saved_bytes = 0;
  info->alignment = 64;
  info->implementation = "composed";
  *out = reinterpret_cast<xh_plan*>(step.release());
  Steps().insert(*out);
  return nullptr;
}
void ClosePlan(xh_plan* plan) {
  if (Steps().erase(plan) == 0) return cpu.plan_close(plan);
  delete reinterpret_cast<Composed*>(plan);
}
xh_error* RunPlan(const xh_plan* plan, xh_stream* stream, const xh_tensor* args, int32_t count, void* workspace,
                  void* saved) {
  if (Steps().count(plan) == 0) return cpu.plan_run(plan, stream, args, count, workspace, saved);
  ++steps_run;
  return reinterpret_cast<Composed*>(const_cast<xh_plan*>(plan))->Run(stream, args, count);
}

std::shared_ptr<Device> OpenComposing() {
  cpu = composing = **CpuRuntime()->registry().FindBackend("cpu");
  composing.plan_open = OpenPlan;
  composing.plan_close = ClosePlan;
  composing.plan_run = RunPlan;
  return *Device::Open(&composing, "cpu", 0, nullptr, 0);
}

// Logits and state after a few tokens at once and then one by one.
std::pair<std::vector<float>, std::string> Decode(std::shared_ptr<const Model> model, const std::vector<int32_t>& ids) {
  auto session = *Session::Open(std::move(model), 0);
  EXPECT_TRUE(session->Feed(ids.data(), 5).ok());
  for (size_t i = 5; i < 40; ++i) EXPECT_TRUE(session->Feed(&ids[i], 1).ok());
  return {**session->Logits(), *session->Snapshot()};
}

// Steps that are taken as one op.
int64_t ExpectSame(const std::string& teacher, const json& student) {
  const auto model = MakeStudent(*LoadTeacher(teacher), student);
  const std::vector<int32_t> ids = ExpectedIds(teacher, "input_ids");
  const auto expected = Decode(model, ids);
  auto there = std::make_shared<Model>(*model);  // the same host memory on another device
  there->device = OpenComposing();
  steps_run = 0;
  const auto out = Decode(there, ids);
  EXPECT_EQ(out.first, expected.first) << teacher << " " << student;
  EXPECT_EQ(out.second, expected.second) << teacher << " " << student;
  return steps_run;
}

TEST(HybridStep, DecodesAsTheOpsThatItIsComposedOf) {
  for (const char* teacher : {"hf_llama", "hf_qwen2", "hf_qwen3"}) {
    for (const char* map : {"softmax", "hedgehog", "none"}) {
      EXPECT_GE(ExpectSame(teacher, {{"window", 6}, {"feature_map", map}}), 35) << teacher << " " << map;
    }
  }
}

TEST(HybridStep, LayersWithHeadsOfTheirOwnKindAreComposed) {
  const json kept =
      json::parse(R"({"window": 6, "layers": [{"layer": 0, "window": [6, 0]}, {"layer": 1, "kind": "window"},
                                   {"layer": 2, "kind": "mlstm"}]})");
  EXPECT_EQ(ExpectSame("hf_qwen2", kept), 0);
}

}  // namespace
}  // namespace xh::test
