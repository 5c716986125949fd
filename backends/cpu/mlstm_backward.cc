// The exact chunkwise backward pass (SPEC.md 1.1). Three sweeps as in the forward pass, the recurrence running
// backward: what every chunk adds to the gradient of the state before it, the recurrence, and the gradients. The
// gradient of the state between two chunks is kept times exp(m) of the state there, so that no factor exceeds 1.
#include <limits>

#include "backends/cpu/item_queue.h"
#include "backends/cpu/mlstm_decay.h"
#include "backends/cpu/mlstm_gates.h"
#include "backends/cpu/mlstm_scan.h"
#include "backends/cpu/tile_copy.h"

namespace xh::cpu::XH_ISA::mlstm {
namespace {

constexpr int64_t kScanRows = 16;

// Rows of one pair, one entry a token: with N the divisor of h, g its gradient.
enum TokenRow {
  kInverse,      // 1 / N
  kDenominator,  // gradient of q.z: -(g.h) / N, with the sign of q.z, or 0 where the floor holds
  kQueryShare,   // q.dq: 0 where h does not depend on the length of q, g.h where the floor holds
  kTokenRows
};

// dots[t] = a_t.b_t, summed over columns in the order of TileGemm: where h_t is v_t, as after a forget gate that is
// shut, g_t.v_t - g_t.h_t is what remains of rounding h, not the difference of two roundings of a sum.
void RowDots(const float* a, const float* b, int64_t rows, int64_t columns, int64_t stride, float* dots) {
  constexpr int64_t kTogether = 8;
  for (int64_t t = 0; t < rows; t += kTogether) {
    const int64_t count = std::min(kTogether, rows - t);
    float sum[kTogether] = {};
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = 0; r < count; ++r) {
        sum[r] = Fma(a[(t + r) * stride + c], b[(t + r) * stride + c], sum[r]);
      }
    }
    std::copy_n(sum, count, dots + t);
  }
}

// Tiles of one thread; offsets in bytes from its part of the workspace.
struct Tiles {
  int64_t q, k, k_transposed, v_transposed, gradient, scores, errors, state, d_state, product, dv, bytes;

  explicit Tiles(const Shape& s) : bytes(0) {
    const int64_t by_features = TileStride(s.features) * 4, by_columns = TileStride(s.columns) * 4;
    const int64_t by_tokens = TileStride(s.chunk) * 4;
    q = Reserve(&bytes, s.chunk * by_features);
    k = Reserve(&bytes, s.chunk * by_features);
    k_transposed = Reserve(&bytes, s.features * by_tokens);
    v_transposed = Reserve(&bytes, s.columns * by_tokens);
    gradient = Reserve(&bytes, s.chunk * by_columns);
    scores = Reserve(&bytes, s.chunk * by_tokens);
    errors = Reserve(&bytes, s.chunk * by_tokens);
    state = Reserve(&bytes, s.columns * by_features);
    d_state = Reserve(&bytes, s.columns * by_features);
    product = Reserve(&bytes, s.chunk * std::max(by_features, by_columns));
    dv = Reserve(&bytes, s.chunk * by_columns);
  }
};

class Backward final : public Plan {
 public:
  Backward(const Shape& shape, const Request& request)
      : s_(shape),
        wants_dq_(Present(request.args[kDq])),
        wants_dk_(Present(request.args[kDk]) || Present(request.args[kDi]) || Present(request.args[kDf])),
        wants_dv_(Present(request.args[kDv])),
        tiles_(shape),
        saved_(shape),
        token_stride_(Gates::Stride(s_.tokens)) {
    gates_ = Reserve(&workspace_bytes, s_.pairs() * kGateRows * token_stride_ * 4);
    decay_ = Reserve(&workspace_bytes, s_.pairs() * s_.chunks() * 4);
    token_rows_ = Reserve(&workspace_bytes, s_.pairs() * kTokenRows * token_stride_ * 4);
    slots_ = Reserve(&workspace_bytes, s_.pairs() * s_.chunks() * s_.state_floats() * 4);
    slot_vectors_ = Reserve(&workspace_bytes, s_.pairs() * s_.chunks() * PaddedColumns(s_.features) * 4);
    run_ = Reserve(&workspace_bytes, s_.pairs() * s_.state_floats() * 4);
    run_vector_ = Reserve(&workspace_bytes, s_.pairs() * PaddedColumns(s_.features) * 4);
    scratch_ = workspace_bytes;
    workspace_bytes += s_.threads * tiles_.bytes;
    saved_bytes = saved_.bytes;
    implementation = "chunkwise";
  }

