// MLSTM: checks a request and chooses between the one-token recurrence and the chunkwise form.
#include "backends/cpu/mlstm.h"

#include <limits>

#include "backends/cpu/ops.h"
#include "backends/cpu/tile_copy.h"

namespace xh::cpu::XH_ISA {
namespace {

constexpr int64_t kDefaultChunk = 64;

}  // namespace

Refusal OpenMlstm(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_mlstm_params params = {};
  const Refusal refusal = backend::CheckMlstm(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  const int64_t chunk = std::min(params.chunk == 0 ? kDefaultChunk : params.chunk, mlstm::kLargestChunk);
  const mlstm::Shape shape = {dims['B'],
                              dims['H'],
                              dims['K'],
                              dims['T'],
                              dims['n'],
                              dims['d'],
                              std::max<int64_t>(1, std::min(chunk, dims['T'])),
                              params.scale,
                              params.normalizer == XH_NORMALIZER_MAX,
                              request.threads};
  if (request.pass == XH_BACKWARD) {
    *out = mlstm::MakeBackward(shape, request);
  } else if (request.pass == XH_INFER && shape.tokens == 1) {
    *out = mlstm::MakeStep(shape, request);
  } else {
    *out = mlstm::MakeForward(shape, request);
  }
  return {};
}

namespace mlstm {

void ReadState(const Shape& s, const xh_tensor* args, int first, int64_t pair, float* matrix, float* vector,
               double* m) {
  const int64_t b = pair / s.heads, head = pair % s.heads;
  if (!Present(args[first])) {
    std::memset(matrix, 0, static_cast<size_t>(s.state_floats()) * 4);
    std::memset(vector, 0, static_cast<size_t>(PaddedColumns(s.features)) * 4);
    *m = -std::numeric_limits<double>::infinity();
    return;
  }
  const xh_tensor &z = args[first + 1], &max = args[first + 2];
  LoadTile(HeadRows(args[first], b, head), s.features, s.columns, 1.0f, nullptr, matrix, s.stride());
  LoadRow(static_cast<const float*>(z.data) + b * z.stride[0] + head * z.stride[1], s.features, 1.0f, vector);
  *m = static_cast<const float*>(max.data)[b * max.stride[0] + head * max.stride[1]];
}

void WriteState(const Shape& s, const float* matrix, const float* vector, double m, const xh_tensor* args, int first,
                int64_t pair) {
  const int64_t b = pair / s.heads, head = pair % s.heads;
  const xh_tensor &z = args[first + 1], &max = args[first + 2];
  StoreTile(matrix, s.stride(), s.features, s.columns, 1.0f, false, HeadRows(args[first], b, head));
  StoreRow(vector, s.features, 1.0f, false, static_cast<float*>(z.data) + b * z.stride[0] + head * z.stride[1]);
  static_cast<float*>(max.data)[b * max.stride[0] + head * max.stride[1]] = static_cast<float>(m);
}

void ZeroGradients(const xh_tensor* args) {
  for (int slot = kDq; slot <= kDf; ++slot) {
    const xh_tensor& x = args[slot];
    if (!Present(x) || Accumulates(x)) continue;
    const size_t bytes = x.dtype == XH_BF16 ? 2 : 4;
    const int64_t columns = x.rank == 4 ? x.shape[3] : 1;
    for (int64_t b = 0; b < x.shape[0]; ++b) {
      for (int64_t head = 0; head < x.shape[1]; ++head) {
        const TileRows rows = HeadRows(x, b, head);
        for (int64_t t = 0; t < x.shape[2]; ++t) {
          std::memset(rows.From(t).data, 0, static_cast<size_t>(columns) * bytes);
        }
      }
    }
  }
}

}  // namespace mlstm
}  // namespace xh::cpu::XH_ISA
