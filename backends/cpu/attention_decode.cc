// One token against the cache. The token is written first: the slot it takes holds the position that has just left the
// window, and what is visible is then one stretch of slots from the first. Order does not matter to a softmax.
#include <cmath>

#include "backends/cpu/attention.h"
#include "backends/cpu/item_queue.h"

namespace xh::cpu::XH_ISA::attention {
namespace {

template <class T>
float DotRow(const float* q, const T* k, int64_t columns) {
  Vec sum[2] = {Vec{}, Vec{}};
  int64_t c = 0;
  for (; c + 2 * kLanes <= columns; c += 2 * kLanes) {
    sum[0] = Fma(Load(q + c), Load(k + c), sum[0]);
    sum[1] = Fma(Load(q + c + kLanes), Load(k + c + kLanes), sum[1]);
  }
  for (; c < columns; c += kLanes) {
    const int count = static_cast<int>(std::min<int64_t>(kLanes, columns - c));
    sum[0] = Fma(Load(q + c), LoadPartial(k + c, count), sum[0]);
  }
  return Sum(sum[0] + sum[1]);
}

// out[V vectors] += sum over rows of weight_r v_r; the last vector has `last` columns.
template <int V, class T>
void AddRows(const float* weights, const T* v, int64_t stride, int64_t rows, int last, float* out) {
  Vec sum[V];
  for (int j = 0; j < V; ++j) sum[j] = Load(out + j * kLanes);
  for (int64_t r = 0; r < rows; ++r, v += stride) {
    const Vec weight = Set(weights[r]);
    for (int j = 0; j < V; ++j) {
      const Vec value = j + 1 < V || last == kLanes ? Load(v + j * kLanes) : LoadPartial(v + j * kLanes, last);
      sum[j] = Fma(weight, value, sum[j]);
    }
  }
  for (int j = 0; j < V; ++j) Store(out + j * kLanes, sum[j]);
}

template <class T>
void WeightedRows(const float* weights, const T* v, int64_t stride, int64_t rows, int64_t columns, float* out) {
  int64_t c = 0;
  for (; c + 8 * kLanes <= columns; c += 8 * kLanes) AddRows<8>(weights, v + c, stride, rows, kLanes, out + c);
  for (; c + 4 * kLanes <= columns; c += 4 * kLanes) AddRows<4>(weights, v + c, stride, rows, kLanes, out + c);
  for (; c < columns; c += kLanes) {
    AddRows<1>(weights, v + c, stride, rows, static_cast<int>(std::min<int64_t>(kLanes, columns - c)), out + c);
  }
}

// Vector i of a row of `count` scores, -inf past its end.
Vec Scores(const float* scores, int64_t i, int64_t count) {
  if (i + kLanes <= count) return Load(scores + i);
  const int rest = static_cast<int>(count - i);
  return LaneNumbers() < rest ? LoadPartial(scores + i, rest) : Set(-std::numeric_limits<float>::infinity());
}

// scores = exp(scores - max); returns their sum. The row has room for whole vectors.
float Softmax(float* scores, int64_t count) {
  Vec largest = Set(-std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < count; i += kLanes) largest = Max(Scores(scores, i, count), largest);
  const Vec shift = Set(Max(largest));
  Vec sum = Vec{};
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vec weight = Exp(Scores(scores, i, count) - shift);
    Store(scores + i, weight);
    sum += weight;
  }
  return Sum(sum);
}

// Values of this many slots stay in L1 or L2 while every head of a group adds them up.
constexpr int64_t kSlotsAtOnce = 64;

class Decode final : public Plan {
 public:
  explicit Decode(const Shape& shape) : s_(shape) {
    const int64_t groups = s_.batch * s_.kv_heads;
    // Heads of a group share their keys, but a thread without work is worse.
    splits_ = std::clamp<int64_t>((s_.threads + groups - 1) / std::max<int64_t>(1, groups), 1, s_.group());
    row_ = PaddedColumns(s_.dim);
    most_slots_ = 1;
    for (int64_t j = 0; j < s_.kv_heads; ++j) most_slots_ = std::max(most_slots_, s_.HeadSlots(j));
    query_ = Reserve(&scratch_, s_.group() * row_ * 4);
    out_ = Reserve(&scratch_, s_.group() * row_ * 4);
    sums_ = Reserve(&scratch_, s_.group() * 4);
    scores_ = Reserve(&scratch_, s_.group() * PaddedColumns(most_slots_) * 4);
    workspace_bytes = s_.threads * scratch_;
    implementation = "one token";
  }

