// One step of work as a static graph: values, ops in order, their gradients, and one arena planned before anything
// runs.
//
// A graph is declared once for fixed shapes, compiled, and run many times:
//   Graph graph(device);
//   Value x = graph.Input(XH_F32, {rows, width});
//   Value y = MatMul(graph, x, weight, bias);          // core/ops.h: one function an op
//   graph.Keep(y);
//   graph.Compile();  graph.Write(x, ...);  graph.Run();  graph.Read(y, ...);
//
// Declaring never fails half way: the first error (a refused plan, a wrong shape) is kept and returned by Compile.
// The same op on the same values is declared once: a student whose frozen projections share the teacher's memory
// computes them once (SPEC.md 3). Not thread safe; one graph, one thread.
#ifndef XHYBRID_CORE_GRAPH_H_
#define XHYBRID_CORE_GRAPH_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/error.h"

namespace xh {

using Shape = std::vector<int64_t>;

struct Value {
  int32_t id = -1;
  bool valid() const { return id >= 0; }
};
inline constexpr Value kAbsent{};

struct OutputType {
  xh_dtype dtype;
  Shape shape;
};

// What autograd must know of an op: which inputs and outputs its backward reads (bit i: number i), as xhybrid_plugin.h
// says.
struct OpTraits {
  xh_op op;
  const char* name;
  uint32_t needs_inputs;
  uint32_t needs_outputs;
  bool is_loss;  // its backward has no output gradient
};
const OpTraits* FindOpTraits(xh_op op);

class Graph {
 public:
  explicit Graph(std::shared_ptr<Device> device);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // ---- leaves (contiguous) ----
  // Filled by Write before each Run.
  Value Input(xh_dtype dtype, const Shape& shape);
  // Device memory of somebody else that outlives the graph: constants, frozen weights, decode state. The same memory
  // and shape is the same value.
  Value External(void* data, xh_dtype dtype, const Shape& shape);
  // A weight that trains: gradients are added into `gradient` (f32, same shape; the trainer zeroes it).
  Value Parameter(void* data, xh_dtype dtype, const Shape& shape, float* gradient);

  // ---- views: no work, gradients flow through ----
  // Another shape and strides (elements) over all of a contiguous value. Strides empty: contiguous.
  Value View(Value value, const Shape& shape, const Shape& strides = {});
  // [B*T, H*d] rows seen as [B, H, T, d], and back (the value must be such a view of a contiguous root).
  Value SplitHeads(Value rows, int64_t batch, int64_t tokens, int64_t heads);
  // Rows [first, first + count) of a rank-2 contiguous value.
  Value Rows(Value value, int64_t first, int64_t count);

  // ---- ops ----
  // Declares an op with new outputs; differentiable. `params` is a struct of xhybrid_plugin.h; what it points to must
  // live during the call, and its content goes into `params_key` so that equal calls are recognised.
  std::vector<Value> Op(xh_op op, const void* params, uint32_t params_size, const std::vector<Value>& inputs,
                        const std::vector<OutputType>& outputs, const std::string& params_key = "");
  // The same into given values (decode state, caches, in-place updates). Never merged, not differentiable.
  void Emit(xh_op op, xh_pass pass, const void* params, uint32_t params_size, const std::vector<Value>& args);

  // ---- gradients ----
  // A place on the tape; BackwardSince emits the backward of the ops declared after it whose gradients are known
  // (losses and what follows from them), newest first, and takes them off the tape. Calling it early frees their memory
  // early.
  size_t TapeMark() const;
  void BackwardSince(size_t mark);
  bool RequiresGradient(Value value) const;
  // The gradient gathered so far of an activation; kAbsent when nothing flowed into it.
  Value GradientOf(Value value) const;

  // ---- compile and run ----
  void Keep(Value value);    // stays readable after Run
  void Fail(Status status);  // first error wins; builders report theirs here
  Status Compile();
  int64_t arena_bytes() const { return arena_bytes_; }  // after Compile
  Status Run();
  Status Write(Value value, const void* host, int64_t bytes);
  Status Read(Value value, void* host, int64_t bytes);

  const Shape& shape(Value value) const;
  xh_dtype dtype(Value value) const;
  int64_t size(Value value) const;  // elements
  Device& device() { return *device_; }

 private:
  struct ValueInfo;
  struct Storage;
  struct Step;
  struct TapeNode;

  int32_t AddStorage(int64_t bytes, void* external);
  Value AddValue(ValueInfo info);
  Value AddTensor(xh_dtype dtype, const Shape& shape, void* external);
  xh_tensor Describe(Value value, bool accumulate) const;
  void AddStep(xh_op op, xh_pass pass, const void* params, uint32_t params_size, const std::vector<Value>& args,
               const std::vector<bool>& accumulate, int32_t saved, std::shared_ptr<OpenedPlan>* opened);
  Value GradientTarget(Value input, bool* accumulate);
  Value ViewLike(Value root, Value view);
  void EmitBackward(const TapeNode& node);
  void PlanArena();

  std::shared_ptr<Device> device_;
  std::vector<ValueInfo> values_;
  std::vector<Storage> storages_;
  std::vector<Step> steps_;
  std::vector<TapeNode> tape_;
  std::map<std::string, std::vector<Value>> declared_;        // op key -> outputs
  std::map<std::string, std::shared_ptr<OpenedPlan>> plans_;  // plan key -> plan
  std::map<int32_t, Value> gradients_;                        // root value -> gradient
  Status status_;
  bool compiled_ = false;
  Buffer arena_;
  int64_t arena_bytes_ = 0;
  int64_t workspace_bytes_ = 0;
  int64_t workspace_offset_ = 0;
};

}  // namespace xh

#endif  // XHYBRID_CORE_GRAPH_H_
