// What a graph keeps of its values, memory, steps and tape: for the files of Graph alone.
#ifndef XHYBRID_CORE_GRAPH_PARTS_H_
#define XHYBRID_CORE_GRAPH_PARTS_H_

#include <string>

#include "core/graph.h"

namespace xh {

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

// Appends the bytes of a value to a lookup key.
template <typename T>
void AppendKey(std::string* key, const T& value) {
  key->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

inline constexpr const char* kPassNames[] = {"infer", "forward", "backward"};

}  // namespace xh

#endif  // XHYBRID_CORE_GRAPH_PARTS_H_
