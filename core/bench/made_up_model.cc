#include "core/bench/made_up_model.h"

#include <algorithm>
#include <utility>

#include "core/checkpoint/dtype.h"
#include "core/model/source.h"
#include "core/model/weight_memory.h"

namespace xh {
namespace {

constexpr int64_t kBlockValues = int64_t{1} << 24;

uint64_t NextOf(uint64_t* state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return *state >> 33;
}

// Uniform in [-1/32, 1/32): a product keeps the scale of what it reads, near enough.
std::vector<float> Noise() {
  std::vector<float> values(static_cast<size_t>(kBlockValues));
  uint64_t state = 1;
  for (float& value : values) value = static_cast<float>(NextOf(&state) % 65536) / 65536.0f / 16.0f - 1.0f / 32.0f;
  return values;
}

Status Write(Device& device, const std::vector<float>& values, xh_dtype dtype, const Buffer& buffer) {
  const auto count = static_cast<int64_t>(values.size());
  std::vector<char> bytes(values.size() * static_cast<size_t>(DTypeBytes(dtype)));
  FromF32(values.data(), count, dtype, bytes.data());
  XH_RETURN_IF_ERROR(device.Copy(buffer.data(), bytes.data(), buffer.bytes()));
  return device.Synchronize();
}

// Each weight begins elsewhere in the noise, so that no two are alike.
Status CopyNoise(Device& device, const Buffer& noise, int64_t turn, const Buffer& buffer) {
  int64_t from = turn * 4096 % noise.bytes();
  for (int64_t done = 0; done < buffer.bytes();) {
    const int64_t part = std::min(buffer.bytes() - done, noise.bytes() - from);
    XH_RETURN_IF_ERROR(
        device.Copy(static_cast<char*>(buffer.data()) + done, static_cast<char*>(noise.data()) + from, part));
    done += part;
    from = 0;
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<std::shared_ptr<Model>> MakeUpModel(const std::shared_ptr<Runtime>& runtime, const std::string& directory,
                                             xh_dtype dtype) {
  auto model = std::make_shared<Model>();
  XH_ASSIGN_OR_RETURN(model->config, ReadHuggingFaceConfig(directory));
  XH_ASSIGN_OR_RETURN(model->device, runtime->OpenDevice());
  model->path = directory;
  model->tokenizer_problem = "the weights are made up";
  Device& device = *model->device;
  const std::vector<float> values = Noise();
  XH_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(dtype, {static_cast<int64_t>(values.size())}));
  XH_ASSIGN_OR_RETURN(const Buffer noise, device.Allocate(bytes));
  XH_RETURN_IF_ERROR(Write(device, values, dtype, noise));
  for (const ParameterSpec& spec : ParametersOf(model->config)) {
    model->weights[spec.name] = {dtype, spec.shape, nullptr};
  }
  XH_RETURN_IF_ERROR(AllocateWeights(device, &model->weights));
  int64_t turn = 0;
  for (const auto& [name, weight] : model->weights) {
    if (weight.shape.size() == 1) {
      XH_RETURN_IF_ERROR(
          Write(device, std::vector<float>(static_cast<size_t>(weight.shape[0]), 1.0f), dtype, *weight.buffer));
    } else {
      XH_RETURN_IF_ERROR(CopyNoise(device, noise, turn, *weight.buffer));
    }
    ++turn;
  }
  XH_RETURN_IF_ERROR(device.Synchronize());  // `noise` is read until then
  return model;
}

std::vector<int32_t> MakeUpTokens(int64_t count, int64_t vocabulary) {
  std::vector<int32_t> ids;
  uint64_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    ids.push_back(static_cast<int32_t>(NextOf(&state) % static_cast<uint64_t>(vocabulary)));
  }
  return ids;
}

}  // namespace xh
