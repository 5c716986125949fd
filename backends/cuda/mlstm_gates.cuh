// The gates of the mLSTM in the units of its running maximum, for all chunks of kChunk tokens: computed once into
// device memory by LaunchGates, read by the kernels through ChunkGates, which makes the weights of the chunkwise form
// of them.
//
// A is double where weights must be exact to float whatever the gates are, float where activations are bfloat16.
//
// With b_u the sum of log forget gates from the beginning of the chunk, or of the document where one begins in the
// chunk, to token u, and x_u = i_u - b_u: the stabiliser of token u is b_u + M_u with M_u = max(m, max of x_w, w <= u),
// m the running maximum before the chunk (none for documents that begin in it). The weights, none above 1:
//   exp(x_w - M_u)       of input w in output u of the same chunk and document, w <= u      Weight(u, w)
//   exp(m - M_u)         of the state before the chunk in output u                          Carry(u)
//   exp(g + x_u - m')    of input u in the state after the chunk                            Keep(u)
//   exp(g + m - m')      of the state before the chunk in the state after it                Decay()
//   exp(-b_u - M_u)      1 in the units of output u: the floor of XH_NORMALIZER_MAX         Floor(u)
// where g = b of the chunk's last token and m' the running maximum after the chunk. States between chunks are in units
// of exp(m): the true state before chunk c is S exp(before[c]).
#ifndef XHYBRID_BACKENDS_CUDA_MLSTM_GATES_CUH_
#define XHYBRID_BACKENDS_CUDA_MLSTM_GATES_CUH_

#include "backends/cuda/mlstm.h"

namespace xh::gpu::mlstm {

// Stands for -inf where differences are taken: exp(-inf - kNone) is 0, where -inf - -inf would be NaN.
inline constexpr float kNone = -1e30f;

// Device memory of the gates. pair = batch row * heads + head; T = tokens.
template <class A>
struct GateArrays {
  A* x;            // [pairs, T] x_u = i_u - b_u
  A* most;         // [pairs, T] the largest x_w of the chunk and document with w <= u; without m
  A* cumulative;   // [pairs, T] b_u
  A* before;       // [pairs, chunks + 1] m before each chunk, then after the last; each is what a float can hold.
                   // -inf before the first chunk where there is no state, at least kNone later
  int32_t* first;  // [batch, T] first token of each token's document, 0 <= first <= t even where `start` is not what
                   // it should be; NULL without documents
  int64_t tokens, chunks, heads;
};

// Where the arrays lie in workspace or saved memory.
template <class A>
struct GateLayout {
  int64_t x, most, cumulative, before, first;

  GateLayout(const Shape& s, int64_t* bytes)
      : x(Reserve(bytes, s.pairs() * s.tokens, sizeof(A))),
        most(Reserve(bytes, s.pairs() * s.tokens, sizeof(A))),
        cumulative(Reserve(bytes, s.pairs() * s.tokens, sizeof(A))),
        before(Reserve(bytes, s.pairs() * (s.chunks() + 1), sizeof(A))),
        first(Reserve(bytes, s.documents ? s.batch * s.tokens : 0, sizeof(int32_t))) {}

  GateArrays<A> Arrays(const Shape& s, char* memory) const {
    return {Part<A>(memory, x),
            Part<A>(memory, most),
            Part<A>(memory, cumulative),
            Part<A>(memory, before),
            s.documents ? Part<int32_t>(memory, first) : nullptr,
            s.tokens,
            s.chunks(),
            s.heads};
  }
};

// Fills the arrays from i, f, m and `start` of the launch's arguments, and reports starts that are no documents: two
// kernels on the launch's stream, none for an empty batch. Any stride, any number of tokens, 0 too.
template <class A>
void LaunchGates(const Launch& launch, const Shape& shape, const GateArrays<A>& arrays);

// The gates of one chunk of one pair, seen by a thread. Tokens u, w count from the chunk's first token and must be
// below `tokens`.
template <class A>
struct ChunkGates {
  const A *x, *most, *cumulative;  // of the chunk's first token
  const int32_t* first;            // likewise, or NULL
  A before, after, total;          // m, m', g
  int64_t at;                      // the chunk's first token in its row
  int tokens;
  int last_document;  // token of the chunk where its last document begins; 0 also where that began before the chunk
  bool carries;       // whether the chunk's last token is of a document that began before the chunk

  __device__ ChunkGates(const GateArrays<A>& gates, int64_t pair, int64_t chunk) {
    at = chunk * kChunk;
    const int64_t offset = pair * gates.tokens + at;
    tokens = static_cast<int>(gates.tokens - at < kChunk ? gates.tokens - at : kChunk);
    x = gates.x + offset;
    most = gates.most + offset;
    cumulative = gates.cumulative + offset;
    first = gates.first == nullptr ? nullptr : gates.first + pair / gates.heads * gates.tokens + at;
    before = gates.before[pair * (gates.chunks + 1) + chunk];
    after = gates.before[pair * (gates.chunks + 1) + chunk + 1];
    total = cumulative[tokens - 1];
    last_document = First(tokens - 1);
    carries = Carries(tokens - 1);
  }
  // The first token of the chunk that output u sees.
  __device__ int First(int u) const { return first == nullptr || first[u] < at ? 0 : static_cast<int>(first[u] - at); }
  // Whether output u sees the state before the chunk.
  __device__ bool Carries(int u) const { return first == nullptr || first[u] < at; }
  // Whether nothing may pass from token u - 1 to u. Never without documents.
  __device__ bool Begins(int u) const { return first != nullptr && first[u] == at + u; }
  // M_u.
  __device__ A Most(int u) const {
    const A inside = most[u];
    A all = Carries(u) && !(inside >= before) && inside == inside ? before : inside;
    return all < static_cast<A>(kNone) ? static_cast<A>(kNone) : all;
  }
  __device__ static float Exp(A x) { return expf(static_cast<float>(x)); }

  __device__ float Weight(A most_u, int w) const { return Exp(x[w] - most_u); }
  __device__ float Carry(int u, A most_u) const { return Carries(u) ? Exp(before - most_u) : 0.0f; }
  __device__ float Floor(int u, A most_u) const { return Exp(-cumulative[u] - most_u); }
  __device__ float Keep(int u) const { return u < last_document ? 0.0f : Exp(total + x[u] - after); }
  __device__ float Decay() const { return carries ? Exp(total + before - after) : 0.0f; }
};

}  // namespace xh::gpu::mlstm

#endif  // XHYBRID_BACKENDS_CUDA_MLSTM_GATES_CUH_
