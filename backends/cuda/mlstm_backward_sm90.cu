// MLSTM on Hopper, BACKWARD: the plan. What stands around the kernel, then the kernel, a block a pair of sequence and
// head or, where there are few pairs, a segment of one.
#include "backends/cuda/mlstm_backward_around_sm90.cuh"
#include "backends/cuda/mlstm_backward_sm90.cuh"

namespace xh::gpu::mlstm {
namespace {

template <int kN, int kD>
class BackwardPlan final : public Plan {
 public:
  BackwardPlan(const Shape& shape, const Request& request, std::unique_ptr<Plan> plain)
      : shape_(shape),
        plain_(std::move(plain)),
        gates_(shape, &workspace_bytes),
        saved_(shape, &saved_bytes),
        inverses_(Reserve(&workspace_bytes, shape.pairs() * shape.tokens, 4)),
        deltas_(Reserve(&workspace_bytes, shape.pairs() * shape.tokens, 4)),
        shares_(Reserve(&workspace_bytes, shape.pairs() * shape.tokens, 4)),
        di_(Reserve(&workspace_bytes, shape.pairs() * shape.tokens, 4)) {
    int blocks = 0;
    cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, BackwardKernel<kN, kD, true, false>, Layout::kThreads,
                                                  Layout::kBytes);
    segments_ = SegmentsFor(shape.pairs(), shape.chunks(),
                            static_cast<int64_t>(std::max(blocks, 1)) * request.facts->multiprocessors);
    local_ = SegmentStates::Reserve(&workspace_bytes, shape, segments_);
    grouped_ = shape.group() > 1 && Present(request.args[kDv]);
    parts_ = Reserve(&workspace_bytes, grouped_ ? shape.pairs() * shape.tokens : 0, kD * 2);
    workspace_bytes = std::max(workspace_bytes, plain_->workspace_bytes);
    saved_bytes = std::max(saved_bytes, plain_->saved_bytes);
    has_state_ = Present(request.args[kS]);
    adds_ = {Accumulates(request.args[kDq]), Accumulates(request.args[kDk]), Accumulates(request.args[kDv]),
             Accumulates(request.args[kDi]), Accumulates(request.args[kDf])};
    implementation = "wgmma";
  }

  static Refusal Allow(const Facts& facts) {
    Refusal refusal;
    const auto allow = [&](auto kernel) {
      if (refusal.code == 0) refusal = AllowShared(kernel, BackwardLayout<kN, kD>::kBytes, facts);
    };
    allow(BackwardKernel<kN, kD, true, false>);
    allow(BackwardKernel<kN, kD, true, true>);
    allow(BackwardKernel<kN, kD, false, false>);
    return refusal;
  }

  void Run(const Launch& launch) const override {
    // Without a gradient of h there is nothing but zeros; else as FORWARD decided, which saw the same q, k, v and h.
    if (!Present(launch.args[kDh]) || !Aligned(launch, {kQ, kK, kV, kH})) return plain_->Run(launch);
    if (!Aligned(launch, {kDh, kDq, kDk, kDv})) {
      throw RunError{XH_UNSUPPORTED, "MLSTM BACKWARD: a gradient is not aligned to 16 bytes, though q, k, v and h are"};
    }
    const GateArrays<float> gates = gates_.Arrays(shape_, launch.workspace);
    LaunchGates(launch, shape_, gates);
    char* states = nullptr;
    float *vectors = nullptr, *denominators = nullptr;
    saved_.Point(launch.saved, &states, &vectors, &denominators);
    RunDeltas(launch, gates, denominators);
    RunPasses(launch, gates, states, vectors);
    RunGateGradients(launch, gates);
    if (grouped_) RunGroupSum(launch);
  }

 private:
  using Layout = BackwardLayout<kN, kD>;
  struct Adds {
    bool q, k, v, i, f;
  };

  float* At(const Launch& launch, int64_t offset) const { return Part<float>(launch.workspace, offset); }

  void RunDeltas(const Launch& launch, const GateArrays<float>& gates, const float* denominators) const {
    const int64_t rows = shape_.pairs() * shape_.tokens;
    const DeltaArguments a = {ViewOf<const bf16>(launch.args[kH]),
                              ViewOf<const bf16>(launch.args[kDh]),
                              denominators,
                              gates,
                              shape_.floored,
                              At(launch, inverses_),
                              At(launch, deltas_),
                              rows};
    DeltaKernel<kD><<<Blocks(rows, kRowThreads / (kD / 8)), kRowThreads, 0, launch.stream>>>(a);
  }

