// MLSTM: checks a request and chooses between the one-token recurrence and the chunkwise form.
#include "backends/cuda/mlstm.h"
#include "backends/cuda/ops.h"

namespace xh::gpu {
namespace {

std::unique_ptr<Plan> MakePlan(const mlstm::Shape& shape, const Request& request) {
  if (request.pass == XH_INFER && shape.tokens == 1 && !shape.documents && shape.features <= mlstm::kMostStepFeatures) {
    std::unique_ptr<Plan> step = mlstm::MakeMlstmStep(shape, request);
#ifdef XH_SM90
    step = mlstm::MakeMlstmStepSm90(shape, request, std::move(step));
#endif
    return step;
  }
#ifdef XH_SM90
  if (std::unique_ptr<Plan> plan = mlstm::MakeMlstmSm90(shape, request)) return plan;
#endif
  return request.pass == XH_BACKWARD ? mlstm::MakeMlstmPlainBackward(shape, request)
                                     : mlstm::MakeMlstmPlainForward(shape, request);
}

}  // namespace

Refusal OpenMlstm(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_mlstm_params params = {};
  Refusal refusal = backend::CheckMlstm(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  const mlstm::Shape shape = {dims['B'],
                              dims['H'],
                              dims['K'],
                              dims['T'],
                              dims['n'],
                              dims['d'],
                              params.scale,
                              params.normalizer == XH_NORMALIZER_MAX,
                              Present(request.args[mlstm::kStart]),
                              dims.activation};
  *out = MakePlan(shape, request);
  return {};
}

}  // namespace xh::gpu
