// DISTILL_LOSS (SPEC.md 4): cross entropy, and KL(teacher || student) on the teacher's top k.
//
// With l the student's logits, s the temperature, p the teacher's and q the student's distribution over the classes of
// the mode, d KL / d l_j = (q_j - p_j) / s on a class that is one token.
//   RENORMALIZED  classes: the k ids. p = softmax(values / s), q = softmax(l[ids] / s).
//   FULL_STUDENT  classes: the vocabulary, p as above and 0 elsewhere, q = softmax(l / s).
//   TAIL_BUCKET   classes: the k ids and the rest as one. The teacher's class scores are the log-probabilities `values`
//   and
//                 log(1 - sum e^values), the student's l[ids] and log sum e^l over the rest; s divides the k + 1 scores
//                 of both. A token of the rest gets its share e^(l_j - rest) of that class's gradient.
// FORWARD saves, for each row, log sum e^l and the mode's second normaliser: log sum e^(l / s) over the vocabulary for
// FULL_STUDENT, log sum e^l over the rest for TAIL_BUCKET.
#include <cmath>
#include <limits>

#include "backends/cpu/ops.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"

namespace xh::cpu::XH_ISA {
namespace {

enum { kLogits, kTargets, kTeacherValues, kTeacherIds, kScale, kLosses, kDlosses, kDlogits };

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// log sum e^(x scale) of n elements in one pass: blocks that fit the first-level cache, rescaled when the maximum
// grows.
template <class T>
float LogSumExp(const T* x, int64_t n, float scale) {
  constexpr int64_t kBlock = 2048;
  float most = kNegativeInfinity, sum = 0.0f;
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t count = std::min(kBlock, n - first);
    const float block_most = MaxOf(x + first, count) * scale;
    if (block_most > most) {
      sum *= std::exp(most - block_most);
      most = block_most;
    }
    const float shift = most == kNegativeInfinity ? 0.0f : most;  // -inf everywhere sums to 0, not to NaN
    Vec part = {};
    ForLanes(count,
             [&](int64_t i, auto lanes) { part = part + Keep(Exp(Get(x + first + i, lanes) * scale - shift), lanes); });
    sum += Sum(part);
  }
  return most == kNegativeInfinity && sum == 0.0f ? most : most + std::log(sum);
}

struct Sizes {
  int64_t m, v, k;  // k is 0 without a teacher
};

// What the two passes share: the rows' places, and the classes of one row.
template <class T>
class DistillPlan : public Plan {
 protected:
  DistillPlan(const Request& request, const Sizes& sizes, const xh_distill_params& params)
      : args_(request.args),
        s_(sizes),
        params_(params),
        inverse_(1.0f / params.temperature),
        tail_(params.mode == XH_KL_TAIL_BUCKET && sizes.k > 0),
        full_(params.mode == XH_KL_FULL_STUDENT && sizes.k > 0),
        parts_(Parts(request.threads, s_.m, 4 * s_.m * s_.v)) {
    implementation = "vector";
    classes_floats_ = (s_.k + 1 + 15) / 16 * 16;
    scratch_floats_ = 3 * classes_floats_ + (tail_ ? (s_.v + 15) / 16 * 16 : 0);
    scratch_ = Reserve(&workspace_bytes, parts_ * scratch_floats_ * 4);
    saved_bytes = request.pass == XH_INFER ? 0 : s_.m * 2 * 4;
  }

  struct Row {
    const T* logits;
    int32_t target;
    const float* values;  // of the teacher, null without one
    const int32_t* ids;
  };

  Row RowAt(const xh_tensor* args, int64_t m) const {
    Row row = {static_cast<const T*>(args[kLogits].data) + m * args_[kLogits].stride[0],
               static_cast<const int32_t*>(args[kTargets].data)[m], nullptr, nullptr};
    if (s_.k > 0) {
      row.values = static_cast<const float*>(args[kTeacherValues].data) + m * args_[kTeacherValues].stride[0];
      row.ids = static_cast<const int32_t*>(args[kTeacherIds].data) + m * args_[kTeacherIds].stride[0];
    }
    return row;
  }

  // Ids out of the vocabulary are refused before anything is written.
  void CheckIds(const xh_tensor* args) const {
    for (int64_t m = 0; m < s_.m; ++m) {
      const Row row = RowAt(args, m);
      if (row.target >= s_.v) Refuse("targets", m, row.target);
      for (int64_t j = 0; row.target >= 0 && j < s_.k; ++j) {
        if (row.ids[j] < 0 || row.ids[j] >= s_.v) Refuse("teacher_ids", m, row.ids[j]);
      }
    }
  }

  float* Scratch(void* workspace, int part) const { return At<float>(workspace, scratch_) + part * scratch_floats_; }

