// Ops as they are declared; values in graph_values.cc, gradients in graph_gradients.cc, memory and work in
// graph_run.cc.
#include "core/graph.h"

#include "core/graph_parts.h"

namespace xh {

Graph::Graph(std::shared_ptr<Device> device) : device_(std::move(device)) {}
Graph::~Graph() = default;

const int32_t* Graph::Intern(const std::vector<int32_t>& list) {
  std::unique_ptr<std::vector<int32_t>>& held = interned_[list];
  if (held == nullptr) held = std::make_unique<std::vector<int32_t>>(list);
  return held->data();
}

xh_tensor Graph::Describe(Value value, bool accumulate) const {
  xh_tensor tensor{};
  if (!value.valid()) return tensor;
  const ValueInfo& info = values_[value.id];
  tensor.rank = static_cast<int32_t>(info.shape.size());
  std::copy(info.shape.begin(), info.shape.end(), tensor.shape);
  std::copy(info.stride.begin(), info.stride.end(), tensor.stride);
  tensor.dtype = info.dtype;
  tensor.flags = accumulate ? XH_TENSOR_ACCUMULATE : 0;
  return tensor;
}

StatusOr<std::shared_ptr<OpenedPlan>> Graph::PlanFor(xh_op op, xh_pass pass, const void* params, uint32_t params_size,
                                                     const std::vector<xh_tensor>& tensors) {
  std::string key;
  AppendKey(&key, op);
  AppendKey(&key, pass);
  if (params_size > 0) key.append(static_cast<const char*>(params), params_size);
  for (const xh_tensor& tensor : tensors) AppendKey(&key, tensor);
  const auto found = plans_.find(key);
  if (found != plans_.end()) return found->second;
  xh_op_desc desc{XH_SIZED(xh_op_desc), op,    pass, 0, tensors.data(), static_cast<int32_t>(tensors.size()),
                  params_size,          params};
  StatusOr<OpenedPlan> opened = device_->OpenPlan(desc);
  if (!opened.ok()) {
    const OpTraits* traits = FindOpTraits(op);
    return Annotate(opened.status(), absl::StrCat(traits->name, ".", kPassNames[pass]));
  }
  return plans_[key] = std::make_shared<OpenedPlan>(*std::move(opened));
}

bool Graph::Offers(xh_op op, xh_pass pass, const void* params, uint32_t params_size, const std::vector<Value>& args) {
  std::vector<xh_tensor> tensors;
  for (Value arg : args) tensors.push_back(Describe(arg, false));
  const Status status = PlanFor(op, pass, params, params_size, tensors).status();
  if (!status.ok() && CodeOf(status) != XH_UNSUPPORTED) Fail(status);
  return status.ok();
}

// Appends a step whose results begin at `first_output`. *saved is a storage to read, or -1: then one is made when the
// plan saves something.
void Graph::AddStep(xh_op op, xh_pass pass, const void* params, uint32_t params_size, const std::vector<Value>& args,
                    const std::vector<bool>& accumulate, int32_t first_output, int32_t* saved) {
  if (!status_.ok()) return;
  if (compiled_) return Fail(InvalidState("the graph is compiled: no op can be added"));
  std::vector<xh_tensor> tensors;
  for (size_t i = 0; i < args.size(); ++i) tensors.push_back(Describe(args[i], accumulate[i]));
  StatusOr<std::shared_ptr<OpenedPlan>> opened = PlanFor(op, pass, params, params_size, tensors);
  if (!opened.ok()) return Fail(opened.status());
  std::shared_ptr<OpenedPlan> plan = *std::move(opened);
  if (*saved < 0 && plan->info.saved_bytes > 0) *saved = AddStorage(plan->info.saved_bytes, nullptr);
  steps_.push_back({op, pass, std::move(plan), args, accumulate, *saved, first_output, std::move(tensors), nullptr});
}

void Graph::Emit(xh_op op, xh_pass pass, const void* params, uint32_t params_size, const std::vector<Value>& args) {
  int32_t saved = -1;
  AddStep(op, pass, params, params_size, args, std::vector<bool>(args.size(), false), -1, &saved);
}

std::vector<Value> Graph::Op(xh_op op, const void* params, uint32_t params_size, const std::vector<Value>& inputs,
                             const std::vector<OutputType>& outputs) {
  bool trains = false;
  std::string key;
  AppendKey(&key, op);
  if (params_size > 0) key.append(static_cast<const char*>(params), params_size);
  for (Value input : inputs) {
    if (!RequiresGradient(input)) {
      // Equal views of one tensor are the same input, whoever made them.
      AppendKey(&key, input.valid() ? values_[input.id].root : -1);
      AppendKey(&key, input.valid() ? values_[input.id].offset : 0);
      AppendKey(&key, Describe(input, false));
      continue;
    }
    trains = true;
    if (values_[values_[input.id].root].closed) {
      Fail(Internal("the gradient of an input was already taken: ", FindOpTraits(op)->name, " would lose it"));
    }
  }
  if (!trains) {
    auto found = declared_.find(key);
    if (found != declared_.end()) return found->second;
  }

  std::vector<Value> results;
  for (const OutputType& type : outputs) results.push_back(AddOutput(type));
  std::vector<Value> args = inputs;
  args.insert(args.end(), results.begin(), results.end());
  int32_t saved = -1;
  AddStep(op, trains ? XH_FORWARD : XH_INFER, params, params_size, args, std::vector<bool>(args.size(), false),
          static_cast<int32_t>(inputs.size()), &saved);
  if (!trains) {
    declared_[key] = results;
    return results;
  }
  for (Value result : results) {
    if (result.valid()) values_[values_[result.id].root].requires_gradient = true;
  }
  std::string kept(params_size > 0 ? static_cast<const char*>(params) : "", params_size);
  tape_.push_back({op, std::move(kept), inputs, results, saved, {}});
  return results;
}

void Graph::Keep(Value value) {
  if (value.valid()) storages_[values_[value.id].storage].pinned = true;
}

void Graph::Fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
}

}  // namespace xh
