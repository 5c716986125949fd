// FEATURE_MAP (SPEC.md 1.5): phi = softmax(u a_h) over features, or for hedgehog [softmax(u a_h), softmax(-u a_h)].
// Blocks of kTokens tokens of one head are multiplied in f32 and normalised while they are in cache.
#include "backends/cpu/micro_tile.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"

namespace xh::cpu::XH_ISA {
namespace {

enum { kU, kA, kPhi, kDphi, kDu, kDa };
constexpr int64_t kTokens = 60;  // a multiple of kTileRows of every instruction set

struct Sizes {
  int64_t b, heads, inputs, t, d, n;   // inputs: heads of u
  int64_t d_padded, n_padded, blocks;  // blocks: of kTokens in a sequence
  bool hedgehog;

  Sizes(const Dims& dims, bool is_hedgehog)
      : b(dims['B']),
        heads(dims['H']),
        inputs(dims['U']),
        t(dims['T']),
        d(dims['d']),
        n(dims['n']),
        d_padded(TileColumnsFor(d)),
        n_padded(TileColumnsFor(n)),
        blocks((t + kTokens - 1) / kTokens),
        hedgehog(is_hedgehog) {}
};

int64_t Offset(const xh_tensor& x, int64_t b, int64_t h, int64_t t) {
  return b * x.stride[0] + h * x.stride[1] + t * x.stride[2];
}

// Every a_h as f32 [d][n_padded], zero past n; transposed: [n][d_padded].
template <bool kTransposed>
void CopyMaps(const Sizes& s, const xh_tensor& a, const void* data, int threads, float* out) {
  const int64_t rows = kTransposed ? s.n : s.d, width = kTransposed ? s.d_padded : s.n_padded;
  RunParts(Parts(threads, s.heads, s.heads * rows * width), s.heads, [&](int64_t first, int64_t last, int) {
    WithType(a.dtype, [&](auto t) {
      for (int64_t h = first; h < last; ++h) {
        float* const map = out + h * rows * width;
        std::fill(map, map + rows * width, 0.0f);
        for (int64_t i = 0; i < s.d; ++i) {
          const auto* const from = static_cast<const decltype(t)*>(data) + h * a.stride[0] + i * a.stride[1];
          if constexpr (kTransposed) {
            for (int64_t j = 0; j < s.n; ++j) map[j * width + i] = ToFloat(from[j]);
          } else {
            ForLanes(s.n, [&](int64_t j, auto lanes) { Put(map + i * width + j, Get(from + j, lanes), lanes); });
          }
        }
      }
    });
  });
}

// Tokens of u as f32 rows, `*ld` apart.
inline const float* Tokens(const float* u, int64_t stride, int64_t, int64_t, float*, int64_t* ld) {
  *ld = stride;
  return u;
}
inline const float* Tokens(const BF16* u, int64_t stride, int64_t rows, int64_t d, float* copy, int64_t* ld) {
  for (int64_t i = 0; i < rows; ++i) AsFloat(u + i * stride, d, copy + i * d);
  *ld = d;
  return copy;
}

// out = softmax(sign * scores) of n elements; buffer [n] f32.
template <class T>
void Softmax(const float* scores, int64_t n, float sign, float* buffer, T* out) {
  ForLanes(n, [&](int64_t i, auto lanes) { Put(buffer + i, Get(scores + i, lanes) * sign, lanes); });
  const float most = MaxOf(buffer, n);
  Vec sum = {};
  ForLanes(n, [&](int64_t i, auto lanes) {
    const Vec e = Keep(Exp(Get(buffer + i, lanes) - most), lanes);
    Put(buffer + i, e, lanes);
    sum = sum + e;
  });
  const float scale = 1.0f / Sum(sum);
  ForLanes(n, [&](int64_t i, auto lanes) { Put(out + i, Get(buffer + i, lanes) * scale, lanes); });
}

// dscores (+)= sign * phi (dphi - <phi, dphi>) of n elements.
template <class T>
void SoftmaxBackward(const T* phi, const T* dphi, int64_t n, float sign, bool add, float* dscores) {
  Vec dot = {};
  ForLanes(n, [&](int64_t i, auto lanes) { dot = Fma(Get(phi + i, lanes), Get(dphi + i, lanes), dot); });
  const float mean = Sum(dot);
  ForLanes(n, [&](int64_t i, auto lanes) {
    PutGradient(dscores + i, Get(phi + i, lanes) * (Get(dphi + i, lanes) - mean) * sign, add, lanes);
  });
}

template <class T>
class FeatureForward final : public Plan {
 public:
  FeatureForward(const Request& request, const Sizes& sizes)
      : args_(request.args), s_(sizes), threads_(request.threads), units_(s_.b * s_.heads * s_.blocks) {
    parts_ = Parts(threads_, units_, s_.b * s_.heads * s_.t * s_.n * 8);
    maps_ = Reserve(&workspace_bytes, s_.heads * s_.d * s_.n_padded * 4);
    scratch_floats_ = kTokens * s_.n_padded + s_.n_padded + kTokens * s_.d_padded;
    scratch_ = Reserve(&workspace_bytes, parts_ * scratch_floats_ * 4);
    implementation = "fused";
  }

