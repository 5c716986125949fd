// The exact backward pass, scores computed again from the saved log sums: with p = exp(score - log sum),
//   dv_s = sum_t p_ts do_t         e_ts = p_ts (do_t.v_s - do_t.o_t)
//   dq_t = scale sum_s e_ts k_s    dk_s = scale sum_t e_ts q_t
// A block of keys visits the blocks of queries of its document that see it. Blocks of one head are dealt out in
// `shares_` shares, each with its own sum of dq; the sums are added in order, so that results do not depend on who was
// faster.
#include "backends/cpu/attention.h"
#include "backends/cpu/item_queue.h"

namespace xh::cpu::XH_ISA::attention {
namespace {

constexpr int64_t kQueries = 64;
constexpr int64_t kMostShares = 8;

struct Tiles {
  int64_t q, d_out, k, k_transposed, v_transposed, weights, errors, dk, dv, bytes;

  explicit Tiles(const Shape& s) : bytes(0) {
    const int64_t by_dim = TileStride(s.dim) * 4, by_keys = TileStride(kKeys) * 4;
    q = Reserve(&bytes, kQueries * by_dim);
    d_out = Reserve(&bytes, kQueries * by_dim);
    k = Reserve(&bytes, kKeys * by_dim);
    k_transposed = Reserve(&bytes, s.dim * by_keys);
    v_transposed = Reserve(&bytes, s.dim * by_keys);
    weights = Reserve(&bytes, kQueries * by_keys);
    errors = Reserve(&bytes, kQueries * by_keys);
    dk = Reserve(&bytes, kKeys * by_dim);
    dv = Reserve(&bytes, kKeys * by_dim);
  }
};

// A document of a row: tokens [first, first + tokens). Positions below are positions in it.
struct Document {
  int64_t first, tokens;
};

// Keys [from, to) of a document: sinks of a windowed head apart from the others, because every later query sees them.
struct KeyBlock {
  Document document;
  int64_t from, to;
  bool sinks;
};

// Keys of a document that are sinks of a windowed head.
int64_t KeysApart(const Shape& s, int64_t kv_head, const Document& document) {
  return s.windows[kv_head] == 0 ? 0 : std::min(s.sinks, document.tokens);
}
int64_t KeyBlocks(const Shape& s, int64_t kv_head, const Document& document) {
  const int64_t apart = KeysApart(s, kv_head, document);
  return (apart + kKeys - 1) / kKeys + (document.tokens - apart + kKeys - 1) / kKeys;
}
KeyBlock BlockOf(const Shape& s, int64_t kv_head, const Document& document, int64_t block) {
  const int64_t apart = KeysApart(s, kv_head, document), sink_blocks = (apart + kKeys - 1) / kKeys;
  if (block < sink_blocks) return {document, block * kKeys, std::min((block + 1) * kKeys, apart), true};
  const int64_t from = apart + (block - sink_blocks) * kKeys;
  return {document, from, std::min(from + kKeys, document.tokens), false};
}

class Backward final : public Plan {
 public:
  Backward(const Shape& shape, const Request& request)
      : s_(shape),
        wants_dq_(Present(request.args[kDq])),
        wants_dk_(Present(request.args[kDk])),
        wants_dv_(Present(request.args[kDv])),
        stride_(TileStride(shape.dim)),
        tiles_(shape) {
    const int64_t groups = s_.batch * s_.kv_heads, pairs = s_.batch * s_.heads;
    // Two items a thread even out what is left over; every share costs a sum of dq.
    const int64_t wanted = s_.threads == 1 ? 1 : (2 * s_.threads + groups - 1) / std::max<int64_t>(1, groups);
    shares_ = std::clamp<int64_t>(wanted, 1, std::min(kMostShares, std::max<int64_t>(1, s_.tokens / kKeys)));
    products_ = Reserve(&workspace_bytes, pairs * s_.tokens * 4);
    if (wants_dq_) dq_ = Reserve(&workspace_bytes, shares_ * pairs * s_.tokens * stride_ * 4);
    scratch_ = workspace_bytes;
    workspace_bytes += s_.threads * tiles_.bytes;
    saved_bytes = pairs * s_.tokens * 4;
    implementation = "blocked";
  }

