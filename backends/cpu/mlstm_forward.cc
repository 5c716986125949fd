// The chunkwise forward pass (SPEC.md 1.1). Three sweeps over a stretch of chunks: what every chunk adds to the state,
// the recurrence over chunks, and the outputs. The first and last are independent for every head and chunk.
#include "backends/cpu/item_queue.h"
#include "backends/cpu/mlstm_decay.h"
#include "backends/cpu/mlstm_gates.h"
#include "backends/cpu/mlstm_scan.h"
#include "backends/cpu/tile_copy.h"

namespace xh::cpu::XH_ISA::mlstm {
namespace {

// INFER keeps the states of this many chunks at a time.
constexpr int64_t kStretch = 16;
constexpr int64_t kScanRows = 16;

// Tiles of one thread; offsets in bytes from its part of the workspace.
struct Tiles {
  int64_t q, k_transposed, v, scores, out, bytes;

  explicit Tiles(const Shape& s) : bytes(0) {
    q = Reserve(&bytes, s.chunk * TileStride(s.features) * 4);
    k_transposed = Reserve(&bytes, s.features * TileStride(s.chunk) * 4);
    v = Reserve(&bytes, s.chunk * TileStride(s.columns) * 4);
    scores = Reserve(&bytes, kStrip * TileStride(s.chunk) * 4);
    out = Reserve(&bytes, kStrip * TileStride(s.columns) * 4);
  }
};

class Forward final : public Plan {
 public:
  Forward(const Shape& shape, const Request& request)
      : s_(shape),
        keeps_(request.pass == XH_FORWARD),
        gives_state_(Present(request.args[kSOut])),
        stretch_(keeps_ ? std::max<int64_t>(1, s_.chunks()) : std::min(kStretch, std::max<int64_t>(1, s_.chunks()))),
        tiles_(shape),
        saved_(shape),
        gate_stride_(Gates::Stride(stretch_ * s_.chunk)) {
    gates_ = Reserve(&workspace_bytes, s_.pairs() * kGateRows * gate_stride_ * 4);
    decay_ = Reserve(&workspace_bytes, s_.pairs() * stretch_ * 4);
    run_ = Reserve(&workspace_bytes, s_.pairs() * s_.state_floats() * 4);
    run_vector_ = Reserve(&workspace_bytes, s_.pairs() * PaddedColumns(s_.features) * 4);
    max_ = Reserve(&workspace_bytes, s_.pairs() * static_cast<int64_t>(sizeof(double)));
    if (!keeps_) {
      slots_ = Reserve(&workspace_bytes, s_.pairs() * stretch_ * s_.state_floats() * 4);
      slot_vectors_ = Reserve(&workspace_bytes, s_.pairs() * stretch_ * PaddedColumns(s_.features) * 4);
    }
    scratch_ = workspace_bytes;
    workspace_bytes += s_.threads * tiles_.bytes;
    if (keeps_) saved_bytes = saved_.bytes;
    implementation = "chunkwise";
  }

  void Run(const xh_tensor* args, void* workspace, void* saved) const override {
    CheckStarts("MLSTM", args[kStart]);
    Stretch at = {args,
                  workspace,
                  {At<float>(workspace, gates_), At<float>(workspace, decay_), gate_stride_, stretch_},
                  keeps_ ? saved_.Slots(s_, saved)
                         : StateSlots{At<float>(workspace, slots_), At<float>(workspace, slot_vectors_), stretch_},
                  keeps_ ? At<float>(saved, saved_.denominator) : nullptr,
                  0,
                  0};
    double* const max = At<double>(workspace, max_);
    RunItems(Threads(1), s_.pairs(), [&](int64_t pair, int) {
      ReadState(s_, args, kS, pair, RunMatrix(at, pair), RunVector(at, pair), &max[pair]);
    });
    for (at.first = 0; at.first < s_.chunks(); at.first += stretch_) {
      at.count = std::min(stretch_, s_.chunks() - at.first);
      // The state after the last chunk may not be wanted.
      const int64_t adding = gives_state_ || at.first + at.count < s_.chunks() ? at.count : at.count - 1;
      RunItems(Threads(1), s_.pairs(), [&](int64_t pair, int) { FindGates(&at, pair, &max[pair]); });
      RunItems(Threads(adding), s_.pairs() * adding,
               [&](int64_t item, int part) { AddToState(at, item / adding, item % adding, part); });
      const int64_t blocks = (s_.features + kScanRows - 1) / kScanRows;
      RunItems(Threads(1), s_.pairs() * blocks,
               [&](int64_t item, int) { Scan(at, item / blocks, item % blocks, adding); });
      RunItems(Threads(at.count), s_.pairs() * at.count,
               [&](int64_t item, int part) { Outputs(at, item / at.count, item % at.count, part); });
    }
    if (!gives_state_) return;
    RunItems(Threads(1), s_.pairs(), [&](int64_t pair, int) {
      WriteState(s_, RunMatrix(at, pair), RunVector(at, pair), max[pair], args, kSOut, pair);
    });
  }

