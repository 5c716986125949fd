#include "core/graph.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/checkpoint/dtype.h"

namespace xh {
namespace {

constexpr int64_t kAlignment = 256;  // of everything in the arena: a multiple of every backend's wish

int64_t RoundUp(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

Shape ContiguousStride(const Shape& shape) {
  Shape stride(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    stride[i] = step;
    step *= shape[i];
  }
  return stride;
}

// Appends the bytes of a value to a lookup key.
template <typename T>
void AppendKey(std::string* key, const T& value) {
  key->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

constexpr const char* kPassNames[] = {"infer", "forward", "backward"};

}  // namespace

struct Graph::ValueInfo {
  xh_dtype dtype;
  Shape shape;
  Shape stride;
  int32_t storage;
  int64_t offset;          // elements from the start of the storage
  int32_t root;            // the tensor that this views; itself where it is one
  bool requires_gradient;  // of roots
  float* gradient;         // of roots that are parameters
  bool closed;             // of roots: its producer has left the tape, no gradient can flow into it any more
};

struct Graph::Storage {
  int64_t bytes;
  void* external;
  int64_t first;  // steps between which the arena must hold it
  int64_t last;
  int64_t offset;
  bool pinned;  // held for the whole run
};

struct Graph::Step {
  xh_op op;
  xh_pass pass;
  std::shared_ptr<OpenedPlan> plan;
  std::vector<Value> args;
  std::vector<bool> accumulate;
  int32_t saved;         // storage, -1 for none
  int32_t first_output;  // of args; -1: updates in place, never superfluous
  std::vector<xh_tensor> tensors;
  void* saved_data;
};

struct Graph::TapeNode {
  xh_op op;
  std::string params;
  std::vector<Value> inputs;
  std::vector<Value> outputs;
  int32_t saved;
  std::vector<TapeNode> segment;  // of Recompute, oldest first; then there is no op
};

Graph::Graph(std::shared_ptr<Device> device) : device_(std::move(device)) {}
Graph::~Graph() = default;

// ---- leaves and views
// -------------------------------------------------------------------------------------------------

int32_t Graph::AddStorage(int64_t bytes, void* external) {
  storages_.push_back({bytes, external, INT64_MAX, -1, 0, false});
  return static_cast<int32_t>(storages_.size()) - 1;
}

Value Graph::AddTensor(xh_dtype dtype, const Shape& shape, int32_t storage) {
  int32_t id = static_cast<int32_t>(values_.size());
  if (shape.size() > XH_MAX_RANK) Fail(Internal("a graph value has rank ", shape.size(), "; at most ", XH_MAX_RANK));
  values_.push_back({dtype, shape, ContiguousStride(shape), storage, 0, id, false, nullptr, false});
  return {id};
}

Value Graph::AddView(Value base, const Shape& shape, const Shape& stride, int64_t offset) {
  ValueInfo info = values_[base.id];
  info.shape = shape;
  info.stride = stride;
  info.offset += offset;
  values_.push_back(std::move(info));
  return {static_cast<int32_t>(values_.size()) - 1};
}

Value Graph::Input(xh_dtype dtype, const Shape& shape) {
  int32_t storage = AddStorage(ElementCount(shape) * DTypeBytes(dtype), nullptr);
  storages_[storage].pinned = true;
  return AddTensor(dtype, shape, storage);
}

Value Graph::Constant(std::vector<float> values, const Shape& shape) {
  Value value = Input(XH_F32, shape);
  constants_.emplace_back(value, std::move(values));
  return value;
}

Value Graph::External(void* data, xh_dtype dtype, const Shape& shape) {
  std::string key;
  AppendKey(&key, data);
  AppendKey(&key, dtype);
  for (int64_t extent : shape) AppendKey(&key, extent);
  auto found = externals_.find(key);
  if (found != externals_.end()) return found->second;
  Value value = AddTensor(dtype, shape, AddStorage(ElementCount(shape) * DTypeBytes(dtype), data));
  externals_[key] = value;
  return value;
}

Value Graph::Parameter(void* data, xh_dtype dtype, const Shape& shape, float* gradient) {
  Value value = External(data, dtype, shape);
  ValueInfo& info = values_[value.id];
  if (info.gradient != nullptr && info.gradient != gradient) {
    Fail(Internal("a parameter was declared with two gradients"));
  }
  info.gradient = gradient;
  info.requires_gradient = gradient != nullptr;
  return value;
}

// Strides of extents of 1 do not matter.
bool Graph::IsContiguous(Value value) const {
  const ValueInfo& info = values_[value.id];
  int64_t step = 1;
  for (size_t i = info.shape.size(); i-- > 0; step *= info.shape[i]) {
    if (info.shape[i] != 1 && info.stride[i] != step) return false;
  }
  return true;
}

Value Graph::View(Value value, const Shape& shape, const Shape& strides) {
  if (!value.valid()) return value;
  if (!IsContiguous(value) || ElementCount(shape) != size(value)) {
    Fail(Internal("a view must cover a contiguous value of the same size"));
    return value;
  }
  return AddView(value, shape, strides.empty() ? ContiguousStride(shape) : strides, 0);
}

Value Graph::SplitHeads(Value rows, int64_t batch, int64_t tokens, int64_t heads, bool scalar) {
  const ValueInfo info = values_[rows.id];
  const bool is_matrix = info.shape.size() == 2 && info.shape[0] == batch * tokens && info.stride[1] == 1;
  const int64_t width = size(rows) / (batch * tokens * heads);
  const int64_t row = is_matrix && info.shape[0] > 1 ? info.stride[0] : heads * width;
  if ((!is_matrix && !IsContiguous(rows)) || width * batch * tokens * heads != size(rows) || (scalar && width != 1)) {
    Fail(Internal("rows of ", heads, " heads for ", batch, " x ", tokens, " tokens were expected"));
    return rows;
  }
  if (scalar) return AddView(rows, {batch, heads, tokens}, {tokens * row, 1, row}, 0);
  return AddView(rows, {batch, heads, tokens, width}, {tokens * row, width, row, 1}, 0);
}

Value Graph::MergeHeads(Value heads) {
  const ValueInfo info = values_[heads.id];
  const size_t rank = info.shape.size();
  const bool has_heads = rank == 3 || rank == 4;
  const int64_t width = rank == 4 ? info.shape[3] : 1;
  Shape expected;
  if (has_heads) expected = {info.shape[2] * info.shape[1] * width, width, info.shape[1] * width, 1};
  // Strides of extents of 1 do not matter.
  for (size_t i = 0; i < rank; ++i) {
    if (!has_heads || (info.shape[i] != 1 && info.stride[i] != expected[i])) {
      Fail(Internal("only token-major heads [B,H,T,d] or [B,H,T] can be merged"));
      return heads;
    }
  }
  Shape rows = {info.shape[0] * info.shape[2], info.shape[1] * width};
  return AddView(heads, rows, ContiguousStride(rows), 0);
}

Value Graph::TokensFirst(Value heads, int64_t sequences) {
  const ValueInfo info = values_[heads.id];
  const Shape &shape = info.shape, &stride = info.stride;
  const bool whole = shape.size() == 4 && sequences == shape[0];
  const bool single =
      shape.size() == 4 && sequences == shape[0] * shape[2] && (shape[0] == 1 || stride[0] == shape[2] * stride[2]);
  if (!whole && !single) {
    Fail(Internal("heads [B,H,T,d] cannot be seen as ", sequences, " sequences of tokens"));
    return heads;
  }
  if (whole) return AddView(heads, {shape[0], shape[2], shape[1], shape[3]}, {stride[0], stride[2], stride[1], 1}, 0);
  return AddView(heads, {sequences, 1, shape[1], shape[3]}, {stride[2], stride[2], stride[1], 1}, 0);
}

Value Graph::Columns(Value value, int64_t first, int64_t count) {
  const ValueInfo info = values_[value.id];
  if (!IsContiguous(value) || info.shape.size() != 2 || first < 0 || count < 1 || first + count > info.shape[1]) {
    Fail(Internal("columns ", first, " to ", first + count, " are not columns of a contiguous matrix"));
    return value;
  }
  return AddView(value, {info.shape[0], count}, {info.shape[1], 1}, first);
}

Value Graph::Joined(const std::vector<Value>& parts) {
  for (Value part : parts) {
    if (!part.valid() || RequiresGradient(part)) return kAbsent;
  }
  Value joined = JoinedConstants(parts);
  return joined.valid() ? joined : JoinedColumns(parts);
}

Value Graph::JoinedConstants(const std::vector<Value>& parts) {
  const ValueInfo first = values_[parts[0].id];
  char* const begin = static_cast<char*>(storages_[first.storage].external);
  Shape shape = first.shape;
  shape[0] = 0;
  const char* end = begin;
  for (Value part : parts) {
    const ValueInfo& info = values_[part.id];
    Shape like_first = info.shape;
    like_first[0] = first.shape[0];
    const void* const data = storages_[info.storage].external;
    if (data == nullptr || data != end || info.root != part.id) return kAbsent;
    if (info.dtype != first.dtype || like_first != first.shape) return kAbsent;
    end += size(part) * DTypeBytes(info.dtype);
    shape[0] += info.shape[0];
  }
  return External(begin, first.dtype, shape);
}

Value Graph::JoinedColumns(const std::vector<Value>& parts) {
  const ValueInfo first = values_[parts[0].id];
  int64_t columns = 0;
  for (Value part : parts) {
    const ValueInfo& info = values_[part.id];
    if (info.root != first.root || info.shape.size() != 2 || info.shape[0] != first.shape[0]) return kAbsent;
    if (info.stride != first.stride || info.offset != first.offset + columns) return kAbsent;
    columns += info.shape[1];
  }
  return AddView(parts[0], {first.shape[0], columns}, first.stride, 0);
}

Value Graph::Rows(Value value, int64_t first, int64_t count) {
  const ValueInfo info = values_[value.id];
  if (!IsContiguous(value) || info.shape.size() != 2 || first < 0 || count < 1 || first + count > info.shape[0]) {
    Fail(Internal("rows ", first, " to ", first + count, " are not rows of a contiguous matrix"));
    return value;
  }
  return AddView(value, {count, info.shape[1]}, info.stride, first * info.shape[1]);
}

Value Graph::AddOutput(const OutputType& type) {
  if (type.dtype == 0) return kAbsent;
  int32_t storage = AddStorage(ElementCount(type.shape) * DTypeBytes(type.dtype), nullptr);
  if (!type.token_major) return AddTensor(type.dtype, type.shape, storage);
  Shape held = type.shape;  // [B,H,T,...] is held as [B,T,H,...]
  std::swap(held[1], held[2]);
  Value root = AddTensor(type.dtype, held, storage);
  Shape stride = values_[root.id].stride;
  std::swap(stride[1], stride[2]);
  return AddView(root, type.shape, stride, 0);
}

const Shape& Graph::shape(Value value) const { return values_[value.id].shape; }
xh_dtype Graph::dtype(Value value) const { return values_[value.id].dtype; }
int64_t Graph::size(Value value) const { return ElementCount(values_[value.id].shape); }

bool Graph::RequiresGradient(Value value) const {
  return value.valid() && values_[values_[value.id].root].requires_gradient;
}

// ---- ops
// --------------------------------------------------------------------------------------------------------------

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

std::shared_ptr<OpenedPlan> Graph::PlanFor(xh_op op, xh_pass pass, const void* params, uint32_t params_size,
                                           const std::vector<xh_tensor>& tensors) {
  std::string key;
  AppendKey(&key, op);
  AppendKey(&key, pass);
  if (params_size > 0) key.append(static_cast<const char*>(params), params_size);
  for (const xh_tensor& tensor : tensors) AppendKey(&key, tensor);
  std::shared_ptr<OpenedPlan>& plan = plans_[key];
  if (plan != nullptr) return plan;
  xh_op_desc desc{XH_SIZED(xh_op_desc), op,    pass, 0, tensors.data(), static_cast<int32_t>(tensors.size()),
                  params_size,          params};
  StatusOr<OpenedPlan> opened = device_->OpenPlan(desc);
  if (!opened.ok()) {
    const OpTraits* traits = FindOpTraits(op);
    Fail(Annotate(opened.status(), absl::StrCat(traits->name, ".", kPassNames[pass])));
    return nullptr;
  }
  plan = std::make_shared<OpenedPlan>(*std::move(opened));
  return plan;
}

// Appends a step whose results begin at `first_output`. *saved is a storage to read, or -1: then one is made when the
// plan saves something.
void Graph::AddStep(xh_op op, xh_pass pass, const void* params, uint32_t params_size, const std::vector<Value>& args,
                    const std::vector<bool>& accumulate, int32_t first_output, int32_t* saved) {
  if (!status_.ok()) return;
  if (compiled_) return Fail(InvalidState("the graph is compiled: no op can be added"));
  std::vector<xh_tensor> tensors;
  for (size_t i = 0; i < args.size(); ++i) tensors.push_back(Describe(args[i], accumulate[i]));
  std::shared_ptr<OpenedPlan> plan = PlanFor(op, pass, params, params_size, tensors);
  if (plan == nullptr) return;
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

// ---- gradients
// --------------------------------------------------------------------------------------------------------

size_t Graph::TapeMark() const { return tape_.size(); }

// The part of `root` (a tensor shaped like view's root) that `view` shows.
Value Graph::ViewLike(Value root, Value view) {
  const ValueInfo info = values_[view.id];
  return AddView(root, info.shape, info.stride, info.offset);
}

Value Graph::GradientOf(Value value) const {
  auto found = gradients_.find(values_[value.id].root);
  return found != gradients_.end() ? found->second : kAbsent;
}

// Where the gradient of an input goes, and whether it is added to what is there.
Value Graph::GradientTarget(Value input, bool* accumulate) {
  const int32_t root = values_[input.id].root;
  *accumulate = true;
  if (values_[root].gradient != nullptr) {
    return ViewLike(External(values_[root].gradient, XH_F32, values_[root].shape), input);
  }
  auto found = gradients_.find(root);
  if (found != gradients_.end()) return ViewLike(found->second, input);
  const ValueInfo info = values_[root];
  Value gradient =
      AddTensor(info.dtype, info.shape, AddStorage(ElementCount(info.shape) * DTypeBytes(info.dtype), nullptr));
  gradients_[root] = gradient;
  if (size(input) == ElementCount(info.shape)) {
    *accumulate = false;
  } else {  // a part of it: the rest must be zero until its turn comes
    xh_fill_params zero{XH_SIZED(xh_fill_params), 0.0f};
    Emit(XH_OP_FILL, XH_INFER, &zero, sizeof(zero), {gradient});
  }
  return ViewLike(gradient, input);
}

void Graph::EmitBackward(const TapeNode& node) {
  const OpTraits& traits = *FindOpTraits(node.op);
  std::vector<Value> args;
  for (size_t i = 0; i < node.inputs.size(); ++i)
    args.push_back(traits.needs_inputs >> i & 1 ? node.inputs[i] : kAbsent);
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    args.push_back(traits.needs_outputs >> i & 1 ? node.outputs[i] : kAbsent);
  }
  bool reached = traits.is_loss;
  for (Value output : node.outputs) {
    Value gradient = traits.is_loss || !output.valid() ? kAbsent : GradientOf(output);
    reached = reached || gradient.valid();
    args.push_back(gradient.valid() ? ViewLike(gradient, output) : kAbsent);
  }
  if (!reached) return;
  std::vector<bool> accumulate(args.size(), false);
  std::vector<int32_t> roots;
  for (Value input : node.inputs) {
    bool add = false;
    Value target = RequiresGradient(input) ? GradientTarget(input, &add) : kAbsent;
    if (target.valid()) {
      int32_t root = values_[input.id].root;
      if (std::find(roots.begin(), roots.end(), root) != roots.end()) {
        Fail(Internal(traits.name, " reads one trained value twice: its gradient would be written twice"));
      }
      roots.push_back(root);
    }
    args.push_back(target);
    accumulate.push_back(add);
  }
  int32_t saved = node.saved;
  AddStep(node.op, XH_BACKWARD, node.params.data(), static_cast<uint32_t>(node.params.size()), args, accumulate,
          static_cast<int32_t>(args.size() - node.inputs.size()), &saved);
}

void Graph::BackwardSince(size_t mark) {
  while (tape_.size() > mark) {
    TapeNode node = std::move(tape_.back());
    tape_.pop_back();
    node.segment.empty() ? EmitBackward(node) : EmitSegment(node);
    Close(node);
  }
}

// No gradient can flow into the results of this node any more.
void Graph::Close(const TapeNode& node) {
  for (Value output : node.outputs) {
    if (output.valid()) values_[values_[output.id].root].closed = true;
  }
  for (const TapeNode& inner : node.segment) Close(inner);
}

// ---- activation checkpointing

void Graph::Recompute(size_t mark) {
  if (tape_.size() <= mark) return;
  TapeNode node{0, "", {}, {}, -1, {}};
  node.segment.assign(std::make_move_iterator(tape_.begin() + static_cast<std::ptrdiff_t>(mark)),
                      std::make_move_iterator(tape_.end()));
  tape_.resize(mark);
  tape_.push_back(std::move(node));
}

bool Graph::HasGradient(const TapeNode& node) const {
  if (FindOpTraits(node.op)->is_loss) return true;
  const auto reached = [this](Value output) { return output.valid() && GradientOf(output).valid(); };
  return std::any_of(node.outputs.begin(), node.outputs.end(), reached) ||
         std::any_of(node.segment.begin(), node.segment.end(), [this](const TapeNode& n) { return HasGradient(n); });
}

// The same op once more, on results that were declared again (`again`: old root -> new tensor) where there are any. The
// gradients that flowed into the old results belong to the new ones.
Graph::TapeNode Graph::Redeclare(const TapeNode& node, std::map<int32_t, Value>* again) {
  TapeNode copy = node;
  for (Value& input : copy.inputs) {
    const auto found = input.valid() ? again->find(values_[input.id].root) : again->end();
    if (found != again->end()) input = ViewLike(found->second, input);
  }
  for (Value& output : copy.outputs) {
    if (!output.valid()) continue;
    const int32_t root = values_[output.id].root;
    const ValueInfo info = values_[root];
    const Value fresh =
        AddTensor(info.dtype, info.shape, AddStorage(ElementCount(info.shape) * DTypeBytes(info.dtype), nullptr));
    values_[fresh.id].requires_gradient = true;
    const auto gradient = gradients_.find(root);
    if (gradient != gradients_.end()) gradients_[fresh.id] = gradient->second;
    (*again)[root] = fresh;
    output = ViewLike(fresh, output);
  }
  std::vector<Value> args = copy.inputs;
  args.insert(args.end(), copy.outputs.begin(), copy.outputs.end());
  copy.saved = -1;
  AddStep(copy.op, XH_FORWARD, copy.params.data(), static_cast<uint32_t>(copy.params.size()), args,
          std::vector<bool>(args.size(), false), static_cast<int32_t>(copy.inputs.size()), &copy.saved);
  return copy;
}

void Graph::EmitSegment(const TapeNode& segment) {
  if (!HasGradient(segment)) return;
  std::map<int32_t, Value> again;
  const size_t mark = tape_.size();
  for (const TapeNode& node : segment.segment) tape_.push_back(Redeclare(node, &again));
  BackwardSince(mark);
}

// ---- compile and run
// --------------------------------------------------------------------------------------------------

void Graph::Keep(Value value) {
  if (value.valid()) storages_[values_[value.id].storage].pinned = true;
}

void Graph::Fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
}

// Drops the steps whose results nobody reads: a forward is declared whole and used up to where a stage taps it.
void Graph::DropUnusedSteps() {
  std::vector<bool> used(storages_.size(), false);
  std::vector<bool> keep(steps_.size(), false);
  for (size_t i = steps_.size(); i-- > 0;) {
    const Step& step = steps_[i];
    keep[i] = step.first_output < 0;
    for (size_t arg = std::max(step.first_output, 0); arg < step.args.size() && !keep[i]; ++arg) {
      if (!step.args[arg].valid()) continue;
      const int32_t storage = values_[step.args[arg].id].storage;
      keep[i] = used[storage] || storages_[storage].pinned || storages_[storage].external != nullptr;
    }
    if (!keep[i]) continue;
    for (Value arg : step.args) {
      if (arg.valid()) used[values_[arg.id].storage] = true;
    }
    if (step.saved >= 0) used[step.saved] = true;
  }
  size_t kept = 0;
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (!keep[i]) continue;
    if (kept != i) steps_[kept] = std::move(steps_[i]);
    ++kept;
  }
  steps_.erase(steps_.begin() + static_cast<std::ptrdiff_t>(kept), steps_.end());
}

// Between which steps each storage is alive, and the largest workspace.
void Graph::FindLifetimes() {
  for (size_t i = 0; i < steps_.size(); ++i) {
    const int64_t index = static_cast<int64_t>(i);
    auto use = [&](int32_t storage) {
      storages_[storage].first = std::min(storages_[storage].first, index);
      storages_[storage].last = std::max(storages_[storage].last, index);
    };
    for (Value arg : steps_[i].args) {
      if (arg.valid()) use(values_[arg.id].storage);
    }
    if (steps_[i].saved >= 0) use(steps_[i].saved);
    workspace_bytes_ = std::max(workspace_bytes_, steps_[i].plan->info.workspace_bytes);
  }
}

// Gives every storage an offset such that those alive at the same time do not overlap: largest first, each at the
// lowest free place. Returns the bytes needed.
int64_t Graph::PlanArena() {
  std::vector<int32_t> order;
  for (size_t i = 0; i < storages_.size(); ++i) {
    Storage& storage = storages_[i];
    if (storage.pinned) {
      storage.first = 0;
      storage.last = static_cast<int64_t>(steps_.size());
    }
    if (storage.external == nullptr && storage.last >= 0) order.push_back(static_cast<int32_t>(i));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return storages_[a].bytes > storages_[b].bytes; });
  std::vector<int32_t> placed;  // by offset
  int64_t total = 0;
  for (int32_t id : order) {
    Storage& storage = storages_[id];
    int64_t offset = 0;
    for (int32_t other_id : placed) {
      const Storage& other = storages_[other_id];
      if (other.last < storage.first || storage.last < other.first) continue;
      if (offset + storage.bytes <= other.offset) break;
      offset = std::max(offset, RoundUp(other.offset + other.bytes));
    }
    storage.offset = offset;
    total = std::max(total, RoundUp(offset + storage.bytes));
    auto place = std::upper_bound(placed.begin(), placed.end(), id,
                                  [&](int32_t a, int32_t b) { return storages_[a].offset < storages_[b].offset; });
    placed.insert(place, id);
  }
  return total;
}

