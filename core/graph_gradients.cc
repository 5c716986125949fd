// Gradients of a graph: the tape, taken back, and segments that are declared again for it.
#include "core/checkpoint/dtype.h"
#include "core/graph_parts.h"

namespace xh {

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

}  // namespace xh