  // Scores of the row's ClassCount() classes in `p` and `q`, the student's plain logits at the teacher's ids in `l`
  // [k]. `second` is the mode's second normaliser.
  struct Norms {
    float p, q;
  };
  Norms Classes(const Row& row, float second, float* p, float* q, float* l) const {
    const int64_t k = s_.k;
    for (int64_t j = 0; j < k; ++j) {
      p[j] = row.values[j] * inverse_;
      l[j] = ToFloat(row.logits[row.ids[j]]);
      q[j] = l[j] * inverse_;
    }
    if (tail_) {
      double mass = 0.0;
      for (int64_t j = 0; j < k; ++j) mass += std::exp(static_cast<double>(row.values[j]));
      p[k] = mass >= 1.0 ? kNegativeInfinity : static_cast<float>(std::log1p(-mass)) * inverse_;
      q[k] = second * inverse_;
    }
    const int64_t classes = ClassCount();
    return {LogSumExp(p, classes, 1.0f), full_ ? second : LogSumExp(q, classes, 1.0f)};
  }
  int64_t ClassCount() const { return s_.k + (tail_ ? 1 : 0); }

  // log sum e^l over what is not in the teacher's ids. The ids are taken out of the row rather than their sum out of
  // the total, which would cancel when the rest is small.
  float RestOf(const Row& row, float* copy) const {
    ForLanes(s_.v, [&](int64_t i, auto lanes) { Put(copy + i, Get(row.logits + i, lanes), lanes); });
    for (int64_t j = 0; j < s_.k; ++j) copy[row.ids[j]] = kNegativeInfinity;
    return LogSumExp(copy, s_.v, 1.0f);
  }

  std::vector<xh_tensor> args_;
  Sizes s_;
  xh_distill_params params_;
  float inverse_;  // of the temperature
  bool tail_, full_;
  int parts_;
  int64_t classes_floats_ = 0, scratch_floats_ = 0;

 private:
  [[noreturn]] void Refuse(const char* name, int64_t m, int64_t id) const {
    throw RunError{XH_INVALID_ARGUMENT, std::string("DISTILL_LOSS: ") + name + "[" + std::to_string(m) + "] holds " +
                                            std::to_string(id) + ", allowed is 0 to " + std::to_string(s_.v - 1)};
  }

  int64_t scratch_ = 0;
};

template <class T>
class DistillForward final : public DistillPlan<T> {
  using Base = DistillPlan<T>;
  using Base::args_;
  using Base::s_;

 public:
  DistillForward(const Request& request, const Sizes& sizes, const xh_distill_params& params)
      : Base(request, sizes, params), save_(request.pass == XH_FORWARD) {}

  void Run(const xh_tensor* args, void* workspace, void* saved) const override {
    this->CheckIds(args);
    RunParts(this->parts_, s_.m, [&](int64_t first, int64_t last, int part) {
      float* const scratch = this->Scratch(workspace, part);
      for (int64_t m = first; m < last; ++m) {
        float* const losses = static_cast<float*>(args[kLosses].data) + m * args_[kLosses].stride[0];
        float norms[2] = {0.0f, 0.0f};
        const typename Base::Row row = this->RowAt(args, m);
        if (row.target < 0) {
          losses[0] = losses[1] = 0.0f;
        } else {
          Losses(row, scratch, losses, norms);
        }
        if (save_) std::copy(norms, norms + 2, static_cast<float*>(saved) + 2 * m);
      }
    });
  }

 private:
  void Losses(const typename Base::Row& row, float* scratch, float* losses, float* norms) const {
    float *const p = scratch, *const q = p + this->classes_floats_, *const l = q + this->classes_floats_;
    norms[0] = LogSumExp(row.logits, s_.v, 1.0f);
    losses[0] = norms[0] - ToFloat(row.logits[row.target]);
    losses[1] = 0.0f;
    if (s_.k == 0) return;
    if (this->full_) norms[1] = this->inverse_ == 1.0f ? norms[0] : LogSumExp(row.logits, s_.v, this->inverse_);
    if (this->tail_) norms[1] = this->RestOf(row, l + this->classes_floats_);
    const typename Base::Norms norm = this->Classes(row, norms[1], p, q, l);
    Vec kl = {};
    ForLanes(this->ClassCount(), [&](int64_t j, auto lanes) {
      const Vec log_p = Get(p + j, lanes) - norm.p, log_q = Get(q + j, lanes) - norm.q;
      const Vec probability = Exp(log_p);
      kl = kl + Keep(probability == 0.0f ? Vec{} : probability * (log_p - log_q), lanes);
    });
    losses[1] = Sum(kl);
  }

  bool save_;
};

template <class T>
class DistillBackward final : public DistillPlan<T> {
  using Base = DistillPlan<T>;
  using Base::args_;
  using Base::s_;

