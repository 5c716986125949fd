// MATMUL: y = x w^T + bias and its gradients dx = dy w, dw = dy^T x, dbias = column sums of dy.
#include <algorithm>

#include "backends/cuda/cublaslt.h"
#include "backends/cuda/matmul.h"
#include "backends/cuda/matmul_split.h"
#include "backends/cuda/ops.h"

namespace xh::gpu {
namespace {

enum { kX, kW, kBias, kY, kDy, kDx, kDw, kDbias };
constexpr int kThreads = 256;

int64_t Leading(const xh_tensor& matrix) { return matrix.shape[0] > 1 ? matrix.stride[0] : matrix.shape[1]; }

// ---- small kernels ----

template <class From, class To>
__global__ void ConvertKernel(const From* from, int64_t count, To* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) to[i] = FromFloat<To>(ToFloat(from[i]));
}

template <class T>
__global__ void ClearKernel(T* data, int64_t rows, int64_t width, int64_t stride) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < rows * width) data[i / width * stride + i % width] = FromFloat<T>(0.0f);
}

// A thread sums a column over the rows of its part.
template <class T>
__global__ void PartSumsKernel(const T* dy, int64_t leading, int64_t rows, int64_t columns, int64_t part_rows,
                               float* sums) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= columns) return;
  const int64_t first = blockIdx.y * part_rows, last = first + part_rows < rows ? first + part_rows : rows;
  float sum = 0.0f;
#pragma unroll 8
  for (int64_t row = first; row < last; ++row) sum += ToFloat(dy[row * leading + column]);
  sums[blockIdx.y * columns + column] = sum;
}
__global__ void AddPartsKernel(const float* sums, int parts, int64_t columns, float* out, bool accumulate) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= columns) return;
  float sum = 0.0f;
#pragma unroll 8
  for (int part = 0; part < parts; ++part) sum += sums[part * columns + column];
  PutGradient(out + column, sum, accumulate);
}

// ---- one product ----

// The kernel for a product, chosen when it is opened; the plain one where pointers are aligned worse than strides.
class Gemm {
 public:
  // Grows the workspace of the plan.
  Refusal Open(const GemmShape& shape, const Facts& facts, int64_t* workspace) {
    shape_ = shape;
    implementation_ = "plain";
    if (shape.rows == 0 || shape.columns == 0) return {};
    if (ThinGemm::Fits(shape) && shape.rows <= ThinGemm::kRows) {
      thin_ = true;
      implementation_ = "thin";
      return thin_gemm_.Open(shape, {}, facts);
    }
    if (LibraryTakes()) return OpenLibrary(workspace);
    if (!SplitGemm::Fits(shape)) return {};
    implementation_ = "split for cublasLt";
    return split_.Open(shape, workspace);
  }

  void Run(const Launch& launch, const void* a, const void* b, const void* bias, void* d) const {
    if (shape_.rows == 0 || shape_.columns == 0) return;
    if (thin_ && thin_gemm_.Takes(b)) return thin_gemm_.Run(launch, {a, b, bias, d});
    if (library_ != nullptr) {
      const void* const aligned = AlignedBias(launch, bias);
      if (library_->Takes(a, b, aligned, d)) {
        if (aligned != bias) ConvertBias(launch, bias);
        return library_->Run(launch.stream, a, b, aligned, d, d, Part<void>(launch.workspace, scratch_));
      }
    }
    if (split_.Takes(launch, a, b, bias, d)) return split_.Run(launch, a, b, bias, d);
    RunPlainGemm(launch.stream, shape_, a, b, bias, d);
  }
  const char* implementation() const { return implementation_; }

 private:
  bool LibraryTakes() const {
    const GemmShape& s = shape_;
    const bool dtypes = s.a == s.b && (s.a == XH_BF16 || s.d == XH_F32);
    return dtypes && s.a_leading >= (s.a_transposed ? s.rows : s.depth) &&
           s.b_leading >= (s.b_transposed ? s.depth : s.columns) && s.d_leading >= s.columns;
  }