  void Run(const xh_tensor* args, void* workspace, void* saved) const override {
    CheckStarts("MLSTM", args[kStart]);
    if (!Present(args[kDh])) return ZeroGradients(args);
    const State at = {args,
                      workspace,
                      {At<float>(workspace, gates_), At<float>(workspace, decay_), token_stride_, s_.chunks()},
                      saved_.Slots(s_, saved),
                      {At<float>(workspace, slots_), At<float>(workspace, slot_vectors_), s_.chunks()},
                      At<float>(saved, saved_.denominator)};
    const int64_t chunks = s_.chunks(), blocks = (s_.features + kScanRows - 1) / kScanRows;
    RunItems(Threads(1), s_.pairs(), [&](int64_t pair, int) { FindGates(at, pair); });
    RunItems(Threads(chunks), s_.pairs() * chunks,
             [&](int64_t item, int part) { AddToState(at, item / chunks, item % chunks, part); });
    RunItems(Threads(1), s_.pairs() * blocks, [&](int64_t item, int) { Scan(at, item / blocks, item % blocks); });
    RunItems(Threads(chunks), s_.batch * s_.kv_heads * chunks,
             [&](int64_t item, int part) { Group(at, item / chunks, item % chunks, part); });
  }

 private:
  struct State {
    const xh_tensor* args;
    void* workspace;
    Gates gates;
    StateSlots states;     // before every chunk
    StateSlots gradients;  // of the state after every chunk
    const float* denominator;
  };

  // One head's chunk while its gradients are computed.
  struct Chunk {
    int64_t pair, index, first, tokens;
    Documents documents;  // of its row
    ChunkView gates;
    const float *inverse, *denominator, *query_share;
    bool carried;    // there is a state before it
    bool continued;  // there is a chunk after it
  };

  int Threads(int64_t chunks) const {
    return Parts(s_.threads, s_.pairs() * chunks, s_.pairs() * s_.tokens * s_.features);
  }
  float* Tile(const State& at, int part, int64_t tile) const {
    return At<float>(at.workspace, scratch_ + part * tiles_.bytes + tile);
  }
  float* TokenRows(const State& at, int64_t pair, TokenRow row) const {
    return At<float>(at.workspace, token_rows_) + (pair * kTokenRows + row) * token_stride_;
  }
  TileRows ChunkRows(const xh_tensor& x, int64_t pair, int64_t chunk) const {
    const int64_t head = pair % s_.heads;
    return HeadRows(x, pair / s_.heads, x.shape[1] == s_.heads ? head : head / s_.group()).From(chunk * s_.chunk);
  }

  void FindGates(const State& at, int64_t pair) const {
    Gates gates = at.gates;
    const xh_tensor& m = at.args[kM];
    const int64_t b = pair / s_.heads, head = pair % s_.heads;
    double max = Present(m) ? static_cast<const float*>(m.data)[b * m.stride[0] + head * m.stride[1]]
                            : -std::numeric_limits<double>::infinity();
    for (int64_t c = 0; c < s_.chunks(); ++c) {
      ChunkGates(at.args, b, head, c * s_.chunk, s_.ChunkTokens(c), pair, c, c * s_.chunk, &gates, &max);
    }
  }

