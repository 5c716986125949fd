// One token of the mLSTM recurrence: reads and writes every state matrix once, in place where the caller passes the
// same memory for the state before and after.
#include <limits>

#include "backends/cpu/item_queue.h"
#include "backends/cpu/mlstm_gates.h"
#include "backends/cpu/tile_copy.h"

namespace xh::cpu::XH_ISA::mlstm {
namespace {

// Rows of one state matrix with its vector; NULL for none.
struct StateView {
  float* matrix = nullptr;
  float* vector = nullptr;
  int64_t stride = 0;
};

StateView ViewState(const xh_tensor* args, int first, int64_t b, int64_t head) {
  const xh_tensor &matrix = args[first], &z = args[first + 1];
  if (!Present(matrix)) return {};
  return {static_cast<float*>(matrix.data) + b * matrix.stride[0] + head * matrix.stride[1],
          static_cast<float*>(z.data) + b * z.stride[0] + head * z.stride[1], matrix.stride[2]};
}

// Columns [c, c + V vectors) of S' = decay S + k^T v and of the sum of q S'. `keep` is in k. The last vector may be
// partial.
template <int V>
void UpdateColumns(int64_t features, const float* q, const float* k, const float* v, float decay, const StateView& from,
                   const StateView& to, int64_t c, int last, float* sum) {
  const auto load = [&](const float* p, int j) {
    return j + 1 < V || last == kLanes ? Load(p + j * kLanes) : LoadPartial(p + j * kLanes, last);
  };
  Vec right[V], total[V];
  for (int j = 0; j < V; ++j) {
    right[j] = Load(v + c + j * kLanes);
    total[j] = Vec{};
  }
  for (int64_t r = 0; r < features; ++r) {
    const Vec left = Set(k[r]), query = Set(q[r]);
    for (int j = 0; j < V; ++j) {
      Vec state = left * right[j];
      if (from.matrix != nullptr) state = Fma(Set(decay), load(from.matrix + r * from.stride + c, j), state);
      total[j] = Fma(query, state, total[j]);
      if (to.matrix == nullptr) continue;
      float* const target = to.matrix + r * to.stride + c + j * kLanes;
      if (j + 1 < V || last == kLanes) {
        Store(target, state);
      } else {
        StorePartial(target, state, last);
      }
    }
  }
  for (int j = 0; j < V; ++j) Store(sum + c + j * kLanes, total[j]);
}

class Step final : public Plan {
 public:
  explicit Step(const Shape& shape)
      : s_(shape), row_(PaddedColumns(std::max(s_.features, s_.columns)) * 4), scratch_(4 * row_) {
    workspace_bytes = s_.threads * scratch_;
    implementation = "recurrence";
  }

  void Run(const xh_tensor* args, void* workspace, void*) const override {
    CheckStarts("MLSTM", args[kStart]);  // one token: there is nothing to cut
    const int parts = Parts(s_.threads, s_.pairs(), s_.pairs() * s_.state_floats());
    RunItems(parts, s_.pairs(), [&](int64_t pair, int part) {
      Pair(args, pair / s_.heads, pair % s_.heads, At<char>(workspace, part * scratch_));
    });
  }

 private:
  void Pair(const xh_tensor* args, int64_t b, int64_t head, char* scratch) const {
    float* const q = At<float>(scratch, 0);
    float* const k = At<float>(scratch, row_);
    float* const v = At<float>(scratch, 2 * row_);
    float* const sum = At<float>(scratch, 3 * row_);
    const StateView from = ViewState(args, kS, b, head), to = ViewState(args, kSOut, b, head);
    const xh_tensor &i = args[kI], &f = args[kF], &m = args[kM], &m_out = args[kMOut];
    const double before = from.matrix == nullptr
                              ? -std::numeric_limits<double>::infinity()
                              : static_cast<const float*>(m.data)[b * m.stride[0] + head * m.stride[1]];
    const StepGates gates = TokenGates(static_cast<const float*>(i.data)[b * i.stride[0] + head * i.stride[1]],
                                       static_cast<const float*>(f.data)[b * f.stride[0] + head * f.stride[1]], before);
    LoadRow(HeadRows(args[kQ], b, head), 0, s_.features, s_.scale, q);
    LoadRow(HeadRows(args[kK], b, head), 0, s_.features, gates.keep, k);
    LoadRow(HeadRows(args[kV], b, head / s_.group()), 0, s_.columns, 1.0f, v);
    Matrix(q, k, v, gates.decay, from, to, sum);
    const float divisor = Divisor(s_, Vector(q, k, gates.decay, from, to), gates.floor);
    StoreTile(sum, 0, 1, s_.columns, 1.0f / divisor, false, HeadRows(args[kH], b, head));
    if (to.matrix == nullptr) return;
    static_cast<float*>(m_out.data)[b * m_out.stride[0] + head * m_out.stride[1]] = static_cast<float>(gates.m);
  }

  void Matrix(const float* q, const float* k, const float* v, float decay, const StateView& from, const StateView& to,
              float* sum) const {
    int64_t c = 0;
    for (; c + 4 * kLanes <= s_.columns; c += 4 * kLanes) {
      UpdateColumns<4>(s_.features, q, k, v, decay, from, to, c, kLanes, sum);
    }
    for (; c < s_.columns; c += kLanes) {
      const int last = static_cast<int>(std::min<int64_t>(kLanes, s_.columns - c));
      UpdateColumns<1>(s_.features, q, k, v, decay, from, to, c, last, sum);
    }
  }

  // z' = decay z + k; returns q.z'.
  float Vector(const float* q, const float* k, float decay, const StateView& from, const StateView& to) const {
    Vec dot = Vec{};
    for (int64_t r = 0; r < s_.features; r += kLanes) {
      const int count = static_cast<int>(std::min<int64_t>(kLanes, s_.features - r));
      Vec z = Load(k + r);
      if (from.vector != nullptr) z = Fma(Set(decay), LoadPartial(from.vector + r, count), z);
      dot = Fma(Load(q + r), z, dot);
      if (to.vector != nullptr) StorePartial(to.vector + r, z, count);
    }
    return Sum(dot);
  }

  Shape s_;
  int64_t row_, scratch_;
};

}  // namespace

std::unique_ptr<Plan> MakeStep(const Shape& shape, const Request&) { return std::make_unique<Step>(shape); }

}  // namespace xh::cpu::XH_ISA::mlstm
