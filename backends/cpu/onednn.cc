// Matrix products by oneDNN, version 2 or 3: the only file that sees its headers.
#include <omp.h>

#include <cstring>
#include <dnnl.hpp>
#include <string>

#include "backends/cpu/gemm.h"

namespace xh::cpu {
namespace {

using dnnl::memory;

const dnnl::engine& Engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

memory::data_type TypeOf(xh_dtype dtype) { return dtype == XH_BF16 ? memory::data_type::bf16 : memory::data_type::f32; }

// oneDNN takes its thread count from the calling thread's OpenMP setting.
class ThreadScope {
 public:
  explicit ThreadScope(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~ThreadScope() { omp_set_num_threads(before_); }
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int before_;
};

dnnl::matmul::primitive_desc Describe(const memory::desc& a, const memory::desc& b, const memory::desc& bias,
                                      const memory::desc& c, const dnnl::primitive_attr& attr) {
#if DNNL_VERSION_MAJOR >= 3
  return bias.is_zero() ? dnnl::matmul::primitive_desc(Engine(), a, b, c, attr, true)
                        : dnnl::matmul::primitive_desc(Engine(), a, b, bias, c, attr, true);
#else
  const dnnl::matmul::desc desc = bias.is_zero() ? dnnl::matmul::desc(a, b, c) : dnnl::matmul::desc(a, b, bias, c);
  return dnnl::matmul::primitive_desc(desc, attr, Engine(), true);
#endif
}

class OneDnnGemm final : public Gemm {
 public:
  OneDnnGemm(const dnnl::matmul::primitive_desc& desc, bool bias, int threads)
      : a_(desc.src_desc()),
        b_(desc.weights_desc()),
        c_(desc.dst_desc()),
        scratch_(desc.scratchpad_desc()),
        has_bias_(bias),
        threads_(threads),
        name_(std::string("onednn:") + desc.impl_info_str()),
        primitive_(desc) {
    if (bias) bias_ = desc.bias_desc();
    scratch_bytes = static_cast<int64_t>(scratch_.get_size());
    implementation = name_.c_str();
  }

  void Run(const void* a, const void* b, const float* bias, void* c, void* scratch) const override {
    const ThreadScope scope(threads_);
    const auto wrap = [](const memory::desc& desc, const void* data) {
      return memory(desc, Engine(), const_cast<void*>(data));
    };
    std::unordered_map<int, memory> args = {{DNNL_ARG_SRC, wrap(a_, a)},
                                            {DNNL_ARG_WEIGHTS, wrap(b_, b)},
                                            {DNNL_ARG_DST, wrap(c_, c)},
                                            {DNNL_ARG_SCRATCHPAD, wrap(scratch_, scratch)}};
    if (has_bias_) args.emplace(DNNL_ARG_BIAS, wrap(bias_, bias));
    dnnl::stream stream(Engine());
    primitive_.execute(stream, args);
    stream.wait();
  }

 private:
  memory::desc a_, b_, c_, scratch_, bias_;
  bool has_bias_;
  int threads_;
  std::string name_;
  dnnl::matmul primitive_;
};

}  // namespace

std::unique_ptr<Gemm> OpenOneDnnGemm(const GemmShape& shape, int threads) {
  const ThreadScope scope(threads);
  using Sizes = memory::dims;
  const memory::desc a({shape.m, shape.k}, TypeOf(shape.a),
                       shape.transpose_a ? Sizes{1, shape.lda} : Sizes{shape.lda, 1});
  const memory::desc b({shape.k, shape.n}, TypeOf(shape.b),
                       shape.transpose_b ? Sizes{1, shape.ldb} : Sizes{shape.ldb, 1});
  const memory::desc c({shape.m, shape.n}, TypeOf(shape.c), Sizes{shape.ldc, 1});
  memory::desc bias;
  if (shape.bias) bias = memory::desc({1, shape.n}, memory::data_type::f32, Sizes{shape.n, 1});
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (shape.accumulate) {
    dnnl::post_ops ops;
    ops.append_sum(1.0f);
    attr.set_post_ops(ops);
  }
  try {
    const dnnl::matmul::primitive_desc desc = Describe(a, b, bias, c, attr);
    if (!desc || std::strstr(desc.impl_info_str(), "ref") != nullptr) return nullptr;
    return std::make_unique<OneDnnGemm>(desc, shape.bias, threads);
  } catch (const dnnl::error&) {
    return nullptr;  // these strides or dtypes are beyond it: the caller has other kernels
  }
}

}  // namespace xh::cpu