 private:
  // One run's memory and the chunks [first, first + count) that it is at.
  struct Stretch {
    const xh_tensor* args;
    void* workspace;
    Gates gates;
    StateSlots slots;
    float* denominator;  // [pair, tokens] or NULL
    int64_t first, count;
  };

  int Threads(int64_t chunks) const {
    return Parts(s_.threads, s_.pairs() * chunks, s_.pairs() * s_.tokens * s_.features);
  }
  float* RunMatrix(const Stretch& at, int64_t pair) const {
    return At<float>(at.workspace, run_) + pair * s_.state_floats();
  }
  float* RunVector(const Stretch& at, int64_t pair) const {
    return At<float>(at.workspace, run_vector_) + pair * PaddedColumns(s_.features);
  }
  float* Tile(const Stretch& at, int part, int64_t tile) const {
    return At<float>(at.workspace, scratch_ + part * tiles_.bytes + tile);
  }
  TileRows Chunk(const xh_tensor& x, int64_t pair, int64_t chunk) const {
    const int64_t head = pair % s_.heads;
    return HeadRows(x, pair / s_.heads, x.shape[1] == s_.heads ? head : head / s_.group()).From(chunk * s_.chunk);
  }
  // Nothing is carried into the first chunk of a sequence without a state, nor into one that begins with a document.
  bool Empty(const Stretch& at, const Documents& documents, int64_t chunk) const {
    if (at.first + chunk == 0) return !Present(at.args[kS]);
    return documents.Begins((at.first + chunk) * s_.chunk);
  }

  void FindGates(Stretch* at, int64_t pair, double* max) const {
    for (int64_t c = 0; c < at->count; ++c) {
      const int64_t chunk = at->first + c;
      ChunkGates(at->args, pair / s_.heads, pair % s_.heads, chunk * s_.chunk, s_.ChunkTokens(chunk), pair, c,
                 c * s_.chunk, &at->gates, max);
    }
  }

  // slot = sum over u of keep_u k_u^T [v_u | 1].
  void AddToState(const Stretch& at, int64_t pair, int64_t c, int part) const {
    const int64_t tokens = s_.ChunkTokens(at.first + c);
    const ChunkView gates(at.gates, pair, c * s_.chunk);
    float* const k = Tile(at, part, tiles_.q);
    float* const v = Tile(at, part, tiles_.v);
    const int64_t k_stride = TileStride(s_.features), v_stride = TileStride(s_.columns);
    LoadTile(Chunk(at.args[kK], pair, at.first + c), tokens, s_.features, 1.0f, nullptr, k, k_stride);
    LoadTile(Chunk(at.args[kV], pair, at.first + c), tokens, s_.columns, 1.0f, gates.keep, v, v_stride);
    TileGemm(s_.features, s_.columns, tokens, Transposed(k, k_stride), v, v_stride, at.slots.Matrix(s_, pair, c),
             s_.stride(), false);
    float* const z = at.slots.Vector(s_, pair, c);
    const int64_t padded = PaddedColumns(s_.features);
    std::memset(z, 0, static_cast<size_t>(padded) * 4);
    for (int64_t u = 0; u < tokens; ++u) Axpy(gates.keep[u], k + u * k_stride, z, padded);
  }

  void Scan(const Stretch& at, int64_t pair, int64_t block, int64_t adding) const {
    const int64_t row = block * kScanRows, rows = std::min(kScanRows, s_.features - row);
    float* const run = RunMatrix(at, pair) + row * s_.stride();
    for (int64_t c = 0; c < at.count; ++c) {
      float* const slot = at.slots.Matrix(s_, pair, c) + row * s_.stride();
      if (c < adding) {
        ScanStep(at.gates.Decay(pair, c), run, slot, rows * s_.stride());
      } else {
        std::memcpy(slot, run, static_cast<size_t>(rows * s_.stride()) * 4);
      }
    }
    if (block != 0) return;
    const int64_t padded = PaddedColumns(s_.features);
    for (int64_t c = 0; c < at.count; ++c) {
      float* const slot = at.slots.Vector(s_, pair, c);
      if (c < adding) {
        ScanStep(at.gates.Decay(pair, c), RunVector(at, pair), slot, padded);
      } else {
        std::memcpy(slot, RunVector(at, pair), static_cast<size_t>(padded) * 4);
      }
    }
  }

