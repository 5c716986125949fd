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
  // `clip`: largest norm of all gradients together, 0: not clipped.
  static StatusOr<std::unique_ptr<Optimizer>> Create(std::shared_ptr<Device> device,
                                                     const std::map<std::string, Weight>& trained,
                                                     const AdamWOptions& options, double clip = 0);
  // Before the first Update. `sums`: f32 on the device, which must be finite like the gradients; NULL for none.
  Status Compile(float* sums = nullptr, int64_t sum_count = 0);

  // Where the gradient of a parameter is gathered, f32; NULL when it does not train.
  float* GradientOf(const std::string& parameter) const;
  Status ZeroGradients();
  // Queues one AdamW step, update number updates() + 1. The device decides by itself whether it is clipped, and skips
  // it when a gradient or a sum is not finite.
  Status Update(double learning_rate);
  struct Outcome {
    double gradient_norm = 0;  // before clipping; not finite when a gradient is not
    bool skipped = false;      // nothing was changed
  };
  // Waits for the device and says what became of the Update.
  StatusOr<Outcome> Finish();

  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }
  int64_t parameter_count() const { return parameter_count_; }
  int64_t bytes() const;                                        // of device memory
  int64_t gradient_bytes() const { return gradient_.bytes(); }  // among them
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
  void DeclareClip(float* sums, int64_t sum_count);
  Value ReportRows(int64_t first, int64_t count);
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
  double clip_ = 0;
  Graph zero_, update_;
  Value schedule_value_;  // the last 4 of report_
  Value report_;  // f32 of update_: kColumns sums of squares, then the schedule, whose last is not finite when skipped
  float schedule_[4] = {};  // as written: the copy may be made later
};

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_OPTIMIZER_H_
