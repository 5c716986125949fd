// Softmax attention block by block, the scores never whole: a block of queries of every head that shares a key/value
// head visits its visible keys once, with a running maximum and sum (SPEC.md 1.4).
#include <cmath>

#include "backends/cpu/attention.h"
#include "backends/cpu/item_queue.h"

namespace xh::cpu::XH_ISA::attention {
namespace {

// Query rows of a block, all heads of a group together: what fits L2 beside the keys.
constexpr int64_t kBlockRows = 256;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

int64_t BlockTokens(const Shape& s) {
  return std::clamp(kBlockRows / s.group() / kStrip * kStrip, kStrip, int64_t{64});
}

struct Tiles {
  int64_t q, out, max, sum, k_transposed, v, scores, bytes;

  explicit Tiles(const Shape& s) : bytes(0) {
    const int64_t rows = s.group() * BlockTokens(s), stride = TileStride(s.dim);
    q = Reserve(&bytes, rows * stride * 4);
    out = Reserve(&bytes, rows * stride * 4);
    max = Reserve(&bytes, rows * 4);
    sum = Reserve(&bytes, rows * 4);
    k_transposed = Reserve(&bytes, s.dim * TileStride(kKeys) * 4);
    v = Reserve(&bytes, kKeys * stride * 4);
    scores = Reserve(&bytes, kStrip * TileStride(kKeys) * 4);
  }
};

// Turns a row of scores into exp(score - max), 0 where hidden; *max and *sum become those of all keys so far. Returns
// what earlier sums are to be multiplied by.
float SoftmaxRow(const VisibleColumns& visible, int64_t from, int64_t to, float* row, float* max, float* sum) {
  const IVec lane = LaneNumbers();
  const bool all = visible.All(to);
  Vec largest = Set(kMinusInfinity);
  for (int64_t c = from; c < to; c += kLanes) {
    Vec score = Load(row + c);
    if (!all || c + kLanes > to) {
      score = VisibleLanes(visible, c, lane) ? score : Set(kMinusInfinity);
      Store(row + c, score);
    }
    largest = Max(score, largest);
  }
  const float before = *max, after = std::max(before, Max(largest));
  // A row that has seen no key yet keeps its sums of zero.
  const Vec shift = Set(after == kMinusInfinity ? 0.0f : after);
  Vec added = Vec{};
  for (int64_t c = from; c < to; c += kLanes) {
    const Vec weight = Exp(Load(row + c) - shift);
    Store(row + c, weight);
    added += weight;
  }
  const float decay = after == before ? 1.0f : std::exp(before - after);
  *max = after;
  *sum = *sum * decay + Sum(added);
  return decay;
}

class Forward final : public Plan {
 public:
  Forward(const Shape& shape, const Request& request)
      : s_(shape), keeps_(request.pass == XH_FORWARD), block_(BlockTokens(shape)), tiles_(shape) {
    blocks_ = (s_.tokens + block_ - 1) / block_;
    workspace_bytes = s_.threads * tiles_.bytes;
    if (keeps_) saved_bytes = s_.batch * s_.heads * s_.tokens * 4;
    implementation = "blocked";
  }

  void Run(const xh_tensor* args, void* workspace, void* saved) const override {
    CheckPositions(s_, args[kPosition]);
    CheckStarts("ATTENTION", args[kStart]);
    const int64_t groups = s_.batch * s_.kv_heads;
    const int parts = Parts(s_.threads, groups * blocks_, s_.batch * s_.heads * s_.tokens * s_.dim * 16);
    // Late blocks see most keys: they go first.
    RunItems(parts, groups * blocks_, [&](int64_t item, int part) {
      Block(args, item % groups, blocks_ - 1 - item / groups, At<char>(workspace, part * tiles_.bytes),
            keeps_ ? static_cast<float*>(saved) : nullptr);
    });
    // Only now: until here the ring held tokens that queries of this call still saw.
    if (!Present(args[kCacheK])) return;
    RunItems(parts, groups, [&](int64_t item, int) {
      const int64_t b = item / s_.kv_heads;
      WriteCache(s_, args, b, item % s_.kv_heads, PositionOf(args[kPosition], b));
    });
  }

 private:
  // Queries [from, from + tokens) of this call, the first at position `position` of their document, which begins at
  // token `document` of this call (with a cache: before it).
  struct Queries {
    int64_t b, kv_head, document, from, tokens, position;
  };

  void Block(const xh_tensor* args, int64_t group, int64_t block, char* scratch, float* log_sums) const {
    const int64_t b = group / s_.kv_heads, kv_head = group % s_.kv_heads;
    const int64_t start = PositionOf(args[kPosition], b), end = std::min((block + 1) * block_, s_.tokens);
    const Documents documents(args[kStart], b);
    for (int64_t from = block * block_, to = 0; from < end; from = to) {
      to = documents.End(from, end);
      const int64_t document = documents.First(from);
      Attend(args, {b, kv_head, document, from, to - from, start + from - document}, start, scratch, log_sums);
    }
  }

  // Queries of one document against all that they see.
  void Attend(const xh_tensor* args, const Queries& queries, int64_t start, char* scratch, float* log_sums) const {
    LoadQueries(args[kQ], queries, scratch);
    const KeyList keys(queries.position, queries.position + queries.tokens, s_.windows[queries.kv_head], s_.sinks);
    for (int64_t column = 0; column < keys.count; column += kKeys) {
      const int64_t count = std::min(kKeys, keys.count - column);
      LoadKeys(args, queries, start, keys, column, count, scratch);
      for (int64_t head = 0; head < s_.group(); ++head) {
        for (int64_t r = 0; r < queries.tokens; r += kStrip) Strip(queries, keys, column, count, head, r, scratch);
      }
    }
    StoreOutputs(args[kO], queries, scratch, log_sums);
  }

