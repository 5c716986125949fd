// EMBED: rows of a table by id. BACKWARD adds up the gradients of equal ids without atomics, in the order of the
// tokens: the first token of each id finds the others.
#include "backends/cuda/ops.h"
#include "backends/cuda/rows.cuh"

namespace xh::gpu {
namespace {

// Bad ids are looked for before anything is written.
__global__ void __launch_bounds__(kRowThreads)
    CheckIds(const int32_t* ids, int64_t tokens, int64_t vocabulary, FaultSink fault) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (token >= tokens) return;
  const int id = ids[token];
  if (id < 0 || id >= vocabulary) Report(fault, FaultKind::kId, token, -1, id, 0, vocabulary - 1);
}

template <class W, class T, int N>
struct EmbedBody {
  View<const W> table;
  const int32_t* ids;
  View<T> y;
  FaultSink fault;
  __device__ void operator()(int64_t row, int column) const {
    const int64_t id = ids[row];
    if (*fault.lock != 0) return;
    float value[N];
    LoadPack<W, N>(table.At(id) + column, value);
    StorePack<T, N>(y.At(row) + column, value);
  }
};

struct ZeroBody {
  View<float> table;
  __device__ void operator()(int64_t row, int column) const { table.At(row)[column] = 0.0f; }
};

// A block a token. The sum of its id's gradients when no earlier token has the id.
template <class T>
__global__ void __launch_bounds__(kRowThreads) EmbedGradient(const int32_t* ids, View<const T> dy, View<float> table,
                                                             int64_t tokens, int64_t columns, FaultSink fault) {
  __shared__ int matches[kRowThreads];
  const int64_t token = blockIdx.x;
  const int id = ids[token], thread = static_cast<int>(threadIdx.x);
  if (*fault.lock != 0) return;
  bool seen = false;
  for (int64_t i = thread; i < token; i += kRowThreads) seen = seen || ids[i] == id;
  if (__syncthreads_or(seen)) return;
  float* const to = table.At(id);
  for (int64_t base = token; base < tokens; base += kRowThreads) {
    const bool match = base + thread < tokens && ids[base + thread] == id;
    const int count = __syncthreads_count(match);  // also: `matches` of the stretch before has been read
    if (count == 0) continue;
    matches[thread] = match;
    __syncthreads();
    for (int64_t column = thread; column < columns; column += kRowThreads) {
      float sum = to[column];
      for (int i = 0, left = count; left > 0; ++i) {
        if (matches[i] == 0) continue;
        sum += ToFloat(dy.At(base + i)[column]);
        --left;
      }
      to[column] = sum;
    }
    __syncthreads();
  }
}

class EmbedPlan final : public Plan {
 public:
  EmbedPlan(const Request& request, const Dims& dims)
      : args_(request.args), backward_(request.pass == XH_BACKWARD), m_(dims['M']), d_(dims['D']), v_(dims['V']) {
    if (v_ < 0 && backward_ && Present(request.args[kDtable])) v_ = request.args[kDtable].shape[0];
    implementation = "packs";
  }

  void Run(const Launch& launch) const override {
    if (m_ > 0 && v_ >= 0) {
      CheckIds<<<Blocks(m_, kRowThreads), kRowThreads, 0, launch.stream>>>(
          static_cast<const int32_t*>(launch.args[kIds].data), m_, v_, launch.fault);
    }
    if (!backward_) {
      WithType(args_[kTable].dtype,
               [&](auto w) { WithType(args_[kY].dtype, [&](auto t) { Forward<decltype(w), decltype(t)>(launch); }); });
    } else if (Present(args_[kDtable])) {
      WithType(Present(args_[kDy]) ? args_[kDy].dtype : XH_F32, [&](auto t) { Backward<decltype(t)>(launch); });
    }
  }

 private:
  enum { kTable, kIds, kY, kDy, kDtable };

  template <class W, class T>
  void Forward(const Launch& launch) const {
    const xh_tensor* const args = launch.args;
    const auto run = [&](auto n) {
      constexpr int N = decltype(n)::value;
      ForPacks<N>(launch, m_, d_,
                  EmbedBody<W, T, N>{ViewOf<const W>(args[kTable]), static_cast<const int32_t*>(args[kIds].data),
                                     ViewOf<T>(args[kY]), launch.fault});
    };
    const bool packs = MovesInPacks(args[kTable]) && MovesInPacks(args[kY]) && d_ % 8 == 0;
    if (packs && sizeof(W) == sizeof(T)) {
      run(std::integral_constant<int, kPack<T>>{});
    } else {
      run(std::integral_constant<int, 1>{});
    }
  }

  template <class T>
  void Backward(const Launch& launch) const {
    const View<float> table = ViewOf<float>(launch.args[kDtable]);
    if (!Accumulates(args_[kDtable])) ForPacks<1>(launch, v_, d_, ZeroBody{table});
    if (m_ == 0 || !Present(args_[kDy])) return;
    EmbedGradient<T><<<static_cast<unsigned>(m_), kRowThreads, 0, launch.stream>>>(
        static_cast<const int32_t*>(launch.args[kIds].data), ViewOf<const T>(launch.args[kDy]), table, m_, d_,
        launch.fault);
  }

  std::vector<xh_tensor> args_;
  bool backward_;
  int64_t m_, d_, v_;
};

}  // namespace

Refusal OpenEmbed(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  const Refusal refusal = backend::CheckEmbed(request, &dims);
  if (refusal.code != 0) return refusal;
  *out = std::make_unique<EmbedPlan>(request, dims);
  return {};
}

}  // namespace xh::gpu
