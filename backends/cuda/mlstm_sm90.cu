// MLSTM on Hopper: when it applies, and how long sequences are cut into segments.
#include "backends/cuda/mlstm_plans_sm90.cuh"

namespace xh::gpu::mlstm {
namespace {

constexpr int kScanThreads = 256;

// A thread an element of the state of one pair.
__global__ void __launch_bounds__(kScanThreads)
    SegmentScan(SegmentStates states, int64_t heads, View<const float> matrix, View<const float> vector,
                bool backwards) {
  const int64_t pair = blockIdx.y, n = states.features, d = states.columns;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kScanThreads + threadIdx.x;
  if (at >= n * d + n) return;
  float current = 0.0f;
  if (matrix.present()) {
    current = at < n * d ? matrix.At(pair / heads, pair % heads, at / d)[at % d]
                         : vector.At(pair / heads, pair % heads)[at - n * d];
  }
  for (int64_t i = 0; i < states.segments; ++i) {
    float* const state = states.At(pair, backwards ? states.segments - 1 - i : i);
    const bool last = i + 1 == states.segments;  // nobody asks what it adds
    const float added = last ? 0.0f : state[at], decay = last ? 0.0f : state[n * d + n];
    __syncthreads();
    state[at] = current;
    current = (decay == 0.0f ? 0.0f : decay * current) + added;
  }
}

// The copy engine maps q, k, v and h, and the sizes are among the instances.
bool Applies(const Shape& s, const Request& request) {
  const bool sizes = (s.features == 64 && s.columns == 64) || (s.features == 128 && s.columns == 64) ||
                     (s.features == 128 && s.columns == 128) ||
                     // Hedgehog's default: what BACKWARD would need of it does not fit into a multiprocessor.
                     (s.features == 256 && s.columns == 128 && request.pass == XH_INFER);
  if (!request.facts->wgmma || s.dtype != XH_BF16 || !sizes || s.tokens == 0 || s.pairs() == 0) return false;
  for (const int slot : {kQ, kK, kV, kH}) {
    if (!sm90::MapsTensor(request.args[slot])) return false;
  }
  return true;
}

}  // namespace

Segments SegmentsFor(int64_t pairs, int64_t chunks, int64_t blocks_at_once) {
  constexpr int64_t kLeastChunks = 4;  // below it the pass over segments costs more than it wins
  int64_t count = 1;
  if (2 * pairs <= blocks_at_once)
    count = std::max<int64_t>(1, std::min(blocks_at_once / pairs, chunks / kLeastChunks));
  const int64_t length = (chunks + count - 1) / count;
  return {(chunks + length - 1) / length, length};
}

void LaunchSegmentScan(gpuStream_t stream, const SegmentStates& states, int64_t pairs, int64_t heads,
                       const View<const float>& matrix, const View<const float>& vector, bool backwards) {
  const dim3 grid(Blocks(states.features * states.columns + states.features, kScanThreads),
                  static_cast<unsigned>(pairs));
  SegmentScan<<<grid, kScanThreads, 0, stream>>>(states, heads, matrix, vector, backwards);
}

std::unique_ptr<Plan> MakeMlstmSm90(const Shape& shape, const Request& request) {
  if (!Applies(shape, request)) return nullptr;
  if (request.pass == XH_BACKWARD) return MakeBackwardSm90(shape, request, MakeMlstmPlainBackward(shape, request));
  return MakeForwardSm90(shape, request, MakeMlstmPlainForward(shape, request));
}

}  // namespace xh::gpu::mlstm