  void Run(const xh_tensor* args, void* workspace, void* saved) const override {
    CheckStarts("ATTENTION", args[kStart]);
    const State at = {args, workspace, static_cast<const float*>(saved)};
    const int64_t groups = s_.batch * s_.kv_heads, pairs = s_.batch * s_.heads;
    const int64_t work = pairs * s_.tokens * s_.dim * 32;
    RunItems(Parts(s_.threads, pairs, work), pairs, [&](int64_t pair, int part) { Products(at, pair, part); });
    RunItems(Parts(s_.threads, groups * shares_, work), groups * shares_,
             [&](int64_t item, int part) { Share(at, item / shares_, item % shares_, part); });
    if (!wants_dq_) return;
    RunItems(Parts(s_.threads, pairs, work), pairs, [&](int64_t pair, int) { QueryGradient(at, pair); });
  }

 private:
  struct State {
    const xh_tensor* args;
    void* workspace;
    const float* log_sums;  // [pair, tokens]
  };
  // One block of keys and the queries [from, from + tokens) of one head and the same document.
  struct Visit {
    KeyBlock keys;
    int64_t pair, from, tokens, window;
    float* dq;  // of these queries

    int64_t count() const { return keys.to - keys.from; }
    int64_t token() const { return keys.document.first + from; }  // of the first query, in its row
    // Columns that the query at `position` sees.
    VisibleColumns Of(int64_t position, int64_t sinks) const {
      const int64_t oldest = window == 0 ? 0 : position - window + 1;
      return {keys.sinks ? std::min(sinks, position + 1) - keys.from : 0, oldest - keys.from, position + 1 - keys.from};
    }
  };

  float* Tile(const State& at, int part, int64_t tile) const {
    return At<float>(at.workspace, scratch_ + part * tiles_.bytes + tile);
  }
  float* QuerySums(const State& at, int64_t share, int64_t pair) const {
    return At<float>(at.workspace, dq_) + (share * s_.batch * s_.heads + pair) * s_.tokens * stride_;
  }
  TileRows QueryRows(const xh_tensor& x, int64_t pair) const { return HeadRows(x, pair / s_.heads, pair % s_.heads); }

  // do_t.o_t
  void Products(const State& at, int64_t pair, int part) const {
    const TileRows d_out = QueryRows(at.args[kDo], pair), out = QueryRows(at.args[kO], pair);
    float* const a = Tile(at, part, tiles_.d_out);
    float* const b = Tile(at, part, tiles_.q);
    float* const products = At<float>(at.workspace, products_) + pair * s_.tokens;
    for (int64_t t = 0; t < s_.tokens; ++t) {
      if (!Present(at.args[kDo])) {
        products[t] = 0.0f;
        continue;
      }
      LoadRow(d_out, t, s_.dim, 1.0f, a);
      LoadRow(out, t, s_.dim, 1.0f, b);
      products[t] = Dot(a, b, PaddedColumns(s_.dim));
    }
  }

  // Every shares_-th block of keys of one key/value head, so that shares have as many long columns as short.
  void Share(const State& at, int64_t group, int64_t share, int part) const {
    const int64_t b = group / s_.kv_heads, kv_head = group % s_.kv_heads;
    if (wants_dq_) {
      std::memset(QuerySums(at, share, b * s_.heads + kv_head * s_.group()), 0,
                  static_cast<size_t>(s_.group() * s_.tokens * stride_) * 4);
    }
    const Documents documents(at.args[kStart], b);
    int64_t skip = share;  // blocks of other shares before the next of this one
    for (int64_t first = 0, end = 0; first < s_.tokens; first = end) {
      end = documents.End(first, s_.tokens);
      const Document document = {first, end - first};
      const int64_t blocks = KeyBlocks(s_, kv_head, document);
      for (; skip < blocks; skip += shares_) Keys(at, b, kv_head, BlockOf(s_, kv_head, document, skip), share, part);
      skip -= blocks;
    }
  }

