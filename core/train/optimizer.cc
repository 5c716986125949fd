#include "core/train/optimizer.h"

#include <cmath>

#include "core/checkpoint/dtype.h"
#include "core/ops.h"

namespace xh {
namespace {

// Parameters begin at multiples of this many floats, and the norm is taken over as many columns: one reduction then
// covers every gradient, the zeros between them included.
constexpr int64_t kColumns = 256;

}  // namespace

Optimizer::Optimizer(std::shared_ptr<Device> device) : device_(device), zero_(device), norm_(device), update_(device) {}

StatusOr<std::unique_ptr<Optimizer>> Optimizer::Create(std::shared_ptr<Device> device,
                                                       const std::map<std::string, Weight>& trained,
                                                       const AdamWOptions& options) {
  std::unique_ptr<Optimizer> optimizer(new Optimizer(std::move(device)));
  optimizer->options_ = options;
  for (const auto& [name, weight] : trained) {
    const int64_t size = ElementCount(weight.shape);
    optimizer->slots_.push_back({name, weight, size, optimizer->padded_});
    optimizer->parameter_count_ += size;
    optimizer->padded_ += (size + kColumns - 1) / kColumns * kColumns;
    optimizer->has_master_ = optimizer->has_master_ || weight.dtype != XH_F32;
  }
  XH_RETURN_IF_ERROR(optimizer->Allocate());
  XH_RETURN_IF_ERROR(optimizer->BuildGraphs(options));
  XH_RETURN_IF_ERROR(optimizer->Start());
  return optimizer;
}

Status Optimizer::Allocate() {
  const int64_t bytes = padded_ * static_cast<int64_t>(sizeof(float));
  XH_ASSIGN_OR_RETURN(gradient_, device_->Allocate(bytes));
  XH_ASSIGN_OR_RETURN(first_, device_->Allocate(bytes));
  XH_ASSIGN_OR_RETURN(second_, device_->Allocate(bytes));
  if (has_master_) {
    XH_ASSIGN_OR_RETURN(master_, device_->Allocate(bytes));
  }
  return absl::OkStatus();
}

int64_t Optimizer::bytes() const { return gradient_.bytes() + first_.bytes() + second_.bytes() + master_.bytes(); }

Status Optimizer::BuildGraphs(const AdamWOptions& options) {
  Fill(zero_, zero_.External(gradient_.data(), XH_F32, {padded_}), 0);
  XH_RETURN_IF_ERROR(zero_.Compile());

  Value rows = norm_.External(gradient_.data(), XH_F32, {padded_ / kColumns, kColumns});
  squares_ = Reduce(norm_, rows, XH_REDUCE_SUM_SQUARES);
  norm_.Keep(squares_);
  XH_RETURN_IF_ERROR(norm_.Compile());

  schedule_ = update_.Input(XH_F32, {4});
  for (const Slot& slot : slots_) {
    const bool decays = slot.weight.shape.size() >= 2;
    const xh_adamw_params params{XH_SIZED(xh_adamw_params), static_cast<float>(options.beta1),
                                 static_cast<float>(options.beta2), static_cast<float>(options.eps),
                                 decays ? static_cast<float>(options.weight_decay) : 0.0f};
    auto piece = [&](const Buffer& buffer) { return update_.External(At(buffer, slot), XH_F32, {slot.size}); };
    Value master = slot.weight.dtype == XH_F32 ? kAbsent : piece(master_);
    AdamW(update_, piece(gradient_), schedule_,
          update_.External(slot.weight.buffer->data(), slot.weight.dtype, {slot.size}), piece(first_), piece(second_),
          master, params);
  }
  return update_.Compile();
}

// Moments of zero, masters equal to the parameters.
Status Optimizer::Start() {
  Graph start(device_);
  Fill(start, start.External(first_.data(), XH_F32, {padded_}), 0);
  Fill(start, start.External(second_.data(), XH_F32, {padded_}), 0);
  if (has_master_) Fill(start, start.External(master_.data(), XH_F32, {padded_}), 0);
  for (const Slot& slot : slots_) {
    if (slot.weight.dtype == XH_F32) continue;
    start.Emit(XH_OP_CAST, XH_INFER, nullptr, 0,
               {start.External(slot.weight.buffer->data(), slot.weight.dtype, {slot.size}),
                start.External(At(master_, slot), XH_F32, {slot.size})});
  }
  XH_RETURN_IF_ERROR(start.Compile());
  XH_RETURN_IF_ERROR(start.Run());
  return ZeroGradients();
}

float* Optimizer::GradientOf(const std::string& parameter) const {
  for (const Slot& slot : slots_) {
    if (slot.name == parameter) return At(gradient_, slot);
  }
  return nullptr;
}

Status Optimizer::ZeroGradients() { return zero_.Run(); }

StatusOr<double> Optimizer::GradientNorm() {
  XH_RETURN_IF_ERROR(norm_.Run());
  float squares[kColumns];
  XH_RETURN_IF_ERROR(norm_.Read(squares_, squares, sizeof(squares)));
  double sum = 0;
  for (float square : squares) sum += square;
  return std::sqrt(sum);
}

Status Optimizer::Update(double learning_rate, double gradient_scale) {
  const double count = static_cast<double>(updates_ + 1);
  const float schedule[4] = {static_cast<float>(learning_rate), static_cast<float>(1 - std::pow(options_.beta1, count)),
                             static_cast<float>(1 - std::pow(options_.beta2, count)),
                             static_cast<float>(gradient_scale)};
  XH_RETURN_IF_ERROR(update_.Write(schedule_, schedule, sizeof(schedule)));
  XH_RETURN_IF_ERROR(update_.Run());
  ++updates_;
  return absl::OkStatus();
}

std::vector<OptimizerTensor> Optimizer::Tensors() const {
  std::vector<OptimizerTensor> tensors;
  for (const Slot& slot : slots_) {
    tensors.push_back({"optimizer/first/" + slot.name, slot.weight.shape, At(first_, slot)});
    tensors.push_back({"optimizer/second/" + slot.name, slot.weight.shape, At(second_, slot)});
    if (slot.weight.dtype == XH_F32) continue;
    tensors.push_back({"optimizer/master/" + slot.name, slot.weight.shape, At(master_, slot)});
  }
  return tensors;
}

}  // namespace xh
