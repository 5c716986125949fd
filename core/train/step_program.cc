#include "core/train/step_program.h"

#include <algorithm>

namespace xh {
namespace {

// Rows of logits that are in memory at once, teacher's and student's: their product still fills a matrix unit.
constexpr int64_t kLogitsRows = 512;

}  // namespace

StepProgram::StepProgram(const Model& teacher, const Student& student, const GradientOf& gradient_of,
                         const StepShape& shape)
    : teacher_(teacher), student_(student), gradient_of_(gradient_of), shape_(shape), graph_(teacher.device) {
  bind_teacher_ = FrozenBinder(teacher);
  bind_student_ = [this](Graph& graph, const std::string& name) { return StudentParameter(graph, name); };
  const int64_t tokens = shape.rows * shape.tokens;
  input_.batch = shape.rows;
  input_.tokens = shape.tokens;
  input_.dtype = shape.dtype;
  input_.checkpoint_blocks = shape.checkpoint_blocks;  // the teacher has nothing on the tape
  input_.ids = graph_.Input(XH_I32, {tokens});
  if (shape.reset_at_document) input_.start = graph_.Input(XH_I32, {shape.rows, shape.tokens});
  targets_ = graph_.Input(XH_I32, {tokens, 1});
  scale_ = graph_.Input(XH_F32, {1});
  sums_ = graph_.Input(XH_F32, {std::max(student.config.layer_count, (tokens + kLogitsRows - 1) / kLogitsRows), 2});
  if (shape.reset_at_document) positions_.resize(static_cast<size_t>(shape.micro_batches * tokens));
  // Sequences begin at position 0. Constants get their content once, after Compile.
  input_.position = graph_.Input(XH_I32, {shape.reset_at_document ? tokens : shape.rows});
  input_.rope_table = Filled(RopeTableShape(teacher.config, shape.tokens), RopeTable(teacher.config, shape.tokens));
}

Value StepProgram::Filled(const Shape& shape, const std::vector<float>& content) {
  constants_.push_back({graph_.Input(XH_F32, shape), content});
  return constants_.back().value;
}

Value StepProgram::StudentParameter(Graph& graph, const std::string& name) const {
  const auto found = student_.weights.find(name);
  if (found == student_.weights.end()) {
    graph.Fail(Internal("the student has no parameter \"", name, "\""));
    return graph.Input(XH_F32, {1, 1, 1});
  }
  const Weight& weight = found->second;
  float* gradient = gradient_of_(name);
  if (gradient == nullptr) return graph.External(weight.buffer->data(), weight.dtype, weight.shape);
  return graph.Parameter(weight.buffer->data(), weight.dtype, weight.shape, gradient);
}

StatusOr<std::unique_ptr<StepProgram>> StepProgram::Build(const Model& teacher, const Student& student,
                                                          const GradientOf& gradient_of, const DeclaredLoss& loss,
                                                          const StepShape& shape) {
  if (loss.op == XH_OP_DISTILL_LOSS && loss.top_k > teacher.config.vocab_size) {
    return InvalidArgument("\"top_k\" is ", loss.top_k, "; allowed: 1 to ", teacher.config.vocab_size,
                           ", the vocabulary");
  }
  std::unique_ptr<StepProgram> program(new StepProgram(teacher, student, gradient_of, shape));
  if (loss.op == XH_OP_ALIGN_LOSS) {
    program->BuildAlignment(loss);
  } else {
    program->BuildDistillation(loss);
  }
  if (program->pair_count_ > 0) program->used_sums_ = program->graph_.Rows(program->sums_, 0, program->pair_count_);
  XH_RETURN_IF_ERROR(program->graph_.Compile());
  const int64_t floats = program->sum_count();
  XH_ASSIGN_OR_RETURN(program->step_sums_, teacher.device->Allocate(floats * static_cast<int64_t>(sizeof(float))));
  program->host_sums_.resize(static_cast<size_t>(floats));
  XH_RETURN_IF_ERROR(program->WriteConstants());
  return program;
}

Status StepProgram::WriteConstants() {
  const std::vector<int32_t> position(static_cast<size_t>(graph_.size(input_.position)), 0);
  XH_RETURN_IF_ERROR(
      graph_.Write(input_.position, position.data(), static_cast<int64_t>(position.size() * sizeof(int32_t))));
  for (const Constant& constant : constants_) {
    const auto bytes = static_cast<int64_t>(constant.content.size() * sizeof(float));
    XH_RETURN_IF_ERROR(graph_.Write(constant.value, constant.content.data(), bytes));
  }
  return graph_.device().Synchronize();
}

// Where the next sums of a micro-batch go: side by side, so that one copy takes all of them.
Value StepProgram::NextPair() { return graph_.View(graph_.Rows(sums_, pair_count_++, 1), {2}); }

// ---- alignment (SPEC.md 3) ----

void StepProgram::BuildAlignment(const DeclaredLoss& loss) {
  const ForwardOutput teacher = BuildForward(graph_, teacher_.config, bind_teacher_, input_);
  ForwardOutput student;
  if (loss.student == XH_STUDENT) student = BuildForward(graph_, student_.config, bind_student_, input_);
  for (int64_t layer = 0; layer < student_.config.layer_count; ++layer) {
    const LayerTaps& taps = teacher.layers[static_cast<size_t>(layer)];
    if (loss.student == XH_STUDENT) {
      AddAlignment(layer, student.layers[static_cast<size_t>(layer)].mixer_out, taps.mixer_out);
      continue;
    }
    // Layers are independent: each one's backward at once, so that one layer's activations are in memory.
    const size_t mark = graph_.TapeMark();
    Value mixed = BuildMixer(graph_, student_.config, layer, bind_student_, input_, taps.mixer_in);
    AddAlignment(layer, mixed, taps.mixer_out);
    graph_.BackwardSince(mark);
  }
  graph_.BackwardSince(0);
}

void StepProgram::AddAlignment(int64_t layer, Value student, Value teacher) {
  if (student.id == teacher.id) return;  // a kept attention: the graph declared it once
  graph_.Emit(XH_OP_CAST, XH_INFER, nullptr, 0, {AlignLoss(graph_, student, teacher, scale_), NextPair()});
  zero_sums_.layers.push_back({layer, 0, 0});
}

// ---- distillation (SPEC.md 4) ----

void StepProgram::BuildDistillation(const DeclaredLoss& loss) {
  Value teacher = BuildForward(graph_, teacher_.config, bind_teacher_, input_).final_hidden;
  Value student = BuildForward(graph_, student_.config, bind_student_, input_).final_hidden;
  const int64_t tokens = shape_.rows * shape_.tokens;
  for (int64_t first = 0; first < tokens; first += kLogitsRows) {
    const int64_t count = std::min(kLogitsRows, tokens - first);
    const size_t mark = graph_.TapeMark();
    AddLogitsBlock(loss, graph_.Rows(student, first, count), graph_.Rows(teacher, first, count),
                   graph_.View(graph_.Rows(targets_, first, count), {count}));
    graph_.BackwardSince(mark);
  }
  graph_.BackwardSince(0);
}

// Rows [M,D] of both final hidden states, targets[M].
void StepProgram::AddLogitsBlock(const DeclaredLoss& loss, Value student_rows, Value teacher_rows, Value targets) {
  Value teacher_logits = BuildLogits(graph_, teacher_.config, bind_teacher_, teacher_rows);  // [M,V]
  TopK top = SelectTopK(graph_, teacher_logits, loss.top_k);
  if (loss.distill.mode == XH_KL_TAIL_BUCKET) top.values = LogProbabilities(teacher_logits, top.values, loss.top_k);
  Value logits = BuildLogits(graph_, student_.config, bind_student_, student_rows);  // [M,V]
  Value losses = DistillLoss(graph_, logits, targets, &top, scale_, loss.distill);   // [M,2]
  // Not by Reduce: the losses lie on the tape, and nothing flows back through their sum.
  const xh_reduce_params sum{XH_SIZED(xh_reduce_params), XH_REDUCE_SUM};
  graph_.Emit(XH_OP_REDUCE, XH_INFER, &sum, sizeof(sum), {losses, NextPair()});
}

// values - logsumexp(logits): what the tail bucket wants of the teacher, [M,k]. No op gives the logsumexp, but the
// cross entropy of the likeliest token is logsumexp - its logit; products with constants spread both over the k
// columns.
Value StepProgram::LogProbabilities(Value logits, Value values, int32_t top_k) {
  const int64_t rows = graph_.shape(logits)[0];
  const TopK best = SelectTopK(graph_, logits, 1);
  const xh_distill_params plain{XH_SIZED(xh_distill_params), XH_KL_RENORMALIZED, 1.0f, 0.0f, 1.0f};
  Value entropy = DistillLoss(graph_, logits, graph_.View(best.ids, {rows}), nullptr, scale_, plain);  // [M,2]
  if (!minus_first_.valid()) {
    std::vector<float> first_column(static_cast<size_t>(top_k) * 2, 0.0f);
    for (size_t i = 0; i < first_column.size(); i += 2) first_column[i] = -1.0f;
    minus_first_ = Filled({top_k, 2}, first_column);
    minus_ones_ = Filled({top_k, 1}, std::vector<float>(static_cast<size_t>(top_k), -1.0f));
  }
  Value minus_entropy = MatMul(graph_, entropy, minus_first_);  // [M,k]
  Value minus_best = MatMul(graph_, best.values, minus_ones_);  // [M,k]
  return Add(graph_, Add(graph_, values, minus_best), minus_entropy);
}

// ---- run ----

// Starts of documents, and every token's position in its own.
Status StepProgram::WriteDocuments(int64_t index, const int32_t* starts) {
  const int64_t tokens = shape_.rows * shape_.tokens;
  int32_t* const positions = positions_.data() + index * tokens;
  for (int64_t i = 0; i < tokens; ++i) positions[i] = static_cast<int32_t>(i % shape_.tokens) - starts[i];
  const int64_t bytes = tokens * static_cast<int64_t>(sizeof(int32_t));
  XH_RETURN_IF_ERROR(graph_.Write(input_.start, starts, bytes));
  return graph_.Write(input_.position, positions, bytes);
}

Status StepProgram::Run(int64_t index, const int32_t* ids, const int32_t* targets, const int32_t* starts, float scale) {
  const int64_t bytes = shape_.rows * shape_.tokens * static_cast<int64_t>(sizeof(int32_t));
  XH_RETURN_IF_ERROR(graph_.Write(input_.ids, ids, bytes));
  XH_RETURN_IF_ERROR(graph_.Write(targets_, targets, bytes));
  if (shape_.reset_at_document) XH_RETURN_IF_ERROR(WriteDocuments(index, starts));
  scale_content_ = scale;
  XH_RETURN_IF_ERROR(graph_.Write(scale_, &scale_content_, sizeof(scale_content_)));
  XH_RETURN_IF_ERROR(graph_.Run());
  if (pair_count_ == 0) return absl::OkStatus();
  const int64_t floats = 2 * pair_count_;
  return graph_.Fetch(used_sums_, sums() + index * floats, floats * static_cast<int64_t>(sizeof(float)));
}

Status StepProgram::FetchSums() {
  return graph_.device().Copy(host_sums_.data(), sums(), sum_count() * static_cast<int64_t>(sizeof(float)));
}

LossSums StepProgram::Sums() const {
  LossSums sums = zero_sums_;
  for (int64_t i = 0; i < shape_.micro_batches * pair_count_; ++i) {
    const float* const pair = host_sums_.data() + 2 * i;
    if (sums.layers.empty()) {
      sums.cross_entropy += pair[0];
      sums.kl += pair[1];
    } else {
      LossSums::Layer& layer = sums.layers[static_cast<size_t>(i % pair_count_)];
      layer.error += pair[0];
      layer.power += pair[1];
    }
  }
  return sums;
}

}  // namespace xh