  // The gradient of h per token in the units of the chunk's stabilisers, and for every chunk but the first
  // slot = sum over t of carry_t q_t^T [g_t / N_t | gradient of q.z].
  void AddToState(const State& at, int64_t pair, int64_t c, int part) const {
    const int64_t tokens = s_.ChunkTokens(c), first = c * s_.chunk;
    const int64_t q_stride = TileStride(s_.features), stride = TileStride(s_.columns);
    const ChunkView gates(at.gates, pair, first);
    float* const q = Tile(at, part, tiles_.q);
    float* const g = Tile(at, part, tiles_.gradient);
    FindTokenRows(at, pair, c, g, part);
    if (c == 0) return;
    const float* const denominator = TokenRows(at, pair, kDenominator) + first;
    for (int64_t t = 0; t < tokens; ++t) Scale(gates.carry[t], g + t * stride, PaddedColumns(s_.columns));
    LoadTile(ChunkRows(at.args[kQ], pair, c), tokens, s_.features, s_.scale, nullptr, q, q_stride);
    TileGemm(s_.features, s_.columns, tokens, Transposed(q, q_stride), g, stride, at.gradients.Matrix(s_, pair, c),
             s_.stride(), false);
    float* const dz = at.gradients.Vector(s_, pair, c);
    const int64_t padded = PaddedColumns(s_.features);
    std::memset(dz, 0, static_cast<size_t>(padded) * 4);
    for (int64_t t = 0; t < tokens; ++t) Axpy(gates.carry[t] * denominator[t], q + t * q_stride, dz, padded);
  }

  // Fills the token rows of a chunk and leaves g / N in `g`.
  void FindTokenRows(const State& at, int64_t pair, int64_t c, float* g, int part) const {
    const int64_t tokens = s_.ChunkTokens(c), first = c * s_.chunk, stride = TileStride(s_.columns);
    const ChunkView gates(at.gates, pair, first);
    const float* const saved = at.denominator + pair * s_.tokens + first;
    float* const h = Tile(at, part, tiles_.product);
    float* const inverse = TokenRows(at, pair, kInverse) + first;
    float* const denominator = TokenRows(at, pair, kDenominator) + first;
    float* const query_share = TokenRows(at, pair, kQueryShare) + first;
    for (int64_t t = 0; t < tokens; ++t) inverse[t] = 1.0f / Divisor(s_, saved[t], gates.floor[t]);
    LoadTile(ChunkRows(at.args[kDh], pair, c), tokens, s_.columns, 1.0f, inverse, g, stride);
    LoadTile(ChunkRows(at.args[kH], pair, c), tokens, s_.columns, 1.0f, nullptr, h, stride);
    RowDots(g, h, tokens, s_.columns, stride, denominator);
    for (int64_t t = 0; t < tokens; ++t) {
      const float size = saved[t] < 0.0f ? -saved[t] : saved[t];
      const bool at_floor = s_.floored && size < gates.floor[t];
      query_share[t] = at_floor ? denominator[t] / inverse[t] : 0.0f;
      denominator[t] = at_floor ? 0.0f : s_.floored && saved[t] < 0.0f ? denominator[t] : -denominator[t];
    }
  }

  void Scan(const State& at, int64_t pair, int64_t block) const {
    const int64_t row = block * kScanRows, rows = std::min(kScanRows, s_.features - row);
    const int64_t padded = PaddedColumns(s_.features);
    float* const run = At<float>(at.workspace, run_) + pair * s_.state_floats() + row * s_.stride();
    float* const run_vector = At<float>(at.workspace, run_vector_) + pair * padded;
    std::memset(run, 0, static_cast<size_t>(rows * s_.stride()) * 4);
    for (int64_t c = s_.chunks() - 1; c > 0; --c) {
      ScanStep(at.gates.Decay(pair, c), run, at.gradients.Matrix(s_, pair, c) + row * s_.stride(), rows * s_.stride());
    }
    std::memcpy(at.gradients.Matrix(s_, pair, 0) + row * s_.stride(), run, static_cast<size_t>(rows * s_.stride()) * 4);
    if (block != 0) return;
    std::memset(run_vector, 0, static_cast<size_t>(padded) * 4);
    for (int64_t c = s_.chunks() - 1; c > 0; --c) {
      ScanStep(at.gates.Decay(pair, c), run_vector, at.gradients.Vector(s_, pair, c), padded);
    }
    std::memcpy(at.gradients.Vector(s_, pair, 0), run_vector, static_cast<size_t>(padded) * 4);
  }