  // Where dv of each query head goes: the gradient itself, or parts that are summed over a group later.
  xh_tensor ValueGradient(const Launch& launch) const {
    if (!grouped_) return launch.args[kDv];
    xh_tensor parts = launch.args[kDh];  // [B,H,T,d]
    parts.data = launch.workspace + parts_;
    const int64_t strides[4] = {shape_.heads * shape_.tokens * kD, shape_.tokens * kD, kD, 1};
    std::copy(strides, strides + 4, parts.stride);
    return parts;
  }

  void RunPasses(const Launch& launch, const GateArrays<float>& gates, const char* states, const float* vectors) const {
    BackwardArguments a = {};
    a.gates = gates;
    a.segments = segments_;
    a.pairs = shape_.pairs();
    a.heads = shape_.heads;
    a.group = static_cast<int>(shape_.group());
    a.scale = shape_.scale;
    a.local = {At(launch, local_), kN, kD, segments_.count};
    a.states = states;
    a.vectors = vectors;
    a.inverses = At(launch, inverses_);
    a.deltas = At(launch, deltas_);
    a.di = At(launch, di_);
    a.shares = At(launch, shares_);
    a.wants_q = Present(launch.args[kDq]);
    a.wants_k = Present(launch.args[kDk]);
    a.wants_v = Present(launch.args[kDv]);
    a.adds_q = adds_.q;
    a.adds_k = adds_.k;
    a.adds_v = adds_.v && !grouped_;
    const auto map = [&](const xh_tensor& tensor) { return MakeTensorMap(tensor, kChunk); };
    const CUtensorMap q = map(launch.args[kQ]), k = map(launch.args[kK]), v = map(launch.args[kV]),
                      g = map(launch.args[kDh]);
    const CUtensorMap dq = a.wants_q ? map(launch.args[kDq]) : q, dk = a.wants_k ? map(launch.args[kDk]) : k,
                      dv = a.wants_v ? map(ValueGradient(launch)) : v;
    const auto run = [&](auto kernel, int64_t segments) {
      const unsigned blocks = static_cast<unsigned>(a.pairs * segments);
      kernel<<<blocks, Layout::kThreads, Layout::kBytes, launch.stream>>>(q, k, v, g, dq, dk, dv, a);
    };
    if (segments_.count > 1) {
      run(BackwardKernel<kN, kD, false, false>, segments_.count - 1);
      LaunchSegmentScan(launch.stream, a.local, a.pairs, shape_.heads, {}, {}, true);
    }
    if (shape_.documents) {
      run(BackwardKernel<kN, kD, true, true>, segments_.count);
    } else {
      run(BackwardKernel<kN, kD, true, false>, segments_.count);
    }
  }

  void RunGateGradients(const Launch& launch, const GateArrays<float>& gates) const {
    if (!Present(launch.args[kDi]) && !Present(launch.args[kDf])) return;
    const GateGradients a = {ViewOf<const float>(launch.args[kF]),
                             ViewOf<float>(launch.args[kDi]),
                             ViewOf<float>(launch.args[kDf]),
                             adds_.i,
                             adds_.f,
                             At(launch, di_),
                             At(launch, shares_),
                             gates.first,
                             shape_.heads,
                             shape_.tokens,
                             has_state_};
    GateKernel<<<static_cast<unsigned>(shape_.pairs()), kScanThreads, 0, launch.stream>>>(a);
  }

  void RunGroupSum(const Launch& launch) const {
    const int64_t items = shape_.batch * shape_.kv_heads * shape_.tokens * kD / 8;
    GroupSum<<<Blocks(items, kRowThreads), kRowThreads, 0, launch.stream>>>(
        Part<bf16>(launch.workspace, parts_), ViewOf<bf16>(launch.args[kDv]), shape_.kv_heads, shape_.group(),
        shape_.tokens, kD, items, adds_.v);
  }

  Shape shape_;
  std::unique_ptr<Plan> plain_;
  GateLayout<float> gates_;
  Saved saved_;
  int64_t inverses_, deltas_, shares_, di_;
  Segments segments_;
  int64_t local_, parts_;
  bool grouped_, has_state_;
  Adds adds_;
};

template <int kN, int kD>
std::unique_ptr<Plan> Make(const Shape& shape, const Request& request, std::unique_ptr<Plan> plain) {
  using Kernels = BackwardPlan<kN, kD>;
  if (Kernels::Allow(*request.facts).code != 0) return plain;
  return std::make_unique<Kernels>(shape, request, std::move(plain));
}

}  // namespace

// Where it gives `plain` FORWARD must have run plain too: what is asked here of the request is known to FORWARD.
std::unique_ptr<Plan> MakeBackwardSm90(const Shape& shape, const Request& request, std::unique_ptr<Plan> plain) {
  if (shape.columns == 128) return Make<128, 128>(shape, request, std::move(plain));
  if (shape.features == 128) return Make<128, 64>(shape, request, std::move(plain));
  return Make<64, 64>(shape, request, std::move(plain));
}

}  // namespace xh::gpu::mlstm