void Graph::ResolvePointers() {
  auto base = [&](const Storage& storage) -> char* {
    if (storage.external != nullptr) return static_cast<char*>(storage.external);
    return static_cast<char*>(arena_.data()) + storage.offset;
  };
  for (Step& step : steps_) {
    for (size_t i = 0; i < step.args.size(); ++i) {
      if (!step.args[i].valid()) continue;
      const ValueInfo& info = values_[step.args[i].id];
      step.tensors[i].data = base(storages_[info.storage]) + info.offset * DTypeBytes(info.dtype);
    }
    if (step.saved >= 0) step.saved_data = base(storages_[step.saved]);
  }
}

Status Graph::Compile() {
  if (!status_.ok()) return status_;
  DropUnusedSteps();
  FindLifetimes();
  workspace_offset_ = PlanArena();
  arena_bytes_ = workspace_offset_ + RoundUp(workspace_bytes_);
  XH_ASSIGN_OR_RETURN(arena_, device_->Allocate(std::max(arena_bytes_, kAlignment)));
  ResolvePointers();
  compiled_ = true;
  for (const auto& [value, values] : constants_) {
    XH_RETURN_IF_ERROR(Write(value, values.data(), static_cast<int64_t>(values.size() * sizeof(float))));
  }
  return absl::OkStatus();
}