  // The gradients of one chunk for every head that reads one v; dv is their sum.
  void Group(const State& at, int64_t kv_pair, int64_t c, int part) const {
    const int64_t tokens = s_.ChunkTokens(c), stride = TileStride(s_.columns), k_stride = TileStride(s_.chunk);
    const int64_t b = kv_pair / s_.kv_heads, kv_head = kv_pair % s_.kv_heads;
    float* const v = Tile(at, part, tiles_.v_transposed);
    LoadTransposed(HeadRows(at.args[kV], b, kv_head).From(c * s_.chunk), tokens, s_.columns, v, k_stride);
    ZeroPadding(v, k_stride, s_.columns, tokens);
    float* const dv = Tile(at, part, tiles_.dv);
    const Documents documents(at.args[kStart], b);
    if (wants_dv_) std::memset(dv, 0, static_cast<size_t>(tokens * stride) * 4);
    for (int64_t head = kv_head * s_.group(); head < (kv_head + 1) * s_.group(); ++head) {
      const int64_t pair = b * s_.heads + head, first = c * s_.chunk;
      const Chunk chunk = {pair,
                           c,
                           first,
                           tokens,
                           documents,
                           ChunkView(at.gates, pair, first),
                           TokenRows(at, pair, kInverse) + first,
                           TokenRows(at, pair, kDenominator) + first,
                           TokenRows(at, pair, kQueryShare) + first,
                           c > 0 ? !documents.Begins(first) : Present(at.args[kS]),
                           c + 1 < s_.chunks()};
      LoadChunk(at, chunk, part);
      InsideChunk(at, chunk, part);
      if (wants_dq_) QueryGradient(at, chunk, part);
      if (wants_dv_) AddValueGradient(at, chunk, part);
      if (wants_dk_) KeyGradient(at, chunk, part);
    }
    if (!wants_dv_) return;
    StoreTile(dv, stride, tokens, s_.columns, 1.0f, Accumulates(at.args[kDv]),
              HeadRows(at.args[kDv], b, kv_head).From(c * s_.chunk));
  }

  void LoadChunk(const State& at, const Chunk& chunk, int part) const {
    const int64_t n = s_.features, stride = TileStride(n);
    float* const k_transposed = Tile(at, part, tiles_.k_transposed);
    const TileRows k = ChunkRows(at.args[kK], chunk.pair, chunk.index);
    LoadTile(ChunkRows(at.args[kQ], chunk.pair, chunk.index), chunk.tokens, n, s_.scale, nullptr,
             Tile(at, part, tiles_.q), stride);
    LoadTile(k, chunk.tokens, n, 1.0f, nullptr, Tile(at, part, tiles_.k), stride);
    LoadTransposed(k, chunk.tokens, n, k_transposed, TileStride(s_.chunk));
    ZeroPadding(k_transposed, TileStride(s_.chunk), n, chunk.tokens);
    LoadTile(ChunkRows(at.args[kDh], chunk.pair, chunk.index), chunk.tokens, s_.columns, 1.0f, chunk.inverse,
             Tile(at, part, tiles_.gradient), TileStride(s_.columns));
  }

