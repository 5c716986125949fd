// AdamW on the device: fp32 moments for every parameter, an fp32 master copy of those that are bf16.
#ifndef XHYBRID_CORE_TRAIN_OPTIMIZER_H_
#define XHYBRID_CORE_TRAIN_OPTIMIZER_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/graph.h"
#include "core/model/model.h"
#include "core/train/stage_options.h"

namespace xh {

// A run of f32 values of the optimizer that a checkpoint holds.
struct OptimizerTensor {
  std::string name;  // "optimizer/first/<parameter>", "optimizer/second/...", "optimizer/master/..."
  Shape shape;
  float* data;  // device memory
};

// One thread at a time. Parameters live in the weights given, which must outlive it; gradients, moments and masters
// here. Weight decay acts on parameters of rank 2 and more: biases, gates' offsets and norms keep their scale.
class Optimizer {
 public:
  static StatusOr<std::unique_ptr<Optimizer>> Create(std::shared_ptr<Device> device,
                                                     const std::map<std::string, Weight>& trained,
                                                     const AdamWOptions& options);

  // Where the gradient of a parameter is gathered, f32; NULL when it does not train.
  float* GradientOf(const std::string& parameter) const;
  Status ZeroGradients();
  // Square root of the sum of squares of all gradients; not finite when one of them is not.
  StatusOr<double> GradientNorm();
  // One AdamW step with the gradients times `gradient_scale`. Counts as update number updates() + 1.
  Status Update(double learning_rate, double gradient_scale);

  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }
  int64_t parameter_count() const { return parameter_count_; }
  int64_t bytes() const;  // of device memory
  // What a checkpoint must hold besides updates(), in the order of the names.
  std::vector<OptimizerTensor> Tensors() const;

 private:
  struct Slot {
    std::string name;
    Weight weight;
    int64_t size;
    int64_t offset;  // of gradient, moments and master, in floats
  };

  explicit Optimizer(std::shared_ptr<Device> device);
  Status Allocate();
  Status BuildGraphs(const AdamWOptions& options);
  Status Start();
  float* At(const Buffer& buffer, const Slot& slot) const { return static_cast<float*>(buffer.data()) + slot.offset; }

  std::shared_ptr<Device> device_;
  AdamWOptions options_;
  std::vector<Slot> slots_;
  bool has_master_ = false;
  int64_t parameter_count_ = 0;
  int64_t padded_ = 0;  // floats in each of the buffers
  int64_t updates_ = 0;
  Buffer gradient_, first_, second_, master_;
  Graph zero_, norm_, update_;
  Value squares_;   // f32[kColumns] of norm_
  Value schedule_;  // f32[4] of update_
};

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_OPTIMIZER_H_