  void Run(const xh_tensor* args, void* workspace, void*) const override {
    float* const maps = At<float>(workspace, maps_);
    CopyMaps<false>(s_, args_[kA], args[kA].data, threads_, maps);
    RunParts(parts_, units_, [&](int64_t first, int64_t last, int part) {
      float* const scores = At<float>(workspace, scratch_) + part * scratch_floats_;
      float* const buffer = scores + kTokens * s_.n_padded;
      float* const copy = buffer + s_.n_padded;
      for (int64_t unit = first; unit < last; ++unit) {
        const int64_t t = unit % s_.blocks * kTokens, h = unit / s_.blocks % s_.heads, b = unit / s_.blocks / s_.heads;
        const int64_t rows = std::min(kTokens, s_.t - t), input = h / (s_.heads / s_.inputs);
        int64_t ld = 0;
        const float* const u = Tokens(static_cast<const T*>(args[kU].data) + Offset(args_[kU], b, input, t),
                                      args_[kU].stride[2], rows, s_.d, copy, &ld);
        MultiplyBlock(u, ld, 1, rows, maps + h * s_.d * s_.n_padded, s_.n_padded, s_.n_padded, s_.d, scores,
                      s_.n_padded, false);
        T* const block = static_cast<T*>(args[kPhi].data) + Offset(args_[kPhi], b, h, t);
        for (int64_t i = 0; i < rows; ++i) {
          const float* const row = scores + i * s_.n_padded;
          T* const phi = block + i * args_[kPhi].stride[2];
          Softmax(row, s_.n, 1.0f, buffer, phi);
          if (s_.hedgehog) Softmax(row, s_.n, -1.0f, buffer, phi + s_.n);
        }
      }
    });
  }

 private:
  std::vector<xh_tensor> args_;
  Sizes s_;
  int threads_, parts_ = 1;
  int64_t units_, maps_ = 0, scratch_ = 0, scratch_floats_ = 0;
};

// dscores = J^T dphi; du = sum over the heads that read u of dscores a_h^T; da_h = sum over tokens of u^T dscores. A
// unit of work is one block of one head of u with every head that reads it. da is summed by part, parts are added in
// order.
template <class T>
class FeatureBackward final : public Plan {
 public:
  FeatureBackward(const Request& request, const Sizes& sizes)
      : args_(request.args),
        s_(sizes),
        threads_(request.threads),
        want_du_(Present(args_[kDu])),
        want_da_(Present(args_[kDa])),
        units_(s_.b * s_.inputs * s_.blocks) {
    parts_ = Parts(threads_, units_, s_.b * s_.heads * s_.t * s_.n * 8);
    maps_ = Reserve(&workspace_bytes, want_du_ ? s_.heads * s_.n * s_.d_padded * 4 : 0);
    sum_floats_ = want_da_ ? s_.heads * s_.d * s_.n_padded : 0;
    sums_ = Reserve(&workspace_bytes, parts_ * sum_floats_ * 4);
    scratch_floats_ = kTokens * (s_.n_padded + 2 * s_.d_padded);
    scratch_ = Reserve(&workspace_bytes, parts_ * scratch_floats_ * 4);
    implementation = "fused";
  }

  void Run(const xh_tensor* args, void* workspace, void*) const override {
    float* const maps = At<float>(workspace, maps_);
    float* const sums = At<float>(workspace, sums_);
    if (want_du_) CopyMaps<true>(s_, args_[kA], args[kA].data, threads_, maps);
    RunParts(parts_, units_, [&](int64_t first, int64_t last, int part) {
      float* const sum = sums + part * sum_floats_;
      std::fill(sum, sum + sum_floats_, 0.0f);
      float* const scratch = At<float>(workspace, scratch_) + part * scratch_floats_;
      std::fill(scratch, scratch + kTokens * s_.n_padded, 0.0f);  // the padding stays zero
      for (int64_t unit = first; unit < last; ++unit) Block(args, unit, maps, sum, scratch);
    });
    if (want_da_) AddShares(sums, static_cast<float*>(args[kDa].data));
  }

