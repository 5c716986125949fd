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

Optimizer::Optimizer(std::shared_ptr<Device> device) : device_(device), zero_(device), update_(device) {}

StatusOr<std::unique_ptr<Optimizer>> Optimizer::Create(std::shared_ptr<Device> device,
                                                       const std::map<std::string, Weight>& trained,
                                                       const AdamWOptions& options, double clip) {
  std::unique_ptr<Optimizer> optimizer(new Optimizer(std::move(device)));
  optimizer->options_ = options;
  optimizer->clip_ = clip;
  for (const auto& [name, weight] : trained) {
    const int64_t size = ElementCount(weight.shape);
    optimizer->slots_.push_back({name, weight, size, optimizer->padded_});
    optimizer->parameter_count_ += size;
    optimizer->padded_ += (size + kColumns - 1) / kColumns * kColumns;
    optimizer->has_master_ = optimizer->has_master_ || weight.dtype != XH_F32;
  }
  XH_RETURN_IF_ERROR(optimizer->Allocate());
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

int64_t Optimizer::bytes() const {
  return gradient_.bytes() + first_.bytes() + second_.bytes() + master_.bytes() + zero_.arena_bytes() +
         update_.arena_bytes();
}

Value Optimizer::ReportRows(int64_t first, int64_t count) {
  return update_.View(update_.Rows(report_, first, count), {count});
}

// The norm of all gradients, and from it what they are multiplied with: the last number of the schedule.
void Optimizer::DeclareClip(float* sums, int64_t sum_count) {
  const xh_reduce_params squares{XH_SIZED(xh_reduce_params), XH_REDUCE_SUM_SQUARES};
  const Value rows = update_.External(gradient_.data(), XH_F32, {padded_ / kColumns, kColumns});
  update_.Emit(XH_OP_REDUCE, XH_INFER, &squares, sizeof(squares), {rows, ReportRows(0, kColumns)});
  const Value watched = sum_count > 0 ? update_.External(sums, XH_F32, {sum_count}) : kAbsent;
  Clip(update_, ReportRows(0, kColumns), watched, ReportRows(kColumns + 3, 1), clip_);
}

Status Optimizer::Compile(float* sums, int64_t sum_count) {
  report_ = update_.Input(XH_F32, {kColumns + 4, 1});
  schedule_value_ = ReportRows(kColumns, 4);
  DeclareClip(sums, sum_count);
  for (const Slot& slot : slots_) {
    const bool decays = slot.weight.shape.size() >= 2;
    const xh_adamw_params params{XH_SIZED(xh_adamw_params), static_cast<float>(options_.beta1),
                                 static_cast<float>(options_.beta2), static_cast<float>(options_.eps),
                                 decays ? static_cast<float>(options_.weight_decay) : 0.0f};
    auto piece = [&](const Buffer& buffer) { return update_.External(At(buffer, slot), XH_F32, {slot.size}); };
    Value master = slot.weight.dtype == XH_F32 ? kAbsent : piece(master_);
    AdamW(update_, piece(gradient_), schedule_value_,
          update_.External(slot.weight.buffer->data(), slot.weight.dtype, {slot.size}), piece(first_), piece(second_),
          master, params);
  }
  return update_.Compile();
}

// Moments of zero, masters equal to the parameters.
Status Optimizer::Start() {
  Fill(zero_, zero_.External(gradient_.data(), XH_F32, {padded_}), 0);
  XH_RETURN_IF_ERROR(zero_.Compile());
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

Status Optimizer::Update(double learning_rate) {
  const double count = static_cast<double>(updates_ + 1);
  schedule_[0] = static_cast<float>(learning_rate);
  schedule_[1] = static_cast<float>(1 - std::pow(options_.beta1, count));
  schedule_[2] = static_cast<float>(1 - std::pow(options_.beta2, count));
  XH_RETURN_IF_ERROR(update_.Write(schedule_value_, schedule_, sizeof(schedule_)));
  return update_.Run();
}

StatusOr<Optimizer::Outcome> Optimizer::Finish() {
  float report[kColumns + 4];
  XH_RETURN_IF_ERROR(update_.Read(report_, report, sizeof(report)));
  Outcome outcome;
  double squares = 0;
  for (int64_t i = 0; i < kColumns; ++i) squares += report[i];
  outcome.gradient_norm = std::sqrt(squares);
  outcome.skipped = !std::isfinite(report[kColumns + 3]);
  if (!outcome.skipped) ++updates_;
  return outcome;
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
