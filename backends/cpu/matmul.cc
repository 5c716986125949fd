// MATMUL: y = x w^T + bias and its gradients dx = dy w, dw = dy^T x, dbias = column sums of dy.
#include "backends/cpu/gemm.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"

namespace xh::cpu::XH_ISA {
namespace {

enum { kX, kW, kBias, kY, kDy, kDx, kDw, kDbias };

int64_t Leading(const xh_tensor& matrix) { return matrix.shape[0] > 1 ? matrix.stride[0] : matrix.shape[1]; }

class ForwardPlan final : public Plan {
 public:
  ForwardPlan(const Request& request, const Dims& dims) : bias_(request.args[kBias]), n_(dims['N']) {
    const xh_tensor &x = request.args[kX], &w = request.args[kW], &y = request.args[kY];
    if (dims['M'] > 0 && n_ > 0) {
      const GemmShape shape = {dims['M'], n_,    dims['K'],      Leading(x), Leading(w), Leading(y), false,
                               true,      false, Present(bias_), x.dtype,    w.dtype,    y.dtype};
      gemm_ = OpenGemm(shape, request.threads);
      scratch_ = Reserve(&workspace_bytes, gemm_->scratch_bytes);
    }
    implementation = gemm_ == nullptr ? "nothing" : gemm_->implementation;
    converted_ = Reserve(&workspace_bytes, bias_.dtype == XH_BF16 ? n_ * 4 : 0);
  }

  void Run(const xh_tensor* args, void* workspace, void*) const override {
    if (gemm_ == nullptr) return;
    const float* bias = nullptr;
    if (Present(bias_)) {
      WithType(bias_.dtype, [&](auto t) {
        bias = AsFloat(static_cast<const decltype(t)*>(args[kBias].data), n_, At<float>(workspace, converted_));
      });
    }
    gemm_->Run(args[kX].data, args[kW].data, bias, args[kY].data, At<void>(workspace, scratch_));
  }

 private:
  xh_tensor bias_;
  int64_t n_;
  std::unique_ptr<Gemm> gemm_;
  int64_t scratch_ = 0, converted_ = 0;
};

// Column sums of dy[M,N]: every part sums its rows, parts are added in order.
class ColumnSums {
 public:
  ColumnSums() = default;
  ColumnSums(const xh_tensor& dy, bool add, int threads, int64_t* workspace)
      : rows_(dy.shape[0]), n_(dy.shape[1]), ld_(Leading(dy)), dtype_(dy.dtype), add_(add) {
    parts_ = Parts(threads, rows_, rows_ * n_);
    sums_ = Reserve(workspace, parts_ * n_ * 4);
  }

  void Run(const void* dy, float* out, void* workspace) const {
    float* const sums = At<float>(workspace, sums_);
    RunParts(parts_, rows_, [&](int64_t first, int64_t last, int part) {
      float* const sum = sums + part * n_;
      std::fill(sum, sum + n_, 0.0f);
      WithType(dtype_, [&](auto t) {
        for (int64_t m = first; m < last; ++m) {
          const auto* const row = static_cast<const decltype(t)*>(dy) + m * ld_;
          ForLanes(n_, [&](int64_t n, auto lanes) { Put(sum + n, Get(sum + n, lanes) + Get(row + n, lanes), lanes); });
        }
      });
    });
    ForLanes(n_, [&](int64_t n, auto lanes) {
      Vec sum = {};
      for (int part = 0; part < parts_; ++part) sum = sum + Get(sums + part * n_ + n, lanes);
      PutGradient(out + n, sum, add_, lanes);
    });
  }

 private:
  int64_t rows_ = 0, n_ = 0, ld_ = 0;
  xh_dtype dtype_ = 0;
  bool add_ = false;
  int parts_ = 1;
  int64_t sums_ = 0;
};

class BackwardPlan final : public Plan {
 public:
  BackwardPlan(const Request& request, const Dims& dims) : args_(request.args) {
    const int64_t m = dims['M'], n = dims['N'], k = dims['K'];
    const xh_tensor &x = args_[kX], &w = args_[kW], &dy = args_[kDy];
    const xh_tensor &dx = args_[kDx], &dw = args_[kDw], &dbias = args_[kDbias];
    const bool some = Present(dy) && m > 0 && n > 0;
    int64_t scratch = 0;  // the products run one after the other in the same scratch
    if (some && Present(dx)) {
      dx_ = OpenGemm({m, k, n, Leading(dy), Leading(w), Leading(dx), false, false, Accumulates(dx), false, dy.dtype,
                      w.dtype, dx.dtype},
                     request.threads);
      scratch = dx_->scratch_bytes;
      implementation = dx_->implementation;
    }
    if (some && Present(dw)) {
      dw_ = OpenGemm({n, k, m, Leading(dy), Leading(x), Leading(dw), true, false, Accumulates(dw), false, dy.dtype,
                      x.dtype, XH_F32},
                     request.threads);
      scratch = std::max(scratch, dw_->scratch_bytes);
      implementation = dw_->implementation;
    }
    scratch_ = Reserve(&workspace_bytes, scratch);
    if (some && Present(dbias)) sums_ = ColumnSums(dy, Accumulates(dbias), request.threads, &workspace_bytes);
    some_ = some;
  }

  void Run(const xh_tensor* args, void* workspace, void*) const override {
    if (!some_) {
      for (int i : {kDx, kDw, kDbias}) Clear(i, args[i].data);
      return;
    }
    void* const scratch = At<void>(workspace, scratch_);
    if (dx_ != nullptr) dx_->Run(args[kDy].data, args[kW].data, nullptr, args[kDx].data, scratch);
    if (dw_ != nullptr) dw_->Run(args[kDy].data, args[kX].data, nullptr, args[kDw].data, scratch);
    if (Present(args_[kDbias])) sums_.Run(args[kDy].data, static_cast<float*>(args[kDbias].data), workspace);
  }

 private:
  // Without an output gradient, or without rows, every gradient is zero.
  void Clear(int index, void* data) const {
    const xh_tensor& tensor = args_[index];
    if (!Present(tensor) || Accumulates(tensor)) return;
    const bool matrix = tensor.rank == 2;
    const int64_t rows = matrix ? tensor.shape[0] : 1, width = matrix ? tensor.shape[1] : tensor.shape[0];
    WithType(tensor.dtype, [&](auto t) {
      for (int64_t i = 0; i < rows; ++i) {
        auto* const row = static_cast<decltype(t)*>(data) + (matrix ? i * tensor.stride[0] : 0);
        ForLanes(width, [&](int64_t j, auto lanes) { Put(row + j, Vec{}, lanes); });
      }
    });
  }

  std::vector<xh_tensor> args_;
  std::unique_ptr<Gemm> dx_, dw_;
  ColumnSums sums_;
  int64_t scratch_ = 0;
  bool some_ = false;
};

}  // namespace

Refusal OpenMatmul(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  const Refusal refusal = backend::CheckMatmul(request, &dims);
  if (refusal.code != 0) return refusal;
  if (request.pass == XH_BACKWARD) {
    *out = std::make_unique<BackwardPlan>(request, dims);
  } else {
    *out = std::make_unique<ForwardPlan>(request, dims);
  }
  return {};
}

}  // namespace xh::cpu::XH_ISA