  void Keys(const State& at, int64_t b, int64_t kv_head, const KeyBlock& keys, int64_t share, int part) const {
    LoadKeys(at, b, kv_head, keys, part);
    VisitQueries(at, b, kv_head, keys, share, part);
    const int64_t count = keys.to - keys.from, token = keys.document.first + keys.from;
    const xh_tensor &dk = at.args[kDk], &dv = at.args[kDv];
    if (wants_dk_) {
      StoreTile(Tile(at, part, tiles_.dk), stride_, count, s_.dim, 1.0f, Accumulates(dk),
                HeadRows(dk, b, kv_head).From(token));
    }
    if (wants_dv_) {
      StoreTile(Tile(at, part, tiles_.dv), stride_, count, s_.dim, 1.0f, Accumulates(dv),
                HeadRows(dv, b, kv_head).From(token));
    }
  }

  void LoadKeys(const State& at, int64_t b, int64_t kv_head, const KeyBlock& keys, int part) const {
    const int64_t count = keys.to - keys.from, key_stride = TileStride(kKeys), token = keys.document.first + keys.from;
    const TileRows k = HeadRows(at.args[kK], b, kv_head).From(token);
    float* const k_transposed = Tile(at, part, tiles_.k_transposed);
    float* const v_transposed = Tile(at, part, tiles_.v_transposed);
    LoadTile(k, count, s_.dim, 1.0f, nullptr, Tile(at, part, tiles_.k), stride_);
    LoadTransposed(k, count, s_.dim, k_transposed, key_stride);
    LoadTransposed(HeadRows(at.args[kV], b, kv_head).From(token), count, s_.dim, v_transposed, key_stride);
    ZeroPadding(k_transposed, key_stride, s_.dim, count);
    ZeroPadding(v_transposed, key_stride, s_.dim, count);
    std::memset(Tile(at, part, tiles_.dk), 0, static_cast<size_t>(count * stride_) * 4);
    std::memset(Tile(at, part, tiles_.dv), 0, static_cast<size_t>(count * stride_) * 4);
  }

  void VisitQueries(const State& at, int64_t b, int64_t kv_head, const KeyBlock& keys, int64_t share, int part) const {
    if (!Present(at.args[kDo])) return;
    const int64_t window = s_.windows[kv_head], tokens = keys.document.tokens;
    const int64_t end = window == 0 || keys.sinks ? tokens : std::min(tokens, keys.to - 1 + window);
    for (int64_t from = keys.from / kQueries * kQueries; from < end; from += kQueries) {
      for (int64_t head = kv_head * s_.group(); head < (kv_head + 1) * s_.group(); ++head) {
        const int64_t pair = b * s_.heads + head;
        Visit visit = {keys, pair, from, std::min(kQueries, tokens - from), window, nullptr};
        if (wants_dq_) visit.dq = QuerySums(at, share, pair) + visit.token() * stride_;
        Block(at, visit, part);
      }
    }
  }

  void Block(const State& at, const Visit& visit, int part) const {
    LoadTile(QueryRows(at.args[kQ], visit.pair).From(visit.token()), visit.tokens, s_.dim, s_.scale, nullptr,
             Tile(at, part, tiles_.q), stride_);
    LoadTile(QueryRows(at.args[kDo], visit.pair).From(visit.token()), visit.tokens, s_.dim, 1.0f, nullptr,
             Tile(at, part, tiles_.d_out), stride_);
    for (int64_t r = 0; r < visit.tokens; r += kStrip) Strip(at, visit, r, part);
    const int64_t key_stride = TileStride(kKeys);
    for (int64_t s = 0; s < visit.count(); s += kStrip) {
      const int64_t count = std::min(kStrip, visit.count() - s), key = visit.keys.from + s;
      // Queries before the first of these keys, or past the window of the last, have weight zero.
      const int64_t first = std::clamp<int64_t>(key - visit.from, 0, visit.tokens);
      const int64_t end = visit.window == 0 || visit.keys.sinks
                              ? visit.tokens
                              : std::clamp<int64_t>(key + count - 1 + visit.window - visit.from, first, visit.tokens);
      const int64_t corner = first * key_stride + s;
      if (wants_dv_) {
        TileGemm(count, s_.dim, end - first, Transposed(Tile(at, part, tiles_.weights) + corner, key_stride),
                 Tile(at, part, tiles_.d_out) + first * stride_, stride_, Tile(at, part, tiles_.dv) + s * stride_,
                 stride_, true);
      }
      if (wants_dk_) {
        TileGemm(count, s_.dim, end - first, Transposed(Tile(at, part, tiles_.errors) + corner, key_stride),
                 Tile(at, part, tiles_.q) + first * stride_, stride_, Tile(at, part, tiles_.dk) + s * stride_, stride_,
                 true);
      }
    }
  }

