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
#include <utility>
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
  // [B,H,T,d] or [B,H,T] held in memory as [B,T,H,d] or [B,T,H]: what projections read and write.
  bool token_major = false;
};

// Time spent in one kind of op; see Graph::Profile.
struct OpTime {
  int64_t calls = 0;
  double seconds = 0;
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
  // f32 values that never change; the graph keeps them.
  Value Constant(std::vector<float> values, const Shape& shape);
  // Device memory of somebody else that outlives the graph: constants, frozen weights, decode state. The same memory
  // and shape is the same value.
  Value External(void* data, xh_dtype dtype, const Shape& shape);
  // A weight that trains: gradients are added into `gradient` (f32, same shape; the trainer zeroes it).
  Value Parameter(void* data, xh_dtype dtype, const Shape& shape, float* gradient);

  // ---- views: no work, gradients flow through ----
  // Another shape and strides (elements) over all of a contiguous value. Strides empty: contiguous.
  Value View(Value value, const Shape& shape, const Shape& strides = {});
  // Columns [first, first + count) of a contiguous matrix.
  Value Columns(Value value, int64_t first, int64_t count);
  // One matrix of several that lie one behind the other: constants [N,K] or [N] as [sum of N, K] or [sum of N], columns
  // of one value as the columns of all. Absent where they do not, or where one of them trains.
  Value Joined(const std::vector<Value>& parts);
  // [B*T, H*d] rows seen as [B,H,T,d] (with d = 1 dropped when `scalar`: [B*T, H] as [B,H,T]), and back.
  Value SplitHeads(Value rows, int64_t batch, int64_t tokens, int64_t heads, bool scalar = false);
  Value MergeHeads(Value heads);
  // The same heads as [S, B*T/S, H, d], tokens first: of S sequences, B or B*T.
  Value TokensFirst(Value heads, int64_t sequences);
  // Rows [first, first + count) of a rank-2 contiguous value.
  Value Rows(Value value, int64_t first, int64_t count);

  // ---- ops ----
  // Declares an op with new outputs; differentiable. `params` is a struct of xhybrid_plugin.h without padding. An
  // output of dtype 0 is absent.
  std::vector<Value> Op(xh_op op, const void* params, uint32_t params_size, const std::vector<Value>& inputs,
                        const std::vector<OutputType>& outputs);
  // The same into given values (decode state, caches, in-place updates). Never merged, not differentiable.
  void Emit(xh_op op, xh_pass pass, const void* params, uint32_t params_size, const std::vector<Value>& args);
  // Whether the device has a plan for Emit with these arguments. Where it leaves the op out (XH_UNSUPPORTED) callers
  // compose it of others; refused for any other reason, the graph fails.
  bool Offers(xh_op op, xh_pass pass, const void* params, uint32_t params_size, const std::vector<Value>& args);
  // Memory for the result of an Emit.
  Value Uninitialized(const OutputType& type) { return AddOutput(type); }
  // A copy of the list that lives as long as the graph; equal lists give the same pointer.
  const int32_t* Intern(const std::vector<int32_t>& list);

  // ---- gradients ----
  // A place on the tape; BackwardSince emits the backward of the ops declared after it whose gradients are known
  // (losses and what follows from them), newest first, and takes them off the tape. Calling it early frees their memory
  // early.
  size_t TapeMark() const;
  void BackwardSince(size_t mark);
  // Makes one segment of the ops on the tape since `mark`: their results are not kept for the backward, which declares
  // them again right before its turn (activation checkpointing). The same ops on the same values: the same bits, for
  // less memory and a second forward. What else reads a result of the segment still has it.
  void Recompute(size_t mark);
  bool RequiresGradient(Value value) const;
  // The gradient gathered so far of an activation; kAbsent when nothing flowed into it.
  Value GradientOf(Value value) const;

  // ---- compile and run ----
  void Keep(Value value);    // stays readable after Run
  void Fail(Status status);  // first error wins; builders report theirs here
  Status Compile();
  int64_t arena_bytes() const { return arena_bytes_; }  // after Compile
  // The first run does one plan after the other, the second records them where the device can, and from then on they
  // are repeated with one call.
  Status Run();
  // Adds up the time of each op and pass ("matmul.backward") in *times while set; NULL stops.
  void Profile(std::map<std::string, OpTime>* times) { profile_ = times; }
  Status Write(Value value, const void* host, int64_t bytes);
  Status Read(Value value, void* host, int64_t bytes);
  // The same without waiting, to host or device: `to` holds it when the device was synchronised.
  Status Fetch(Value value, void* to, int64_t bytes);

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
  Value AddTensor(xh_dtype dtype, const Shape& shape, int32_t storage);
  Value AddView(Value base, const Shape& shape, const Shape& stride, int64_t offset);
  Value AddOutput(const OutputType& type);
  xh_tensor Describe(Value value, bool accumulate) const;
  StatusOr<std::shared_ptr<OpenedPlan>> PlanFor(xh_op op, xh_pass pass, const void* params, uint32_t params_size,
                                                const std::vector<xh_tensor>& tensors);
  void AddStep(xh_op op, xh_pass pass, const void* params, uint32_t params_size, const std::vector<Value>& args,
               const std::vector<bool>& accumulate, int32_t first_output, int32_t* saved);
  void DropUnusedSteps();
  void FindLifetimes();
  bool IsContiguous(Value value) const;
  Value JoinedConstants(const std::vector<Value>& parts);
  Value JoinedColumns(const std::vector<Value>& parts);
  Value ViewLike(Value root, Value view);
  Value GradientTarget(Value input, bool* accumulate);
  void EmitBackward(const TapeNode& node);
  void EmitSegment(const TapeNode& segment);
  bool HasGradient(const TapeNode& node) const;
  TapeNode Redeclare(const TapeNode& node, std::map<int32_t, Value>* again);
  void Close(const TapeNode& node);
  Status RunSteps();
  Status RecordSteps();
  int64_t PlanArena();
  void ResolvePointers();

  std::shared_ptr<Device> device_;
  std::vector<ValueInfo> values_;
  std::vector<Storage> storages_;
  std::vector<Step> steps_;
  std::vector<TapeNode> tape_;
  std::map<std::string, std::vector<Value>> declared_;        // op, parameters, inputs -> outputs, where nothing trains
  std::map<std::string, std::shared_ptr<OpenedPlan>> plans_;  // request -> plan
  std::map<std::string, Value> externals_;                    // memory and shape -> value
  std::map<std::vector<int32_t>, std::unique_ptr<std::vector<int32_t>>> interned_;
  std::vector<std::pair<Value, std::vector<float>>> constants_;  // written by Compile
  std::map<int32_t, Value> gradients_;                           // root value -> gradient
  std::map<std::string, OpTime>* profile_ = nullptr;
  Status status_;
  bool compiled_ = false;
  Buffer arena_;
  int64_t arena_bytes_ = 0;
  int64_t workspace_bytes_ = 0;
  int64_t workspace_offset_ = 0;
  int64_t runs_ = 0;  // without a profile
  Capture capture_;   // goes before the plans and the arena
};

}  // namespace xh

#endif  // XHYBRID_CORE_GRAPH_H_
