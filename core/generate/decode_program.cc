#include "core/generate/decode_program.h"

namespace xh {

StatusOr<std::unique_ptr<DecodeProgram>> DecodeProgram::Compile(const Model& model, const DecodeState& state,
                                                                int64_t tokens) {
  const ModelConfig& config = model.config;
  const int64_t batch = state.batch();
  if (batch > 1 && tokens > 1) return Internal("a batch of ", batch, " sequences reads ", tokens, " tokens at once");
  std::unique_ptr<DecodeProgram> program(new DecodeProgram(model.device));
  Graph& graph = program->graph_;
  program->ids_ = graph.Input(XH_I32, {batch * tokens});
  program->position_ = graph.Input(XH_I32, {batch});
  const std::vector<LayerState> layers = state.Declare(graph, program->position_);
  ForwardInput input;
  input.batch = batch;
  input.tokens = tokens;
  input.dtype = model.activation_dtype();
  input.ids = program->ids_;
  input.position = program->position_;
  input.rope_table = state.DeclareRope(graph);
  input.state = &layers;
  const Binder bind = FrozenBinder(model);
  ForwardOutput output = BuildForward(graph, config, bind, input);
  Normed last = output.final;
  last.x = graph.Rows(last.x, tokens - 1, batch);
  last.y = graph.Rows(last.y, tokens - 1, batch);
  program->logits_ = BuildLogits(graph, config, bind, last, XH_F32);  // rounded logits would tie
  program->best_ = SelectTopK(graph, program->logits_, 1).ids;
  Value all = graph.View(program->logits_, {batch * config.vocab_size, 1});
  program->squares_ = Reduce(graph, all, XH_REDUCE_SUM_SQUARES);
  for (Value kept : {program->logits_, program->best_, program->squares_}) graph.Keep(kept);
  XH_RETURN_IF_ERROR(graph.Compile());
  return program;
}

Status DecodeProgram::Run(const int32_t* ids, const int32_t* positions) {
  XH_RETURN_IF_ERROR(graph_.Write(ids_, ids, graph_.size(ids_) * static_cast<int64_t>(sizeof(int32_t))));
  XH_RETURN_IF_ERROR(
      graph_.Write(position_, positions, graph_.size(position_) * static_cast<int64_t>(sizeof(int32_t))));
  return graph_.Run();
}

Status DecodeProgram::Read(Answer* answer) {
  answer->best.resize(static_cast<size_t>(graph_.size(best_)));
  const auto bytes = static_cast<int64_t>(answer->best.size() * sizeof(int32_t));
  XH_RETURN_IF_ERROR(graph_.Fetch(best_, answer->best.data(), bytes));
  XH_RETURN_IF_ERROR(graph_.Fetch(squares_, &answer->squares, sizeof(answer->squares)));
  return device_->Synchronize();
}

Status DecodeProgram::ReadLogits(std::vector<float>* logits) {
  logits->resize(static_cast<size_t>(graph_.size(logits_)));
  return graph_.Read(logits_, logits->data(), static_cast<int64_t>(logits->size() * sizeof(float)));
}

}  // namespace xh
