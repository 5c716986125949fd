// DENSE: the product of a few rows with what stands around it, in one kernel: matmul_thin.cuh. A product of many rows
// has the sum behind it by the library. What lies where neither can load it has a plain kernel.
#include "backends/cuda/cublaslt.h"
#include "backends/cuda/matmul.h"
#include "backends/cuda/ops.h"

namespace xh::gpu {
namespace {

enum { kX, kNorm, kW, kBias, kResidual, kY };
constexpr int kThreads = 256;

int64_t Leading(const xh_tensor& matrix) { return matrix.shape[0] > 1 ? matrix.stride[0] : matrix.shape[1]; }

// A matrix or a row of either dtype, as f32; a kernel parameter.
struct Floats {
  void* data;
  int64_t leading;
  xh_dtype dtype;

  __device__ float operator()(int64_t row, int64_t column) const {
    const int64_t at = row * leading + column;
    return dtype == XH_BF16 ? ToFloat(static_cast<const bf16*>(data)[at]) : static_cast<const float*>(data)[at];
  }
  __device__ void Put(int64_t row, int64_t column, float value) const {
    const int64_t at = row * leading + column;
    if (dtype == XH_BF16) {
      static_cast<bf16*>(data)[at] = FromFloat<bf16>(value);
    } else {
      static_cast<float*>(data)[at] = value;
    }
  }
};
Floats FloatsOf(const xh_tensor& tensor) {
  if (!Present(tensor)) return {nullptr, 0, 0};
  return {tensor.data, tensor.rank == 2 ? Leading(tensor) : 0, tensor.dtype};
}

struct PlainArgs {
  Floats x, norm, w, bias, residual, y;
  int64_t f, depth;
  bool gated;
  float eps;
};

// A warp makes one element of y.
__global__ void PlainKernel(const PlainArgs args) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp, m = blockIdx.y;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (column >= args.f) return;
  float squares = 0.0f, sum = 0.0f, up = 0.0f;
  for (int64_t k = lane; k < args.depth; k += kWarp) {
    const float x = args.x(m, k), normed = args.norm.data != nullptr ? x * args.norm(0, k) : x;
    squares += x * x;
    sum += normed * args.w(column, k);
    if (args.gated) up += normed * args.w(column + args.f, k);
  }
  const float scale =
      args.norm.data != nullptr ? rsqrtf(WarpSum(squares) / static_cast<float>(args.depth) + args.eps) : 1.0f;
  sum = WarpSum(sum) * scale;
  up = WarpSum(up) * scale;
  if (lane != 0) return;
  if (args.bias.data != nullptr) sum += args.bias(0, column);
  if (args.bias.data != nullptr && args.gated) up += args.bias(0, column + args.f);
  if (args.gated) sum = sum / (1.0f + __expf(-sum)) * up;
  if (args.residual.data != nullptr) sum += args.residual(m, column);
  args.y.Put(m, column, sum);
}

PlainArgs PlainArgsOf(const xh_tensor* args, const GemmShape& shape, const ThinExtras& extras) {
  return {FloatsOf(args[kX]),
          FloatsOf(args[kNorm]),
          FloatsOf(args[kW]),
          FloatsOf(args[kBias]),
          FloatsOf(args[kResidual]),
          FloatsOf(args[kY]),
          extras.gated ? shape.columns / 2 : shape.columns,
          shape.depth,
          extras.gated,
          extras.eps};
}
void RunPlain(const Launch& launch, const GemmShape& shape, const ThinExtras& extras) {
  const PlainArgs plain = PlainArgsOf(launch.args, shape, extras);
  const dim3 blocks(Blocks(plain.f, kThreads / kWarp), static_cast<unsigned>(shape.rows));
  PlainKernel<<<blocks, kThreads, 0, launch.stream>>>(plain);
}

GemmShape ShapeOf(const std::vector<xh_tensor>& args, const Dims& dims) {
  const xh_tensor &x = args[kX], &w = args[kW], &y = args[kY];
  return {dims['M'], dims['N'], dims['D'], Leading(x), Leading(w),        Leading(y), false,
          true,      false,     x.dtype,   w.dtype,    args[kBias].dtype, y.dtype};
}

// A few rows: everything in one kernel.
class DensePlan final : public Plan {
 public:
  Refusal Open(const Request& request, const Dims& dims, const xh_dense_params& params) {
    const std::vector<xh_tensor>& args = request.args;
    shape_ = ShapeOf(args, dims);
    extras_.norm = args[kNorm].dtype;
    extras_.residual = args[kResidual].dtype;
    if (Present(args[kResidual])) extras_.residual_leading = Leading(args[kResidual]);
    extras_.gated = params.activation == XH_DENSE_SWIGLU;
    extras_.constants = true;
    extras_.eps = params.eps;
    implementation = "thin";
    if (shape_.rows == 0 || shape_.columns == 0) return {};
    if (shape_.rows > ThinGemm::kRows || !ThinGemm::Fits(shape_)) {
      return Unsupported("DENSE: " + std::to_string(shape_.rows) + " x " + std::to_string(shape_.columns) + " x " +
                         std::to_string(shape_.depth) + ", its kernel takes up to " + std::to_string(ThinGemm::kRows) +
                         " rows, 4 columns at least and whole 16 bytes of w");
    }
    return thin_.Open(shape_, extras_, *request.facts);
  }