  Refusal OpenLibrary(int64_t* workspace) {
    const GemmShape& s = shape_;
    Refusal refusal = OpenLtProduct({s.rows, s.columns, s.depth, s.a_leading, s.b_leading, s.d_leading, s.a_transposed,
                                     s.b_transposed, s.accumulate, s.bias != 0, s.a, s.d},
                                    &library_);
    if (refusal.code != 0 || library_ == nullptr) return refusal;
    implementation_ = "cublasLt";
    scratch_ = Reserve(workspace, library_->workspace_bytes, 1);
    bias_ = Reserve(workspace, s.bias != 0 ? s.columns : 0, 4);
    return {};
  }

  // The library wants the bias in the dtype of the result, at a multiple of 16 bytes.
  const void* AlignedBias(const Launch& launch, const void* bias) const {
    const bool fits = shape_.bias == 0 || (shape_.bias == shape_.d && reinterpret_cast<uintptr_t>(bias) % 16 == 0);
    return fits ? bias : launch.workspace + bias_;
  }
  void ConvertBias(const Launch& launch, const void* bias) const {
    WithType(shape_.bias, [&](auto from) {
      WithType(shape_.d, [&](auto to) {
        using From = decltype(from);
        using To = decltype(to);
        ConvertKernel<<<Blocks(shape_.columns, kThreads), kThreads, 0, launch.stream>>>(
            static_cast<const From*>(bias), shape_.columns, Part<To>(launch.workspace, bias_));
      });
    });
  }

  GemmShape shape_ = {};
  const char* implementation_ = "nothing";
  bool thin_ = false;
  ThinGemm thin_gemm_;
  std::unique_ptr<LtProduct> library_;
  SplitGemm split_;
  int64_t scratch_ = 0, bias_ = 0;
};

// Column sums of dy[M,N]: rows in parts, the parts in order.
class ColumnSums {
 public:
  void Open(const xh_tensor& dy, bool accumulate, const Facts& facts, int64_t* workspace) {
    constexpr int64_t kLeastRows = 32, kMostParts = 1024;
    rows_ = dy.shape[0];
    columns_ = dy.shape[1];
    leading_ = Leading(dy);
    dtype_ = dy.dtype;
    accumulate_ = accumulate;
    const int64_t wanted = 8 * int64_t{facts.multiprocessors} / Blocks(columns_, kThreads) + 1;
    const int64_t parts = std::clamp<int64_t>(std::min(wanted, rows_ / kLeastRows), 1, kMostParts);
    part_rows_ = (rows_ + parts - 1) / parts;
    parts_ = static_cast<int>((rows_ + part_rows_ - 1) / part_rows_);
    sums_ = Reserve(workspace, parts_ * columns_, 4);
  }

  void Run(const Launch& launch, const void* dy, float* out) const {
    float* const sums = Part<float>(launch.workspace, sums_);
    const unsigned blocks = Blocks(columns_, kThreads);
    WithType(dtype_, [&](auto t) {
      PartSumsKernel<<<dim3(blocks, static_cast<unsigned>(parts_)), kThreads, 0, launch.stream>>>(
          static_cast<const decltype(t)*>(dy), leading_, rows_, columns_, part_rows_, sums);
    });
    AddPartsKernel<<<blocks, kThreads, 0, launch.stream>>>(sums, parts_, columns_, out, accumulate_);
  }

 private:
  int64_t rows_ = 0, columns_ = 0, leading_ = 0, part_rows_ = 0;
  xh_dtype dtype_ = 0;
  bool accumulate_ = false;
  int parts_ = 0;
  int64_t sums_ = 0;
};

// ---- plans ----

class ForwardPlan final : public Plan {
 public:
  Refusal Open(const Request& request, const Dims& dims) {
    const xh_tensor &x = request.args[kX], &w = request.args[kW], &bias = request.args[kBias], &y = request.args[kY];
    const GemmShape shape = {dims['M'], dims['N'], dims['K'], Leading(x), Leading(w), Leading(y), false,
                             true,      false,     x.dtype,   w.dtype,    bias.dtype, y.dtype};
    Refusal refusal = gemm_.Open(shape, *request.facts, &workspace_bytes);
    implementation = gemm_.implementation();
    return refusal;
  }
  void Run(const Launch& launch) const override {
    const xh_tensor* const args = launch.args;
    gemm_.Run(launch, args[kX].data, args[kW].data, args[kBias].data, args[kY].data);
  }