  // scores[t, s] = weight[t, s] q_t.k_s and errors[t, s] = weight[t, s] (g_t.v_s / N_t + gradient of q.z).
  void InsideChunk(const State& at, const Chunk& chunk, int part) const {
    const int64_t stride = TileStride(s_.chunk);
    for (int64_t from = 0; from < chunk.tokens; from += kStrip) {
      const int64_t rows = std::min(kStrip, chunk.tokens - from), end = from + rows;
      float* const scores = Tile(at, part, tiles_.scores) + from * stride;
      float* const errors = Tile(at, part, tiles_.errors) + from * stride;
      TileGemm(rows, end, s_.features,
               Plain(Tile(at, part, tiles_.q) + from * TileStride(s_.features), TileStride(s_.features)),
               Tile(at, part, tiles_.k_transposed), stride, scores, stride, false);
      TileGemm(rows, end, s_.columns,
               Plain(Tile(at, part, tiles_.gradient) + from * TileStride(s_.columns), TileStride(s_.columns)),
               Tile(at, part, tiles_.v_transposed), stride, errors, stride, false);
      for (int64_t r = 0; r < rows; ++r) {
        float* const score = scores + r * stride;
        float* const error = errors + r * stride;
        const Vec shift = Set(chunk.denominator[from + r]);
        const int64_t first = chunk.documents.First(chunk.first + from + r) - chunk.first;
        ForWeights(chunk.gates, first, from + r, end, [&](int64_t s, Vec weights) {
          Store(score + s, weights * Load(score + s));
          Store(error + s, weights * (Load(error + s) + shift));
        });
      }
    }
  }

  // dq = errors k + carry (g S^T / N + gradient of q.z z)
  void QueryGradient(const State& at, const Chunk& chunk, int part) const {
    const int64_t n = s_.features, stride = TileStride(n), padded = PaddedColumns(n);
    float* const state = Tile(at, part, tiles_.state);
    float* const dq = Tile(at, part, tiles_.product);
    if (chunk.carried) {
      Transpose(at.states.Matrix(s_, chunk.pair, chunk.index), s_.stride(), n, s_.columns, state, stride);
      ZeroPadding(state, stride, s_.columns, n);
      TileGemm(chunk.tokens, n, s_.columns, Plain(Tile(at, part, tiles_.gradient), TileStride(s_.columns)), state,
               stride, dq, stride, false);
      for (int64_t t = 0; t < chunk.tokens; ++t) {
        const float carry = chunk.gates.carry[t];
        ScaleAdd(carry, dq + t * stride, carry * chunk.denominator[t], at.states.Vector(s_, chunk.pair, chunk.index),
                 padded);
      }
    }
    for (int64_t from = 0; from < chunk.tokens; from += kStrip) {
      const int64_t rows = std::min(kStrip, chunk.tokens - from);
      TileGemm(rows, n, from + rows,
               Plain(Tile(at, part, tiles_.errors) + from * TileStride(s_.chunk), TileStride(s_.chunk)),
               Tile(at, part, tiles_.k), stride, dq + from * stride, stride, chunk.carried);
    }
    const xh_tensor& out = at.args[kDq];
    StoreTile(dq, stride, chunk.tokens, n, s_.scale, Accumulates(out), ChunkRows(out, chunk.pair, chunk.index));
  }

  // dv += scores^T g / N + keep k dS
  void AddValueGradient(const State& at, const Chunk& chunk, int part) const {
    const int64_t stride = TileStride(s_.columns), score_stride = TileStride(s_.chunk),
                  padded = PaddedColumns(s_.columns);
    float* const dv = Tile(at, part, tiles_.dv);
    if (chunk.continued) {
      float* const product = Tile(at, part, tiles_.product);
      TileGemm(chunk.tokens, s_.columns, s_.features, Plain(Tile(at, part, tiles_.k), TileStride(s_.features)),
               at.gradients.Matrix(s_, chunk.pair, chunk.index), s_.stride(), product, stride, false);
      for (int64_t s = 0; s < chunk.tokens; ++s)
        Axpy(chunk.gates.keep[s], product + s * stride, dv + s * stride, padded);
    }
    for (int64_t from = 0; from < chunk.tokens; from += kStrip) {
      TileGemm(std::min(kStrip, chunk.tokens - from), s_.columns, chunk.tokens - from,
               Transposed(Tile(at, part, tiles_.scores) + from * score_stride + from, score_stride),
               Tile(at, part, tiles_.gradient) + from * stride, stride, dv + from * stride, stride, true);
    }
  }