Status Graph::Run() {
  if (!compiled_) return InvalidState("the graph is not compiled");
  if (profile_ != nullptr) return RunSteps();
  if (++runs_ == 2 && device_->captures()) XH_RETURN_IF_ERROR(RecordSteps());
  return capture_ != nullptr ? device_->Replay(capture_) : RunSteps();
}

// What runs once is not worth recording, and what ran once is warm: backends choose and load on the first run.
Status Graph::RecordSteps() {
  StatusOr<Capture> capture = device_->Record([this] { return RunSteps(); });
  if (capture.ok()) capture_ = *std::move(capture);
  return CodeOf(capture.status()) == XH_UNSUPPORTED ? absl::OkStatus() : capture.status();
}

Status Graph::RunSteps() {
  void* workspace = static_cast<char*>(arena_.data()) + workspace_offset_;
  for (const Step& step : steps_) {
    auto start = profile_ != nullptr ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
    XH_RETURN_IF_ERROR(device_->RunPlan(*step.plan, step.tensors.data(), static_cast<int32_t>(step.tensors.size()),
                                        workspace, step.saved_data));
    if (profile_ == nullptr) continue;
    XH_RETURN_IF_ERROR(device_->Synchronize());
    OpTime& time = (*profile_)[absl::StrCat(FindOpTraits(step.op)->name, ".", kPassNames[step.pass])];
    ++time.calls;
    time.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return absl::OkStatus();
}

Status Graph::Write(Value value, const void* host, int64_t bytes) {
  const ValueInfo& info = values_[value.id];
  if (!compiled_ || bytes != size(value) * DTypeBytes(info.dtype)) {
    return Internal("a graph input of ", size(value) * DTypeBytes(info.dtype), " bytes was given ", bytes);
  }
  const Storage& storage = storages_[info.storage];
  if (storage.last < 0) return absl::OkStatus();  // no op reads it
  char* base = storage.external != nullptr ? static_cast<char*>(storage.external)
                                           : static_cast<char*>(arena_.data()) + storage.offset;
  return device_->Copy(base + info.offset * DTypeBytes(info.dtype), host, bytes);
}

Status Graph::Read(Value value, void* host, int64_t bytes) {
  XH_RETURN_IF_ERROR(Fetch(value, host, bytes));
  return device_->Synchronize();
}

Status Graph::Fetch(Value value, void* to, int64_t bytes) {
  const ValueInfo& info = values_[value.id];
  if (!compiled_ || !IsContiguous(value) || bytes != size(value) * DTypeBytes(info.dtype)) {
    return Internal("a graph value of ", size(value) * DTypeBytes(info.dtype), " contiguous bytes was read as ", bytes);
  }
  const Storage& storage = storages_[info.storage];
  const char* base = storage.external != nullptr ? static_cast<const char*>(storage.external)
                                                 : static_cast<const char*>(arena_.data()) + storage.offset;
  return device_->Copy(to, base + info.offset * DTypeBytes(info.dtype), bytes);
}

}  // namespace xh