 private:
  Gemm gemm_;
};

class BackwardPlan final : public Plan {
 public:
  Refusal Open(const Request& request, const Dims& dims) {
    args_ = request.args;
    const int64_t m = dims['M'], n = dims['N'], k = dims['K'];
    const xh_tensor &x = args_[kX], &w = args_[kW], &dy = args_[kDy];
    const xh_tensor &dx = args_[kDx], &dw = args_[kDw], &dbias = args_[kDbias];
    some_ = Present(dy) && m > 0 && n > 0;
    implementation = "nothing";
    if (!some_) return {};
    if (Present(dx)) {
      const GemmShape shape = {
          m, k, n, Leading(dy), Leading(w), Leading(dx), false, false, Accumulates(dx), dy.dtype, w.dtype, 0, dx.dtype};
      Refusal refusal = dx_.Open(shape, *request.facts, &workspace_bytes);
      if (refusal.code != 0) return refusal;
      implementation = dx_.implementation();
    }
    if (Present(dw)) {
      const GemmShape shape = {n,        k,       m, Leading(dy), Leading(x), Leading(dw), true, false, Accumulates(dw),
                               dy.dtype, x.dtype, 0, XH_F32};
      Refusal refusal = dw_.Open(shape, *request.facts, &workspace_bytes);
      if (refusal.code != 0) return refusal;
      implementation = dw_.implementation();
    }
    if (Present(dbias)) sums_.Open(dy, Accumulates(dbias), *request.facts, &workspace_bytes);
    return {};
  }

  void Run(const Launch& launch) const override {
    const xh_tensor* const args = launch.args;
    if (!some_) {
      for (int i : {kDx, kDw, kDbias}) Clear(launch, i);
      return;
    }
    const void* const dy = args[kDy].data;
    if (Present(args_[kDx])) dx_.Run(launch, dy, args[kW].data, nullptr, args[kDx].data);
    if (Present(args_[kDw])) dw_.Run(launch, dy, args[kX].data, nullptr, args[kDw].data);
    if (Present(args_[kDbias])) sums_.Run(launch, dy, static_cast<float*>(args[kDbias].data));
  }

 private:
  // Without an output gradient, or without rows, every gradient is zero.
  void Clear(const Launch& launch, int index) const {
    const xh_tensor& tensor = args_[index];
    if (!Present(tensor) || Accumulates(tensor)) return;
    const bool matrix = tensor.rank == 2;
    const int64_t rows = matrix ? tensor.shape[0] : 1, width = matrix ? tensor.shape[1] : tensor.shape[0];
    if (rows == 0 || width == 0) return;
    WithType(tensor.dtype, [&](auto t) {
      ClearKernel<<<Blocks(rows * width, kThreads), kThreads, 0, launch.stream>>>(
          static_cast<decltype(t)*>(launch.args[index].data), rows, width, matrix ? tensor.stride[0] : 0);
    });
  }

  std::vector<xh_tensor> args_;
  Gemm dx_, dw_;
  ColumnSums sums_;
  bool some_ = false;
};

template <class P>
Refusal OpenAs(const Request& request, const Dims& dims, std::unique_ptr<Plan>* out) {
  auto plan = std::make_unique<P>();
  Refusal refusal = plan->Open(request, dims);
  if (refusal.code == 0) *out = std::move(plan);
  return refusal;
}

}  // namespace

Refusal OpenMatmul(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  Refusal refusal = backend::CheckMatmul(request, &dims);
  if (refusal.code != 0) return refusal;
  return request.pass == XH_BACKWARD ? OpenAs<BackwardPlan>(request, dims, out)
                                     : OpenAs<ForwardPlan>(request, dims, out);
}

}  // namespace xh::gpu
