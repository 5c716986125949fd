// One stage's forward and backward over a micro-batch, as a compiled graph.
#ifndef XHYBRID_CORE_TRAIN_STEP_PROGRAM_H_
#define XHYBRID_CORE_TRAIN_STEP_PROGRAM_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/graph.h"
#include "core/train/declaration.h"
#include "core/train/student.h"

namespace xh {

struct StepShape {
  int64_t rows = 1;           // B: rows of a micro-batch
  int64_t micro_batches = 1;  // of a step
  int64_t tokens = 1;         // T: tokens of a row
  xh_dtype dtype = XH_F32;    // of activations
  // Teacher and student take every document of a row as a sequence of its own; else a row is one sequence.
  bool reset_at_document = false;
  bool checkpoint_blocks = false;  // a student's block is computed again for its backward
};

// What a loss adds up over the rows run; the caller divides.
struct LossSums {
  struct Layer {
    int64_t layer;
    double error = 0;  // sum of |student - teacher|^2
    double power = 0;  // sum of |teacher|^2
  };
  std::vector<Layer> layers;  // of the alignment loss; layers whose mixer is the teacher's own are left out
  double cross_entropy = 0;   // of the distillation loss, summed over targets
  double kl = 0;
};

// Not thread safe. Teacher, student's weights and gradients must outlive it.
class StepProgram {
 public:
  // `gradient_of` gives where a student's parameter gathers its gradient, f32, NULL when it is frozen.
  using GradientOf = std::function<float*(const std::string& parameter)>;
  static StatusOr<std::unique_ptr<StepProgram>> Build(const Model& teacher, const Student& student,
                                                      const GradientOf& gradient_of, const DeclaredLoss& loss,
                                                      const StepShape& shape);

  // Queues micro-batch `index` of a step: ids and targets [B*T] (negative targets are ignored), and starts [B*T] as
  // BatchStream::NextRow gives them, read with reset_at_document only. They must live until the device was
  // synchronised. Gradients of `scale` times the summed loss, the same for all of a step, are added to those there are.
  Status Run(int64_t index, const int32_t* ids, const int32_t* targets, const int32_t* starts, float scale);
  // What the losses of a whole step add up, on the device: pairs by micro-batch.
  float* sums() const { return static_cast<float*>(step_sums_.data()); }
  int64_t sum_count() const { return shape_.micro_batches * pair_count_ * 2; }
  // Queues their copy to the host; Sums gives them when the device was synchronised.
  Status FetchSums();
  LossSums Sums() const;
  int64_t memory_bytes() const { return graph_.arena_bytes() + step_sums_.bytes(); }
  void Profile(std::map<std::string, OpTime>* times) { graph_.Profile(times); }

 private:
  struct Constant {
    Value value;
    std::vector<float> content;
  };

  StepProgram(const Model& teacher, const Student& student, const GradientOf& gradient_of, const StepShape& shape);
  Value StudentParameter(Graph& graph, const std::string& name) const;
  void BuildAlignment(const DeclaredLoss& loss);
  void AddAlignment(int64_t layer, Value student, Value teacher);
  void BuildDistillation(const DeclaredLoss& loss);
  void AddLogitsBlock(const DeclaredLoss& loss, Value student_rows, Value teacher_rows, Value targets);
  Value LogProbabilities(Value logits, Value values, int32_t top_k);
  Value Filled(const Shape& shape, const std::vector<float>& content);
  Status WriteConstants();
  Value NextPair();
  Status WriteDocuments(int64_t index, const int32_t* starts);

  const Model& teacher_;
  const Student& student_;
  GradientOf gradient_of_;
  StepShape shape_;
  Binder bind_teacher_, bind_student_;
  Graph graph_;
  ForwardInput input_;
  Value targets_, scale_;
  // f32[pairs, 2]: each layer's {error, power}, or each block's {cross entropy, KL}; pair_count_ of them are used.
  Value sums_, used_sums_;
  int64_t pair_count_ = 0;
  Buffer step_sums_;                // those of every micro-batch of a step
  std::vector<float> host_sums_;    // the same, fetched
  float scale_content_ = 0;         // what was last written: the copy may be made later
  std::vector<int32_t> positions_;  // likewise, of every micro-batch
  std::vector<Constant> constants_;
  Value minus_first_, minus_ones_;  // of LogProbabilities: [k,2] with rows (-1, 0), [k,1] of -1
  LossSums zero_sums_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_STEP_PROGRAM_H_
