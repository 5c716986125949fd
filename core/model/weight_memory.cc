#include "core/model/weight_memory.h"

#include <utility>
#include <vector>

#include "absl/strings/strip.h"
#include "core/checkpoint/dtype.h"

namespace xh {
namespace {

// Layers that read the same input, in the order in which they lie.
struct Neighbours {
  const char* layers[3];
  size_t count;
};
constexpr Neighbours kNeighbours[] = {
    {{"q_proj", "k_proj", "v_proj"}, 3}, {{"input_gate", "forget_gate"}, 2}, {{"gate_proj", "up_proj"}, 2}};

// Each part begins where the vector loads of every backend may begin.
constexpr int64_t kAlignment = 16;

StatusOr<int64_t> BytesOf(const Weight& weight) { return TensorBytes(weight.dtype, weight.shape); }

// The weights to allocate together with `name` when it is the first of its neighbours; itself alone when it has none.
StatusOr<std::vector<Weight*>> TogetherWith(const std::string& name, std::map<std::string, Weight>* weights) {
  Weight* const own = &weights->at(name);
  for (const Neighbours& neighbours : kNeighbours) {
    for (const char* part : {".weight", ".bias"}) {
      absl::string_view prefix = name;
      if (!absl::ConsumeSuffix(&prefix, absl::StrCat(neighbours.layers[0], part))) continue;
      std::vector<Weight*> together;
      for (size_t i = 0; i < neighbours.count; ++i) {
        const auto found = weights->find(absl::StrCat(prefix, neighbours.layers[i], part));
        if (found == weights->end() || found->second.buffer != nullptr || found->second.dtype != own->dtype) break;
        XH_ASSIGN_OR_RETURN(const int64_t bytes, BytesOf(found->second));
        if (bytes % kAlignment != 0) break;
        together.push_back(&found->second);
      }
      if (together.size() == neighbours.count) return together;
    }
  }
  return std::vector<Weight*>{own};
}

Status Allocate(Device& device, const std::vector<Weight*>& weights) {
  int64_t total = 0;
  for (const Weight* weight : weights) {
    XH_ASSIGN_OR_RETURN(const int64_t bytes, BytesOf(*weight));
    total += bytes;
  }
  XH_ASSIGN_OR_RETURN(Buffer buffer, device.Allocate(total));
  const auto whole = std::make_shared<Buffer>(std::move(buffer));
  int64_t offset = 0;
  for (Weight* weight : weights) {
    XH_ASSIGN_OR_RETURN(const int64_t bytes, BytesOf(*weight));
    weight->buffer = std::make_shared<Buffer>(whole, offset, bytes);
    offset += bytes;
  }
  return absl::OkStatus();
}

}  // namespace

Status AllocateWeights(Device& device, std::map<std::string, Weight>* weights) {
  // Neighbours first: the first of them need not come first by name.
  for (const bool neighbours : {true, false}) {
    for (auto& [name, weight] : *weights) {
      if (weight.buffer != nullptr) continue;
      XH_ASSIGN_OR_RETURN(const std::vector<Weight*> together, TogetherWith(name, weights));
      if (neighbours == (together.size() > 1)) XH_RETURN_IF_ERROR(Allocate(device, together));
    }
  }
  return absl::OkStatus();
}

}  // namespace xh