  void Run(const xh_tensor* args, void* workspace, void*) const override {
    CheckPositions(s_, args[kPosition]);
    const int64_t groups = s_.batch * s_.kv_heads;
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t b = group / s_.kv_heads;
      WriteCache(s_, args, b, group % s_.kv_heads, PositionOf(args[kPosition], b));
    }
    const int parts = Parts(s_.threads, groups * splits_, s_.batch * s_.heads * most_slots_ * s_.dim);
    RunItems(parts, groups * splits_, [&](int64_t item, int part) {
      char* const scratch = At<char>(workspace, part * scratch_);
      if (args[kQ].dtype == XH_BF16) {
        Heads<BF16>(args, item / splits_, item % splits_, scratch);
      } else {
        Heads<float>(args, item / splits_, item % splits_, scratch);
      }
    });
  }

 private:
  template <class T>
  void Heads(const xh_tensor* args, int64_t group, int64_t split, char* scratch) const {
    const int64_t b = group / s_.kv_heads, kv_head = group % s_.kv_heads;
    const int64_t from = kv_head * s_.group() + s_.group() * split / splits_;
    const int64_t to = kv_head * s_.group() + s_.group() * (split + 1) / splits_;
    const int64_t position = PositionOf(args[kPosition], b), window = s_.windows[kv_head];
    const int64_t visible =
        window == 0 || position < s_.sinks ? position + 1 : s_.sinks + std::min(window, position - s_.sinks + 1);
    const TileRows k = CacheRows(s_, args[kCacheK], b, kv_head), v = CacheRows(s_, args[kCacheV], b, kv_head);
    const T* const keys = reinterpret_cast<const T*>(k.data);
    float* const query = At<float>(scratch, query_);
    float* const scores = At<float>(scratch, scores_);
    const int64_t score_stride = PaddedColumns(most_slots_);
    for (int64_t head = from; head < to; ++head) {
      LoadRow(HeadRows(args[kQ], b, head), 0, s_.dim, s_.scale, query + (head - from) * row_);
    }
    for (int64_t slot = 0; slot < visible; ++slot) {
      for (int64_t h = 0; h < to - from; ++h) {
        scores[h * score_stride + slot] = DotRow(query + h * row_, keys + slot * k.stride, s_.dim);
      }
    }
    float* const out = At<float>(scratch, out_);
    float* const sums = At<float>(scratch, sums_);
    std::memset(out, 0, static_cast<size_t>((to - from) * row_) * 4);
    for (int64_t h = 0; h < to - from; ++h) sums[h] = Softmax(scores + h * score_stride, visible);
    const T* const values = reinterpret_cast<const T*>(v.data);
    for (int64_t slot = 0; slot < visible; slot += kSlotsAtOnce) {
      const int64_t count = std::min(kSlotsAtOnce, visible - slot);
      for (int64_t h = 0; h < to - from; ++h) {
        WeightedRows(scores + h * score_stride + slot, values + slot * v.stride, v.stride, count, s_.dim,
                     out + h * row_);
      }
    }
    for (int64_t head = from; head < to; ++head) {
      StoreTile(out + (head - from) * row_, row_, 1, s_.dim, 1.0f / sums[head - from], false,
                HeadRows(args[kO], b, head));
    }
  }

  Shape s_;
  int64_t splits_, row_, most_slots_, query_, out_, sums_, scores_, scratch_ = 0;
};

}  // namespace

std::unique_ptr<Plan> MakeDecode(const Shape& shape, const Request&) { return std::make_unique<Decode>(shape); }

}  // namespace xh::cpu::XH_ISA::attention