  // Queries [r, r + kStrip) of a visit: weights and errors, zero where hidden, and dq.
  void Strip(const State& at, const Visit& visit, int64_t r, int part) const {
    const int64_t rows = std::min(kStrip, visit.tokens - r), key_stride = TileStride(kKeys), count = visit.count();
    const int64_t position = visit.from + r;
    const VisibleColumns oldest = visit.Of(position, s_.sinks), newest = visit.Of(position + rows - 1, s_.sinks);
    const int64_t from = oldest.sinks > 0 ? 0 : std::clamp<int64_t>(oldest.from, 0, count) / kLanes * kLanes;
    const int64_t to = std::clamp(std::max(newest.sinks, newest.to), from, count);
    float* const weights = Tile(at, part, tiles_.weights) + r * key_stride;
    float* const errors = Tile(at, part, tiles_.errors) + r * key_stride;
    if (from < to) {
      TileGemm(rows, to - from, s_.dim, Plain(Tile(at, part, tiles_.q) + r * stride_, stride_),
               Tile(at, part, tiles_.k_transposed) + from, key_stride, weights + from, key_stride, false);
      TileGemm(rows, to - from, s_.dim, Plain(Tile(at, part, tiles_.d_out) + r * stride_, stride_),
               Tile(at, part, tiles_.v_transposed) + from, key_stride, errors + from, key_stride, false);
    }
    const int64_t token = visit.pair * s_.tokens + visit.token() + r;
    const float* const products = At<float>(at.workspace, products_) + token;
    for (int64_t i = 0; i < rows; ++i) {
      Row(visit.Of(position + i, s_.sinks), from, to, count, at.log_sums[token + i], products[i],
          weights + i * key_stride, errors + i * key_stride);
    }
    if (!wants_dq_ || from >= to) return;
    TileGemm(rows, s_.dim, to - from, Plain(errors + from, key_stride), Tile(at, part, tiles_.k) + from * stride_,
             stride_, visit.dq + r * stride_, stride_, true);
  }

  // Scores and do.v in columns [from, to) to weights and errors; zero elsewhere up to `count`.
  static void Row(const VisibleColumns& visible, int64_t from, int64_t to, int64_t count, float log_sum, float product,
                  float* weights, float* errors) {
    const IVec lane = LaneNumbers();
    const bool all = visible.All(to);
    for (int64_t c = 0; c < count; c += kLanes) {
      Vec weight = Vec{}, error = Vec{};
      if (c >= from && c < to) {
        weight = Exp(Load(weights + c) - log_sum);
        if (!all || c + kLanes > to) weight = VisibleLanes(visible, c, lane) ? weight : Vec{};
        error = weight * (Load(errors + c) - product);
      }
      Store(weights + c, weight);
      Store(errors + c, error);
    }
  }

  void QueryGradient(const State& at, int64_t pair) const {
    const xh_tensor& dq = at.args[kDq];
    float* const sum = QuerySums(at, 0, pair);
    for (int64_t share = 1; share < shares_; ++share) Axpy(1.0f, QuerySums(at, share, pair), sum, s_.tokens * stride_);
    StoreTile(sum, stride_, s_.tokens, s_.dim, s_.scale, Accumulates(dq), QueryRows(dq, pair));
  }

  Shape s_;
  bool wants_dq_, wants_dk_, wants_dv_;
  int64_t stride_, shares_;
  Tiles tiles_;
  int64_t products_, dq_ = 0, scratch_;
};

}  // namespace

std::unique_ptr<Plan> MakeBackward(const Shape& shape, const Request& request) {
  return std::make_unique<Backward>(shape, request);
}

}  // namespace xh::cpu::XH_ISA::attention