 public:
  DistillBackward(const Request& request, const Sizes& sizes, const xh_distill_params& params)
      : Base(request, sizes, params) {}

  void Run(const xh_tensor* args, void* workspace, void* saved) const override {
    if (!Present(args_[kDlogits])) return;
    this->CheckIds(args);
    const float scale = *static_cast<const float*>(args[kScale].data);
    RunParts(this->parts_, s_.m, [&](int64_t first, int64_t last, int part) {
      float* const scratch = this->Scratch(workspace, part);
      for (int64_t m = first; m < last; ++m) {
        T* const to = static_cast<T*>(args[kDlogits].data) + m * args_[kDlogits].stride[0];
        const typename Base::Row row = this->RowAt(args, m);
        if (row.target >= 0) {
          Gradient(row, scale, static_cast<const float*>(saved) + 2 * m, scratch, to);
        } else if (!Accumulates(args_[kDlogits])) {
          ForLanes(s_.v, [&](int64_t i, auto lanes) { Put(to + i, Vec{}, lanes); });
        }
      }
    });
  }

 private:
  // Every token gets its softmax terms; the target and the teacher's ids are written again with all their terms. What
  // is read at single ids is read first: `to` may be the logits themselves.
  void Gradient(const typename Base::Row& row, float scale, const float* norms, float* scratch, T* to) const {
    const bool add = Accumulates(args_[kDlogits]);
    const float ce = scale * this->params_.gamma;
    float* const at_ids = scratch + 2 * this->classes_floats_;
    const float target = ToFloat(row.logits[row.target]);
    const float target_before = add ? ToFloat(to[row.target]) : 0.0f;
    const Second second = s_.k == 0 ? Second{} : AtIds(row, scale, ce, norms, scratch, add ? to : nullptr);
    const float at_target =
        ce * (std::exp(target - norms[0]) - 1.0f) +
        (second.weight == 0.0f ? 0.0f : second.weight * std::exp(target * second.scale - second.norm));
    ForLanes(s_.v, [&](int64_t i, auto lanes) {
      const Vec l = Get(row.logits + i, lanes);
      Vec g = ce * Exp(l - norms[0]);
      if (second.weight != 0.0f) g = g + second.weight * Exp(l * second.scale - second.norm);
      PutGradient(to + i, g, add, lanes);
    });
    to[row.target] = FromFloat<T>(at_target + target_before);
    for (int64_t j = 0; j < s_.k; ++j) to[row.ids[j]] = FromFloat<T>(at_ids[j]);
  }

  // The second softmax of the dense part: weight e^(l scale - norm).
  struct Second {
    float weight = 0.0f, scale = 1.0f, norm = 0.0f;
  };

  // The whole gradient at the teacher's ids, added to `before` there, in the third array of the scratch.
  Second AtIds(const typename Base::Row& row, float scale, float ce, const float* norms, float* scratch,
               const T* before) const {
    float *const p = scratch, *const q = p + this->classes_floats_, *const l = q + this->classes_floats_;
    // beta times temperature^2, times 1 / temperature from the chain rule
    const float kl = scale * this->params_.beta * this->params_.temperature;
    const typename Base::Norms norm = this->Classes(row, norms[1], p, q, l);
    const float tail = this->tail_ ? std::exp(q[s_.k] - norm.q) - std::exp(p[s_.k] - norm.p) : 0.0f;
    ForLanes(s_.k, [&](int64_t j, auto lanes) {
      const Vec difference = Exp(Get(q + j, lanes) - norm.q) - Exp(Get(p + j, lanes) - norm.p);
      Put(l + j, ce * Exp(Get(l + j, lanes) - norms[0]) + kl * difference, lanes);
    });
    for (int64_t j = 0; j < s_.k; ++j) {
      if (row.ids[j] == row.target) l[j] -= ce;
      if (before != nullptr) l[j] += ToFloat(before[row.ids[j]]);
    }
    if (this->full_) return {kl, this->inverse_, norms[1]};
    if (this->tail_) return {kl * tail, 1.0f, norms[1]};
    return {};
  }
};

}  // namespace

Refusal OpenDistillLoss(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_distill_params params = {};
  const Refusal refusal = backend::CheckDistillLoss(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  const Sizes sizes = {dims['M'], dims['V'], std::max<int64_t>(dims['k'], 0)};
  WithType(dims.activation, [&](auto t) {
    using T = decltype(t);
    if (request.pass == XH_BACKWARD) {
      *out = std::make_unique<DistillBackward<T>>(request, sizes, params);
    } else {
      *out = std::make_unique<DistillForward<T>>(request, sizes, params);
    }
  });
  return {};
}

}  // namespace xh::cpu::XH_ISA