 private:
  void Block(const xh_tensor* args, int64_t unit, const float* maps, float* sum, float* dscores) const {
    float* const du = dscores + kTokens * s_.n_padded;
    float* const copy = du + kTokens * s_.d_padded;
    const int64_t t = unit % s_.blocks * kTokens, input = unit / s_.blocks % s_.inputs;
    const int64_t b = unit / s_.blocks / s_.inputs, rows = std::min(kTokens, s_.t - t);
    const int64_t group = s_.heads / s_.inputs;
    const bool some = Present(args_[kDphi]);
    int64_t ld = 0;
    const float* const u = Tokens(static_cast<const T*>(args[kU].data) + Offset(args_[kU], b, input, t),
                                  args_[kU].stride[2], rows, s_.d, copy, &ld);
    for (int64_t h = input * group; some && h < (input + 1) * group; ++h) {
      ScoreGradients(args, b, h, t, rows, dscores);
      if (want_du_) {
        MultiplyBlock(dscores, s_.n_padded, 1, rows, maps + h * s_.n * s_.d_padded, s_.d_padded, s_.d_padded, s_.n, du,
                      s_.d_padded, h > input * group);
      }
      if (want_da_) {
        MultiplyBlock(u, 1, ld, s_.d, dscores, s_.n_padded, s_.n_padded, rows, sum + h * s_.d * s_.n_padded,
                      s_.n_padded, true);
      }
    }
    if (!want_du_) return;
    const bool add = Accumulates(args_[kDu]);
    for (int64_t i = 0; i < rows; ++i) {
      T* const to = static_cast<T*>(args[kDu].data) + Offset(args_[kDu], b, input, t + i);
      ForLanes(s_.d, [&](int64_t j, auto lanes) {
        PutGradient(to + j, some ? Get(du + i * s_.d_padded + j, lanes) : Vec{}, add, lanes);
      });
    }
  }

  void ScoreGradients(const xh_tensor* args, int64_t b, int64_t h, int64_t t, int64_t rows, float* dscores) const {
    for (int64_t i = 0; i < rows; ++i) {
      const T* const phi = static_cast<const T*>(args[kPhi].data) + Offset(args_[kPhi], b, h, t + i);
      const T* const dphi = static_cast<const T*>(args[kDphi].data) + Offset(args_[kDphi], b, h, t + i);
      float* const row = dscores + i * s_.n_padded;
      SoftmaxBackward(phi, dphi, s_.n, 1.0f, false, row);
      if (s_.hedgehog) SoftmaxBackward(phi + s_.n, dphi + s_.n, s_.n, -1.0f, true, row);
    }
  }

  void AddShares(const float* sums, float* da) const {
    const xh_tensor& layout = args_[kDa];
    const int64_t rows = s_.heads * s_.d;
    RunParts(Parts(threads_, rows, rows * s_.n * parts_), rows, [&](int64_t first, int64_t last, int) {
      for (int64_t i = first; i < last; ++i) {
        float* const to = da + i / s_.d * layout.stride[0] + i % s_.d * layout.stride[1];
        ForLanes(s_.n, [&](int64_t j, auto lanes) {
          Vec total = {};
          for (int p = 0; p < parts_; ++p) total = total + Get(sums + p * sum_floats_ + i * s_.n_padded + j, lanes);
          PutGradient(to + j, total, Accumulates(layout), lanes);
        });
      }
    });
  }

  std::vector<xh_tensor> args_;
  Sizes s_;
  int threads_;
  bool want_du_, want_da_;
  int64_t units_;
  int parts_ = 1;
  int64_t maps_ = 0, sums_ = 0, sum_floats_ = 0, scratch_ = 0, scratch_floats_ = 0;
};

}  // namespace

Refusal OpenFeatureMap(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_feature_map_params params = {};
  const Refusal refusal = backend::CheckFeatureMap(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  const Sizes sizes(dims, params.kind == XH_FEATURE_HEDGEHOG);
  WithType(dims.activation, [&](auto t) {
    using T = decltype(t);
    if (request.pass == XH_BACKWARD) {
      *out = std::make_unique<FeatureBackward<T>>(request, sizes);
    } else {
      *out = std::make_unique<FeatureForward<T>>(request, sizes);
    }
  });
  return {};
}

}  // namespace xh::cpu::XH_ISA