  void Outputs(const Stretch& at, int64_t pair, int64_t c, int part) const {
    const int64_t chunk = at.first + c, tokens = s_.ChunkTokens(chunk);
    const int64_t q_stride = TileStride(s_.features), k_stride = TileStride(s_.chunk);
    float* const q = Tile(at, part, tiles_.q);
    float* const k = Tile(at, part, tiles_.k_transposed);
    float* const v = Tile(at, part, tiles_.v);
    LoadTile(Chunk(at.args[kQ], pair, chunk), tokens, s_.features, s_.scale, nullptr, q, q_stride);
    LoadTransposed(Chunk(at.args[kK], pair, chunk), tokens, s_.features, k, k_stride);
    ZeroPadding(k, k_stride, s_.features, tokens);
    LoadTile(Chunk(at.args[kV], pair, chunk), tokens, s_.columns, 1.0f, nullptr, v, TileStride(s_.columns));
    for (int64_t u = 0; u < tokens; u += kStrip) OutputStrip(at, pair, c, u, std::min(kStrip, tokens - u), part);
  }

  // Tokens [from, from + rows) of a chunk.
  void OutputStrip(const Stretch& at, int64_t pair, int64_t c, int64_t from, int64_t rows, int part) const {
    const ChunkView gates(at.gates, pair, c * s_.chunk);
    const Documents documents(at.args[kStart], pair / s_.heads);
    const int64_t chunk_first = (at.first + c) * s_.chunk;
    const int64_t end = from + rows, padded = PaddedColumns(s_.columns);
    const int64_t q_stride = TileStride(s_.features), k_stride = TileStride(s_.chunk), stride = TileStride(s_.columns);
    const float* const q = Tile(at, part, tiles_.q) + from * q_stride;
    float* const scores = Tile(at, part, tiles_.scores);
    float* const out = Tile(at, part, tiles_.out);
    TileGemm(rows, end, s_.features, Plain(q, q_stride), Tile(at, part, tiles_.k_transposed), k_stride, scores,
             k_stride, false);
    const bool empty = Empty(at, documents, c);
    if (!empty) {
      TileGemm(rows, s_.columns, s_.features, Plain(q, q_stride), at.slots.Matrix(s_, pair, c), s_.stride(), out,
               stride, false);
    }
    float denominator[kStrip];
    for (int64_t r = 0; r < rows; ++r) {
      Vec sum = Vec{};
      float* const row = scores + r * k_stride;
      const int64_t first = documents.First(chunk_first + from + r) - chunk_first;
      ForWeights(gates, first, from + r, end, [&](int64_t w, Vec weights) {
        const Vec score = weights * Load(row + w);
        Store(row + w, score);
        sum += score;
      });
      denominator[r] = Sum(sum);
      const float carry = gates.carry[from + r];
      if (!empty) {
        denominator[r] += carry * Dot(q + r * q_stride, at.slots.Vector(s_, pair, c), PaddedColumns(s_.features));
      }
      // Dividing the weights, not h: where one input has all the weight, h is its v exactly, and backward sees it.
      const float divisor = Divisor(s_, denominator[r], gates.floor[from + r]);
      for (int64_t w = 0; w < end; w += kLanes) Store(row + w, Load(row + w) / divisor);
      if (!empty) Scale(carry / divisor, out + r * stride, padded);
    }
    TileGemm(rows, s_.columns, end, Plain(scores, k_stride), Tile(at, part, tiles_.v), stride, out, stride, !empty);
    StoreTile(out, stride, rows, s_.columns, 1.0f, false, Chunk(at.args[kH], pair, at.first + c).From(from));
    if (at.denominator == nullptr) return;
    std::copy_n(denominator, rows, at.denominator + pair * s_.tokens + chunk_first + from);
  }

  Shape s_;
  bool keeps_, gives_state_;
  int64_t stretch_;
  Tiles tiles_;
  Saved saved_;
  int64_t gate_stride_, gates_, decay_, run_, run_vector_, max_, slots_ = 0, slot_vectors_ = 0, scratch_;
};

}  // namespace

std::unique_ptr<Plan> MakeForward(const Shape& shape, const Request& request) {
  return std::make_unique<Forward>(shape, request);
}

}  // namespace xh::cpu::XH_ISA::mlstm
