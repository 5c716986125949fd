#include <algorithm>

#include "backends/cuda/matmul_split.h"

namespace xh::gpu {
namespace {

constexpr int kThreads = 256;

// high + low = from to 16 bits. High is cut off, not rounded, so that it is finite where `from` is.
__global__ void __launch_bounds__(kThreads)
    SplitKernel(const float* from, int64_t rows, int64_t width, int64_t leading, bf16* high, bf16* low) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rows * width) return;
  const float value = from[i / width * leading + i % width];
  const bf16 most = __float2bfloat16_rz(value);
  high[i] = most;
  low[i] = FromFloat<bf16>(isfinite(value) ? value - ToFloat(most) : 0.0f);
}

bool CanLead(int64_t leading, int64_t width) { return leading >= width; }

}  // namespace

bool SplitGemm::Fits(const GemmShape& s) {
  const bool bias = s.bias == 0 || s.bias == s.d;
  return s.a != s.b && bias && s.d_leading >= s.columns && CanLead(s.a_leading, s.a_transposed ? s.rows : s.depth) &&
         CanLead(s.b_leading, s.b_transposed ? s.depth : s.columns);
}

Refusal SplitGemm::Open(const GemmShape& shape, int64_t* workspace) {
  shape_ = shape;
  splits_a_ = shape.a == XH_F32;
  if (splits_a_) {
    stored_rows_ = shape.a_transposed ? shape.depth : shape.rows;
    stored_width_ = shape.a_transposed ? shape.rows : shape.depth;
    stored_leading_ = shape.a_leading;
  } else {
    stored_rows_ = shape.b_transposed ? shape.columns : shape.depth;
    stored_width_ = shape.b_transposed ? shape.depth : shape.columns;
    stored_leading_ = shape.b_leading;
  }
  LtShape product = {shape.rows,
                     shape.columns,
                     shape.depth,
                     splits_a_ ? stored_width_ : shape.a_leading,
                     splits_a_ ? shape.b_leading : stored_width_,
                     shape.d_leading,
                     shape.a_transposed,
                     shape.b_transposed,
                     shape.accumulate,
                     shape.bias != 0,
                     XH_BF16,
                     shape.d};
  Refusal refusal = OpenLtProduct(product, &first_);
  if (refusal.code != 0 || first_ == nullptr) return refusal;
  product.accumulate = true;
  product.bias = false;
  refusal = OpenLtProduct(product, &second_);
  if (refusal.code != 0 || second_ == nullptr) return refusal;
  high_ = Reserve(workspace, stored_rows_ * stored_width_, 2);
  low_ = Reserve(workspace, stored_rows_ * stored_width_, 2);
  scratch_ = Reserve(workspace, std::max(first_->workspace_bytes, second_->workspace_bytes), 1);
  return {};
}

SplitGemm::Sides SplitGemm::With(const Launch& launch, const void* a, const void* b, int64_t part) const {
  const void* const split = launch.workspace + part;
  return splits_a_ ? Sides{split, b} : Sides{a, split};
}

bool SplitGemm::Takes(const Launch& launch, const void* a, const void* b, const void* bias, const void* d) const {
  if (first_ == nullptr || second_ == nullptr) return false;
  const Sides high = With(launch, a, b, high_), low = With(launch, a, b, low_);
  return first_->Takes(high.a, high.b, bias, d) && second_->Takes(low.a, low.b, nullptr, d);
}

void SplitGemm::Run(const Launch& launch, const void* a, const void* b, const void* bias, void* d) const {
  SplitKernel<<<Blocks(stored_rows_ * stored_width_, kThreads), kThreads, 0, launch.stream>>>(
      static_cast<const float*>(splits_a_ ? a : b), stored_rows_, stored_width_, stored_leading_,
      Part<bf16>(launch.workspace, high_), Part<bf16>(launch.workspace, low_));
  const Sides high = With(launch, a, b, high_), low = With(launch, a, b, low_);
  void* const scratch = Part<void>(launch.workspace, scratch_);
  first_->Run(launch.stream, high.a, high.b, bias, d, d, scratch);
  second_->Run(launch.stream, low.a, low.b, nullptr, d, d, scratch);
}

}  // namespace xh::gpu
