#include "core/model/model.h"

#include <utility>

#include "core/checkpoint/dtype.h"
#include "core/model/mixer.h"
#include "core/model/source.h"
#include "core/model/weight_memory.h"

namespace xh {
namespace {

using nlohmann::json;

xh_dtype HeldDType(xh_dtype stored, xh_dtype asked) {
  if (asked != 0) return asked;
  return stored == XH_F16 ? XH_F32 : stored;  // no op computes with f16
}

Status LoadWeight(const ModelSource& source, const SourceTensor& tensor, Device& device, const Weight& weight) {
  const int64_t count = ElementCount(tensor.shape);
  const int64_t bytes = count * DTypeBytes(weight.dtype);
  XH_ASSIGN_OR_RETURN(const void* stored, source.view(tensor.name));
  std::string converted;
  const bool same = weight.dtype == tensor.dtype;
  if (!same) converted.resize(static_cast<size_t>(bytes));
  XH_RETURN_IF_ERROR(
      ConvertFinite(tensor.name, tensor.dtype, stored, count, weight.dtype, same ? nullptr : converted.data()));
  XH_RETURN_IF_ERROR(device.Copy(weight.buffer->data(), same ? stored : converted.data(), bytes));
  return device.Synchronize();
}

// The weights of a source with memory that is not yet written.
StatusOr<std::map<std::string, Weight>> EmptyWeights(const ModelSource& source, xh_dtype dtype, Device& device) {
  std::map<std::string, Weight> weights;
  for (const SourceTensor& tensor : source.tensors) {
    weights[tensor.name] = {HeldDType(tensor.dtype, dtype), tensor.shape, nullptr};
  }
  XH_RETURN_IF_ERROR(AllocateWeights(device, &weights));
  return weights;
}

// A model without a tokenizer is whole: it reads and writes ids.
void OpenTokenizer(const Registry& registry, Model* model) {
  if (model->tokenizer_files.empty()) {
    model->tokenizer_problem = "there are no tokenizer files";
    return;
  }
  StatusOr<std::shared_ptr<Tokenizer>> tokenizer = Tokenizer::Open(registry, model->tokenizer_files);
  if (tokenizer.ok()) {
    model->tokenizer = *std::move(tokenizer);
  } else {
    model->tokenizer_problem = std::string(tokenizer.status().message());
  }
}

json DescribeState(const Model& model) {
  const ModelConfig& config = model.config;
  const xh_dtype activation = model.activation_dtype();
  const int64_t constant = DecodeStateBytes(config, 0, activation);
  return {
      {"constant_bytes", constant},
      {"bytes_per_token", DecodeStateBytes(config, 1, activation) - constant},
      {"teacher_bytes_per_token", 2 * config.layer_count * config.kv_heads * config.head_dim * DTypeBytes(activation)}};
}

json DescribeTokenizer(const Model& model) {
  if (model.tokenizer == nullptr) return {{"problem", model.tokenizer_problem}};
  json files = json::array();
  for (const auto& [name, bytes] : model.tokenizer_files) files.push_back(name);
  return {{"vocab_size", model.tokenizer->vocab_size()}, {"files", files}};
}

}  // namespace

int64_t DecodeStateBytes(const ModelConfig& config, int64_t capacity, xh_dtype activation) {
  int64_t bytes = 0;
  for (int64_t layer = 0; layer < config.layer_count; ++layer) {
    for (const StateSpec& state : MixerState(config, layer, 1, capacity)) {
      bytes += ElementCount(state.shape) * DTypeBytes(state.is_cache ? activation : XH_F32);
    }
  }
  return bytes;
}

StatusOr<std::shared_ptr<const Model>> SketchModel(std::shared_ptr<Device> rehearsal, const std::string& path,
                                                   xh_dtype dtype) {
  XH_ASSIGN_OR_RETURN(ModelSource source, OpenModelSource(path));
  auto model = std::make_shared<Model>();
  XH_ASSIGN_OR_RETURN(model->weights, EmptyWeights(source, dtype, *rehearsal));
  model->config = std::move(source.config);
  model->device = std::move(rehearsal);
  model->path = path;
  return model;
}

StatusOr<std::shared_ptr<Model>> Model::Load(const std::shared_ptr<Runtime>& runtime, const std::string& path,
                                             xh_dtype dtype) {
  if (dtype != 0 && dtype != XH_F32 && dtype != XH_BF16) {
    return InvalidArgument("dtype is ", DTypeName(dtype), "; allowed: f32, bf16, or 0 for the stored one");
  }
  XH_ASSIGN_OR_RETURN(ModelSource source, OpenModelSource(path));
  auto model = std::make_shared<Model>();
  XH_ASSIGN_OR_RETURN(model->device, runtime->OpenDevice());
  XH_ASSIGN_OR_RETURN(model->weights, EmptyWeights(source, dtype, *model->device));
  for (const SourceTensor& tensor : source.tensors) {
    XH_RETURN_IF_ERROR(Annotate(LoadWeight(source, tensor, *model->device, model->weights.at(tensor.name)), path));
  }
  model->config = std::move(source.config);
  model->history = std::move(source.history);
  model->tokenizer_files = std::move(source.tokenizer_files);
  model->huggingface_files = std::move(source.huggingface_files);
  model->path = path;
  OpenTokenizer(runtime->registry(), model.get());
  return model;
}

xh_dtype Model::activation_dtype() const {
  auto embeddings = weights.find("model.embed_tokens.weight");
  return embeddings != weights.end() && embeddings->second.dtype == XH_BF16 ? XH_BF16 : XH_F32;
}

json Model::Describe() const {
  int64_t parameters = 0, added = 0, bytes = 0;
  for (const ParameterSpec& parameter : ParametersOf(config)) {
    const int64_t count = ElementCount(parameter.shape);
    parameters += count;
    if (parameter.init != Init::kFromTeacher) added += count;
    auto weight = weights.find(parameter.name);
    if (weight != weights.end()) bytes += count * DTypeBytes(weight->second.dtype);
  }
  json mixers = json::object();
  for (const MixerConfig& mixer : config.mixers) mixers[mixer.kind] = mixers.value(mixer.kind, 0) + 1;
  return {{"path", path},
          {"family", config.family},
          {"config", ConfigToJson(config)},
          {"parameters", parameters},
          {"new_parameters", added},
          {"weight_bytes", bytes},
          {"activation_dtype", DTypeName(activation_dtype())},
          {"mixers", mixers},
          {"state", DescribeState(*this)},
          {"tokenizer", DescribeTokenizer(*this)},
          {"history", history}};
}

Binder FrozenBinder(const Model& model) {
  return [&model](Graph& graph, const std::string& name) {
    auto found = model.weights.find(name);
    if (found == model.weights.end()) {
      graph.Fail(Internal("the model has no parameter \"", name, "\""));
      return graph.Input(XH_F32, {1, 1, 1});
    }
    const Weight& weight = found->second;
    return graph.External(weight.buffer->data(), weight.dtype, weight.shape);
  };
}

}  // namespace xh
