// Every op of the GPU backends. Each function checks a request and opens a plan for it; any thread.
#ifndef XHYBRID_BACKENDS_CUDA_OPS_H_
#define XHYBRID_BACKENDS_CUDA_OPS_H_

#include "backends/cuda/plan.h"

namespace xh::gpu {

using OpenFn = Refusal (*)(const Request& request, std::unique_ptr<Plan>* out);

Refusal OpenMatmul(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenRmsNorm(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenRope(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenAdd(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenSwiglu(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenEmbed(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenCast(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenFill(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenReduce(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenTopK(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenDense(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenMlstm(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenAttention(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenFeatureMap(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenHeadGate(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenMix(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenSelectHeads(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenHybridStep(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenAlignLoss(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenDistillLoss(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenAdamw(const Request& request, std::unique_ptr<Plan>* out);
Refusal OpenClip(const Request& request, std::unique_ptr<Plan>* out);

}  // namespace xh::gpu

#endif  // XHYBRID_BACKENDS_CUDA_OPS_H_