  // dk = errors^T q + keep (v dS^T + dz), and what follows from it for the gates.
  void KeyGradient(const State& at, const Chunk& chunk, int part) const {
    const int64_t n = s_.features, stride = TileStride(n), padded = PaddedColumns(n),
                  score_stride = TileStride(s_.chunk);
    float* const dk = Tile(at, part, tiles_.product);
    if (chunk.continued) {
      float* const d_state = Tile(at, part, tiles_.d_state);
      Transpose(at.gradients.Matrix(s_, chunk.pair, chunk.index), s_.stride(), n, s_.columns, d_state, stride);
      ZeroPadding(d_state, stride, s_.columns, n);
      TileGemm(chunk.tokens, n, s_.columns, Transposed(Tile(at, part, tiles_.v_transposed), score_stride), d_state,
               stride, dk, stride, false);
      for (int64_t s = 0; s < chunk.tokens; ++s) {
        const float keep = chunk.gates.keep[s];
        ScaleAdd(keep, dk + s * stride, keep, at.gradients.Vector(s_, chunk.pair, chunk.index), padded);
      }
    }
    for (int64_t from = 0; from < chunk.tokens; from += kStrip) {
      TileGemm(std::min(kStrip, chunk.tokens - from), n, chunk.tokens - from,
               Transposed(Tile(at, part, tiles_.errors) + from * score_stride + from, score_stride),
               Tile(at, part, tiles_.q) + from * stride, stride, dk + from * stride, stride, chunk.continued);
    }
    const xh_tensor& out = at.args[kDk];
    if (Present(out)) {
      StoreTile(dk, stride, chunk.tokens, n, 1.0f, Accumulates(out), ChunkRows(out, chunk.pair, chunk.index));
    }
    GateGradients(at, chunk, dk, Tile(at, part, tiles_.k));
  }

  // di_s = k_s.dk_s. The log forget gate of token j decays every path from an input before j to an output from j on:
  // those that leave the chunk's end, <S, dS> there, and inside, outputs from j on less inputs from j on. Starting at
  // the chunk's end keeps the sums short whatever the sequence's length. No path crosses a border between documents.
  void GateGradients(const State& at, const Chunk& chunk, const float* dk, const float* k) const {
    const xh_tensor &di = at.args[kDi], &df = at.args[kDf];
    const int64_t b = chunk.pair / s_.heads, head = chunk.pair % s_.heads;
    const int64_t stride = TileStride(s_.features), padded = PaddedColumns(s_.features);
    double leaving = 0.0;
    if (Present(df) && chunk.continued) {
      leaving = Dot(at.states.Matrix(s_, chunk.pair, chunk.index + 1), at.gradients.Matrix(s_, chunk.pair, chunk.index),
                    s_.state_floats()) +
                Dot(at.states.Vector(s_, chunk.pair, chunk.index + 1), at.gradients.Vector(s_, chunk.pair, chunk.index),
                    padded);
    }
    for (int64_t s = chunk.tokens - 1; s >= 0; --s) {
      const float input = Dot(k + s * stride, dk + s * stride, padded);
      leaving += static_cast<double>(chunk.query_share[s]) - static_cast<double>(input);
      if (chunk.documents.Begins(chunk.first + s)) leaving = 0.0;
      PutGate(di, b, head, chunk.first + s, input);
      PutGate(df, b, head, chunk.first + s, static_cast<float>(leaving) * chunk.gates.slope[s]);
    }
  }

  static void PutGate(const xh_tensor& x, int64_t b, int64_t head, int64_t t, float value) {
    if (!Present(x)) return;
    float* const to = static_cast<float*>(x.data) + b * x.stride[0] + head * x.stride[1] + t * x.stride[2];
    *to = Accumulates(x) ? *to + value : value;
  }

  Shape s_;
  bool wants_dq_, wants_dk_, wants_dv_;
  Tiles tiles_;
  Saved saved_;
  int64_t token_stride_, gates_, decay_, token_rows_, slots_, slot_vectors_, run_, run_vector_, scratch_;
};

}  // namespace

std::unique_ptr<Plan> MakeBackward(const Shape& shape, const Request& request) {
  return std::make_unique<Backward>(shape, request);
}

}  // namespace xh::cpu::XH_ISA::mlstm