  void LoadQueries(const xh_tensor& q, const Queries& queries, char* scratch) const {
    const int64_t stride = TileStride(s_.dim), rows = s_.group() * block_;
    for (int64_t head = 0; head < s_.group(); ++head) {
      LoadTile(HeadRows(q, queries.b, queries.kv_head * s_.group() + head).From(queries.from), queries.tokens, s_.dim,
               s_.scale, nullptr, At<float>(scratch, tiles_.q) + head * block_ * stride, stride);
    }
    std::memset(At<float>(scratch, tiles_.out), 0, static_cast<size_t>(rows * stride) * 4);
    std::fill_n(At<float>(scratch, tiles_.max), rows, kMinusInfinity);
    std::fill_n(At<float>(scratch, tiles_.sum), rows, 0.0f);
  }

  // Columns [column, column + count) of the key list as tiles k^T and v.
  void LoadKeys(const xh_tensor* args, const Queries& queries, int64_t start, const KeyList& keys, int64_t column,
                int64_t count, char* scratch) const {
    float* const k = At<float>(scratch, tiles_.k_transposed);
    float* const v = At<float>(scratch, tiles_.v);
    const int64_t sinks = std::clamp<int64_t>(keys.sinks - column, 0, count);
    const int64_t first = keys.first + column + sinks - keys.sinks;
    const auto load = [&](int64_t from, int64_t to, int64_t at) {
      Source(args, kK, kCacheK, queries, start).ForStretches(from, to, [&](const TileRows& rows, int64_t n, int64_t i) {
        LoadTransposed(rows, n, s_.dim, k, TileStride(kKeys), at + i);
      });
      Source(args, kV, kCacheV, queries, start).ForStretches(from, to, [&](const TileRows& rows, int64_t n, int64_t i) {
        LoadTile(rows, n, s_.dim, 1.0f, nullptr, v + (at + i) * TileStride(s_.dim), TileStride(s_.dim));
      });
    };
    load(column, column + sinks, 0);
    load(first, first + count - sinks, sinks);
    ZeroPadding(k, TileStride(kKeys), s_.dim, count);
  }

  PositionRows Source(const xh_tensor* args, int current, int cache, const Queries& queries, int64_t start) const {
    const TileRows rows = HeadRows(args[current], queries.b, queries.kv_head);
    const TileRows cached = Present(args[cache]) ? CacheRows(s_, args[cache], queries.b, queries.kv_head) : rows;
    return {cached, rows.From(queries.document), start, s_.windows[queries.kv_head], s_.sinks};
  }

  // Rows [r, r + kStrip) of one head against one tile of keys.
  void Strip(const Queries& queries, const KeyList& keys, int64_t column, int64_t count, int64_t head, int64_t r,
             char* scratch) const {
    const int64_t rows = std::min(kStrip, queries.tokens - r), stride = TileStride(s_.dim), row = head * block_ + r;
    const VisibleColumns oldest = keys.Of(queries.position + r, column);
    const VisibleColumns newest = keys.Of(queries.position + r + rows - 1, column);
    const int64_t from = oldest.sinks > 0 ? 0 : std::max<int64_t>(0, oldest.from) / kLanes * kLanes;
    const int64_t to = std::min(count, std::max(newest.sinks, newest.to));
    if (from >= to) return;
    float* const scores = At<float>(scratch, tiles_.scores);
    float* const out = At<float>(scratch, tiles_.out) + row * stride;
    TileGemm(rows, to - from, s_.dim, Plain(At<float>(scratch, tiles_.q) + row * stride, stride),
             At<float>(scratch, tiles_.k_transposed) + from, TileStride(kKeys), scores + from, TileStride(kKeys),
             false);
    for (int64_t i = 0; i < rows; ++i) {
      const float decay =
          SoftmaxRow(keys.Of(queries.position + r + i, column), from, to, scores + i * TileStride(kKeys),
                     At<float>(scratch, tiles_.max) + row + i, At<float>(scratch, tiles_.sum) + row + i);
      if (decay != 1.0f) Scale(decay, out + i * stride, PaddedColumns(s_.dim));
    }
    TileGemm(rows, s_.dim, to - from, Plain(scores + from, TileStride(kKeys)),
             At<float>(scratch, tiles_.v) + from * stride, stride, out, stride, true);
  }

  void StoreOutputs(const xh_tensor& o, const Queries& queries, char* scratch, float* log_sums) const {
    const float* const max = At<float>(scratch, tiles_.max);
    const float* const sum = At<float>(scratch, tiles_.sum);
    const int64_t stride = TileStride(s_.dim);
    for (int64_t h = 0; h < s_.group(); ++h) {
      const int64_t head = queries.kv_head * s_.group() + h;
      const TileRows rows = HeadRows(o, queries.b, head).From(queries.from);
      for (int64_t t = 0; t < queries.tokens; ++t) {
        const int64_t row = h * block_ + t;
        StoreTile(At<float>(scratch, tiles_.out) + row * stride, stride, 1, s_.dim, 1.0f / sum[row], false,
                  rows.From(t));
        if (log_sums == nullptr) continue;
        log_sums[(queries.b * s_.heads + head) * s_.tokens + queries.from + t] = max[row] + std::log(sum[row]);
      }
    }
  }

  Shape s_;
  bool keeps_;
  int64_t block_, blocks_;
  Tiles tiles_;
};

}  // namespace

std::unique_ptr<Plan> MakeForward(const Shape& shape, const Request& request) {
  return std::make_unique<Forward>(shape, request);
}

}  // namespace xh::cpu::XH_ISA::attention
