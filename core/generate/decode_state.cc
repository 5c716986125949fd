#include "core/generate/decode_state.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/checkpoint/dtype.h"
#include "core/model/limits.h"

namespace xh {

StatusOr<DecodeState> DecodeState::Open(std::shared_ptr<const Model> model, int64_t batch, int64_t capacity) {
  if (capacity < 0 || capacity > kMostPositions) {
    return InvalidArgument("session: \"capacity\" is ", capacity, "; allowed: 0 (the model's context) to ",
                           kMostPositions);
  }
  const int64_t positions = capacity > 0 ? capacity : model->config.context;
  DecodeState state(std::move(model), batch, positions);
  XH_RETURN_IF_ERROR(state.Allocate());
  return state;
}

Status DecodeState::Allocate() {
  const ModelConfig& config = model_->config;
  Device& device = *model_->device;
  size_t largest = 0, heads = 0;
  for (int64_t layer = 0; layer < config.layer_count; ++layer) {
    std::vector<StateTensor> tensors;
    for (StateSpec& spec : MixerState(config, layer, batch_, capacity_)) {
      const xh_dtype dtype = spec.is_cache ? model_->activation_dtype() : XH_F32;
      XH_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(dtype, spec.shape));
      XH_ASSIGN_OR_RETURN(Buffer buffer, device.Allocate(bytes));
      const size_t values = static_cast<size_t>(bytes / batch_) / sizeof(float);
      if (!spec.is_cache) (spec.name == "m" ? heads : largest) = std::max(spec.name == "m" ? heads : largest, values);
      tensors.push_back({std::move(spec), std::move(buffer)});
    }
    layers_.push_back(std::move(tensors));
  }
  zeros_.assign(largest, 0.0f);
  lowest_.assign(heads, -std::numeric_limits<float>::infinity());
  const std::vector<float> table = RopeTable(config, capacity_);
  const int64_t bytes = static_cast<int64_t>(table.size() * sizeof(float));
  XH_ASSIGN_OR_RETURN(rope_table_, device.Allocate(bytes));
  XH_RETURN_IF_ERROR(device.Copy(rope_table_.data(), table.data(), bytes));
  return device.Synchronize();
}

// S and z begin at 0, m at -inf (SPEC.md 1.1). Caches are read only where they were written.
Status DecodeState::Reset() {
  for (const std::vector<StateTensor>& layer : layers_) {
    for (const StateTensor& tensor : layer) {
      if (tensor.spec.is_cache) continue;
      const std::vector<float>& start = tensor.spec.name == "m" ? lowest_ : zeros_;
      const int64_t bytes = tensor.buffer.bytes() / batch_;
      for (int64_t sequence = 0; sequence < batch_; ++sequence) {
        char* to = static_cast<char*>(tensor.buffer.data()) + sequence * bytes;
        XH_RETURN_IF_ERROR(model_->device->Copy(to, start.data(), bytes));
      }
    }
  }
  return model_->device->Synchronize();
}

std::vector<LayerState> DecodeState::Declare(Graph& graph, Value position) const {
  std::vector<LayerState> layers;
  for (const std::vector<StateTensor>& tensors : layers_) {
    LayerState layer;
    layer.cache.position = position;
    layer.cache.capacity = capacity_;
    const std::pair<const char*, Value*> places[] = {{"S", &layer.mlstm.S},
                                                     {"z", &layer.mlstm.z},
                                                     {"m", &layer.mlstm.m},
                                                     {"cache_k", &layer.cache.k},
                                                     {"cache_v", &layer.cache.v}};
    for (const StateTensor& tensor : tensors) {
      const xh_dtype dtype = tensor.spec.is_cache ? model_->activation_dtype() : XH_F32;
      for (const auto& [name, place] : places) {
        if (tensor.spec.name == name) *place = graph.External(tensor.buffer.data(), dtype, tensor.spec.shape);
      }
    }
    layers.push_back(layer);
  }
  return layers;
}

Value DecodeState::DeclareRope(Graph& graph) const {
  return graph.External(rope_table_.data(), XH_F32, RopeTableShape(model_->config, capacity_));
}

// Every head fills its slots in the order of the positions, sinks first: the used ones come first.
std::vector<DecodeState::UsedPart> DecodeState::UsedParts(int64_t sequence, int64_t position) const {
  std::vector<UsedPart> parts;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const MixerConfig& mixer = model_->config.mixers[layer];
    for (const StateTensor& tensor : layers_[layer]) {
      const int64_t bytes = tensor.buffer.bytes() / batch_;
      char* data = static_cast<char*>(tensor.buffer.data()) + sequence * bytes;
      if (!tensor.spec.is_cache) {
        parts.push_back({data, bytes});
        continue;
      }
      const int64_t slot_bytes = model_->config.head_dim * DTypeBytes(model_->activation_dtype());
      for (int32_t window : mixer.windows) {
        const int64_t slots = AttentionCacheSlots({window}, mixer.sinks, capacity_);
        parts.push_back({data, std::min(position, slots) * slot_bytes});
        data += slots * slot_bytes;
      }
    }
  }
  return parts;
}

int64_t DecodeState::bytes() const {
  int64_t bytes = 0;
  for (const std::vector<StateTensor>& layer : layers_) {
    for (const StateTensor& tensor : layer) bytes += tensor.buffer.bytes();
  }
  return bytes;
}

}  // namespace xh