  void Run(const Launch& launch) const override {
    const xh_tensor* const args = launch.args;
    if (shape_.rows == 0 || shape_.columns == 0) return;
    if (!thin_.Takes(args[kW].data)) return RunPlain(launch, shape_, extras_);
    thin_.Run(launch,
              {args[kX].data, args[kW].data, args[kBias].data, args[kY].data, args[kNorm].data, args[kResidual].data});
  }

 private:
  GemmShape shape_ = {};
  ThinExtras extras_;
  ThinGemm thin_;
};

// Many rows and a residual: the library adds what it makes to it.
class SumPlan final : public Plan {
 public:
  static bool Fits(const std::vector<xh_tensor>& args, const Dims& dims, const xh_dense_params& params) {
    const xh_tensor &x = args[kX], &w = args[kW], &y = args[kY], &residual = args[kResidual];
    constexpr int64_t kMostRows = 65535;  // of the plain kernel's grid
    return dims['M'] > ThinGemm::kRows && dims['M'] <= kMostRows && dims['N'] > 0 && dims['D'] > 0 &&
           !Present(args[kNorm]) && !Present(args[kBias]) && Present(residual) &&
           params.activation == XH_DENSE_LINEAR && x.dtype == XH_BF16 && w.dtype == XH_BF16 &&
           residual.dtype == y.dtype && Leading(residual) == Leading(y) && Leading(x) >= dims['D'] &&
           Leading(w) >= dims['D'] && Leading(y) >= dims['N'];
  }
  Refusal Open(const Request& request, const Dims& dims) {
    shape_ = ShapeOf(request.args, dims);
    extras_.residual = request.args[kResidual].dtype;
    implementation = "cublasLt";
    const LtShape product = {
        shape_.rows, shape_.columns, shape_.depth, shape_.a_leading, shape_.b_leading, shape_.d_leading, false,
        true,        true,           false,        shape_.a,         shape_.d};
    Refusal refusal = OpenLtProduct(product, &product_);
    if (refusal.code == 0 && product_ == nullptr) refusal = Unsupported("DENSE: the library has no product for it");
    if (refusal.code == 0) scratch_ = Reserve(&workspace_bytes, product_->workspace_bytes, 1);
    return refusal;
  }
  void Run(const Launch& launch) const override {
    const xh_tensor* const args = launch.args;
    const void *const x = args[kX].data, *const w = args[kW].data, *const residual = args[kResidual].data;
    void* const y = args[kY].data;
    const bool takes = product_->Takes(x, w, nullptr, residual) && product_->Takes(x, w, nullptr, y);
    if (!takes) return RunPlain(launch, shape_, extras_);
    product_->Run(launch.stream, x, w, nullptr, residual, y, Part<void>(launch.workspace, scratch_));
  }

 private:
  GemmShape shape_ = {};
  ThinExtras extras_;
  std::unique_ptr<LtProduct> product_;
  int64_t scratch_ = 0;
};

}  // namespace

Refusal OpenDense(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_dense_params params = {};
  Refusal refusal = backend::CheckDense(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  if (SumPlan::Fits(request.args, dims, params)) {
    auto plan = std::make_unique<SumPlan>();
    refusal = plan->Open(request, dims);
    if (refusal.code == 0) *out = std::move(plan);
    return refusal;
  }
  auto plan = std::make_unique<DensePlan>();
  refusal = plan->Open(request, dims, params);
  if (refusal.code == 0) *out = std::move(plan);
  return refusal;
}

}  // namespace xh::gpu
