// DISTILL_LOSS (SPEC.md 4): cross entropy, and KL(teacher || student) on the teacher's top k; a block a row.
//
// With l the student's logits, s the temperature, p the teacher's and q the student's distribution over the classes of
// the mode, d KL / d l_j = (q_j - p_j) / s on a class that is one token.
//   RENORMALIZED  classes: the k ids. p = softmax(values / s), q = softmax(l[ids] / s).
//   FULL_STUDENT  classes: the vocabulary, p as above and 0 elsewhere, q = softmax(l / s).
//   TAIL_BUCKET   classes: the k ids and the rest as one: the teacher's score of it is log(1 - sum e^values), the
//                 student's log sum e^l over the rest; s divides the k + 1 scores of both. A token of the rest gets its
//                 share e^(l_j - rest) of that class's gradient.
// FORWARD saves, for each row, log sum e^l and the mode's second normaliser: log sum e^(l / s) over the vocabulary for
// FULL_STUDENT, log sum e^l over the rest for TAIL_BUCKET.
#include "backends/cuda/ops.h"
#include "backends/cuda/rows.cuh"

namespace xh::gpu {
namespace {

constexpr int kThreads = 512;
constexpr int kMostK = 4096;
constexpr int64_t kMostTailVocabulary = 1 << 20;  // a bit a token in shared memory

template <class T>
struct DistillArguments {
  View<const T> logits;
  const int32_t* targets;
  View<const float> values;
  View<const int32_t> ids;
  const float* scale;
  View<float> losses;
  View<T> dlogits;
  float* norms;  // [M,2]: saved
  int64_t v;
  int k;
  xh_kl_mode mode;
  float gamma, beta, temperature;
  bool adds;
  FaultSink fault;
};

// In shared memory: scores of the classes.
struct Classes {
  float *p, *q, *l;  // [k + 1], [k + 1], [k]
  uint32_t* listed;  // bit i: token i is among the teacher's ids; TAIL_BUCKET only
  float* scratch;    // one a warp
};

__host__ __device__ inline int64_t ListedWords(xh_kl_mode mode, int k, int64_t v) {
  return mode == XH_KL_TAIL_BUCKET && k > 0 ? (v + 31) / 32 : 0;
}
__device__ inline Classes Place(char* shared, int k) {
  float* const floats = reinterpret_cast<float*>(shared);
  const int each = k + 1;
  return {floats, floats + each, floats + 2 * each, reinterpret_cast<uint32_t*>(floats + 3 * each + kThreads / 32),
          floats + 3 * each};
}

// log sum e^(scale x_i) over i of [0, n), x(i) = -inf for what does not count. All threads.
template <class X>
__device__ inline float LogSumExp(int64_t n, X x, float* scratch) {
  float most = -kInfinity, sum = 0.0f;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const float value = x(i);
    if (value > most) {
      sum = sum * __expf(most - value) + 1.0f;
      most = value;
    } else if (value == value) {
      sum += value == -kInfinity ? 0.0f : __expf(value - most);
    } else {
      sum = value;
    }
  }
  const float all = BlockMax(most, scratch);
  const float part = most == -kInfinity ? sum : sum * __expf(most - all);
  sum = BlockSum(part, scratch);
  return all == -kInfinity && sum == 0.0f ? all : all + logf(sum);
}

// Whether every id of the row is in the vocabulary; the same answer for all threads.
template <class T>
__device__ inline bool CheckRow(const DistillArguments<T>& a, int64_t row, int target) {
  bool bad = false;
  if (target >= a.v) {
    bad = true;
    if (threadIdx.x == 0) Report(a.fault, FaultKind::kTarget, row, -1, target, 0, a.v - 1);
  }
  for (int j = static_cast<int>(threadIdx.x); target >= 0 && j < a.k; j += kThreads) {
    const int id = a.ids.At(row)[j];
    if (id >= 0 && id < a.v) continue;
    bad = true;
    Report(a.fault, FaultKind::kTeacherId, row, -1, id, 0, a.v - 1);
  }
  return __syncthreads_or(bad) == 0;
}

template <class T>
__device__ inline bool HasTail(const DistillArguments<T>& a) {
  return a.mode == XH_KL_TAIL_BUCKET && a.k > 0;
}
template <class T>
__device__ inline bool IsFull(const DistillArguments<T>& a) {
  return a.mode == XH_KL_FULL_STUDENT && a.k > 0;
}

// Fills the scores; `second` is the mode's second normaliser. Returns the logs of both sides' sums.
template <class T>
__device__ inline float2 FillClasses(const DistillArguments<T>& a, int64_t row, float second, const Classes& c) {
  const float inverse = 1.0f / a.temperature;
  const T* const logits = a.logits.At(row);
  for (int j = static_cast<int>(threadIdx.x); j < a.k; j += kThreads) {
    const float value = a.values.At(row)[j], logit = ToFloat(logits[a.ids.At(row)[j]]);
    c.p[j] = value * inverse;
    c.l[j] = logit;
    c.q[j] = logit * inverse;
  }
  const int classes = a.k + (HasTail(a) ? 1 : 0);
  if (HasTail(a)) {
    // In double: the rest may be small.
    double exact = 0.0;
    if (threadIdx.x == 0) {
      for (int j = 0; j < a.k; ++j) exact += exp(static_cast<double>(a.values.At(row)[j]));
      c.p[a.k] = exact >= 1.0 ? -kInfinity : static_cast<float>(log1p(-exact)) * inverse;
      c.q[a.k] = second * inverse;
    }
  }
  __syncthreads();
  const float p = LogSumExp(
      classes, [&](int64_t i) { return c.p[i]; }, c.scratch);
  const float q = IsFull(a) ? second
                            : LogSumExp(
                                  classes, [&](int64_t i) { return c.q[i]; }, c.scratch);
  return {p, q};
}

template <class T>
__device__ inline void ListIds(const DistillArguments<T>& a, int64_t row, uint32_t* listed) {
  for (int64_t i = threadIdx.x; i < ListedWords(a.mode, a.k, a.v); i += kThreads) listed[i] = 0;
  __syncthreads();
  for (int j = static_cast<int>(threadIdx.x); j < a.k; j += kThreads) {
    const uint32_t id = static_cast<uint32_t>(a.ids.At(row)[j]);
    atomicOr(&listed[id / 32], 1u << id % 32);
  }
  __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(kThreads) DistillForward(const DistillArguments<T> a) {
  extern __shared__ char shared[];
  const Classes c = Place(shared, a.k);
  const int64_t row = blockIdx.x;
  const int target = a.targets[row];
  const bool valid = CheckRow(a, row, target);
  float* const losses = a.losses.At(row);
  if (target < 0 || !valid) {
    if (threadIdx.x == 0) {
      losses[0] = losses[1] = 0.0f;
      if (a.norms != nullptr) a.norms[2 * row] = a.norms[2 * row + 1] = 0.0f;
    }
    return;
  }
  const T* const logits = a.logits.At(row);
  const float norm = LogSumExp(
      a.v, [&](int64_t i) { return ToFloat(logits[i]); }, c.scratch);
  float second = 0.0f, kl = 0.0f;
  if (a.k > 0) {
    if (IsFull(a)) {
      const float inverse = 1.0f / a.temperature;
      second = LogSumExp(
          a.v, [&](int64_t i) { return ToFloat(logits[i]) * inverse; }, c.scratch);
    }
    if (HasTail(a)) {
      // The ids are left out rather than taken off the total, which would cancel when the rest is small.
      ListIds(a, row, c.listed);
      second = LogSumExp(
          a.v, [&](int64_t i) { return c.listed[i / 32] >> i % 32 & 1 ? -kInfinity : ToFloat(logits[i]); }, c.scratch);
    }
    const float2 norms = FillClasses(a, row, second, c);
    for (int j = static_cast<int>(threadIdx.x); j < a.k + (HasTail(a) ? 1 : 0); j += kThreads) {
      const float log_p = c.p[j] - norms.x, log_q = c.q[j] - norms.y, p = expf(log_p);
      if (p != 0.0f) kl += p * (log_p - log_q);
    }
    kl = BlockSum(kl, c.scratch);
  }
  if (threadIdx.x != 0) return;
  losses[0] = norm - ToFloat(logits[target]);
  losses[1] = kl;
  if (a.norms == nullptr) return;
  a.norms[2 * row] = norm;
  a.norms[2 * row + 1] = second;
}

// Every token gets its softmax terms; the target and the teacher's ids are written again with all their terms. What is
// read at single ids is read first: dlogits may be the logits themselves.
template <class T>
__global__ void __launch_bounds__(kThreads) DistillBackward(const DistillArguments<T> a) {
  extern __shared__ char shared[];
  const Classes c = Place(shared, a.k);
  const int64_t row = blockIdx.x;
  const int target = a.targets[row];
  T* const to = a.dlogits.At(row);
  if (!CheckRow(a, row, target)) return;
  if (target < 0) {
    for (int64_t i = threadIdx.x; i < a.v && !a.adds; i += kThreads) to[i] = FromFloat<T>(0.0f);
    return;
  }
  const T* const logits = a.logits.At(row);
  const float scale = *a.scale, ce = scale * a.gamma, norm = a.norms[2 * row], second = a.norms[2 * row + 1];
  // beta times temperature^2, times 1 / temperature from the chain rule
  const float weight = scale * a.beta * a.temperature;
  float dense = 0.0f, dense_scale = 1.0f;  // the second softmax of the dense part
  if (a.k > 0) {
    const float2 norms = FillClasses(a, row, second, c);
    const float tail = HasTail(a) ? expf(c.q[a.k] - norms.y) - expf(c.p[a.k] - norms.x) : 0.0f;
    for (int j = static_cast<int>(threadIdx.x); j < a.k; j += kThreads) {
      const int id = a.ids.At(row)[j];
      const float difference = expf(c.q[j] - norms.y) - expf(c.p[j] - norms.x);
      float value = ce * expf(c.l[j] - norm) + weight * difference;
      if (id == target) value -= ce;
      if (a.adds) value += ToFloat(to[id]);
      c.l[j] = value;
    }
    if (IsFull(a)) {
      dense = weight;
      dense_scale = 1.0f / a.temperature;
    }
    if (HasTail(a)) dense = weight * tail;
  }
  const float logit = ToFloat(logits[target]);
  float at_target = ce * (expf(logit - norm) - 1.0f) + (a.adds ? ToFloat(to[target]) : 0.0f);
  if (dense != 0.0f) at_target += dense * expf(logit * dense_scale - second);
  __syncthreads();
  for (int64_t i = threadIdx.x; i < a.v; i += kThreads) {
    const float l = ToFloat(logits[i]);
    float gradient = ce * expf(l - norm);
    if (dense != 0.0f) gradient += dense * expf(l * dense_scale - second);
    PutGradient(to + i, gradient, a.adds);
  }
  __syncthreads();
  if (threadIdx.x == 0) to[target] = FromFloat<T>(at_target);
  __syncthreads();
  for (int j = static_cast<int>(threadIdx.x); j < a.k; j += kThreads) to[a.ids.At(row)[j]] = FromFloat<T>(c.l[j]);
}

template <class T>
class DistillPlan final : public Plan {
 public:
  DistillPlan(const Request& request, const Dims& dims, const xh_distill_params& params)
      : pass_(request.pass), m_(dims['M']) {
    a_.v = dims['V'];
    a_.k = static_cast<int>(std::max<int64_t>(dims['k'], 0));
    a_.mode = params.mode;
    a_.gamma = params.gamma;
    a_.beta = params.beta;
    a_.temperature = params.temperature;
    a_.adds = pass_ == XH_BACKWARD && Accumulates(request.args[kDlogits]);
    shared_ = static_cast<int>((3 * (a_.k + 1) + kThreads / 32 + ListedWords(a_.mode, a_.k, a_.v)) * 4);
    if (pass_ != XH_INFER) Reserve(&saved_bytes, m_ * 2, 4);
    implementation = "row";
  }
  // The kernels are let use as much as the device has: what one plan needs must not take from another.
  Refusal Allow(const Facts& facts) const {
    if (shared_ > facts.shared_bytes) {
      return Unsupported("DISTILL_LOSS: a row needs " + std::to_string(shared_) +
                         " bytes of shared memory, this device has " + std::to_string(facts.shared_bytes));
    }
    Refusal refusal = AllowShared(DistillForward<T>, facts.shared_bytes, facts);
    if (refusal.code == 0) refusal = AllowShared(DistillBackward<T>, facts.shared_bytes, facts);
    return refusal;
  }

  void Run(const Launch& launch) const override {
    if (m_ == 0) return;
    const xh_tensor* const args = launch.args;
    DistillArguments<T> a = a_;
    a.logits = ViewOf<const T>(args[kLogits]);
    a.targets = static_cast<const int32_t*>(args[kTargets].data);
    a.values = ViewOf<const float>(args[kTeacherValues]);
    a.ids = ViewOf<const int32_t>(args[kTeacherIds]);
    a.scale = static_cast<const float*>(args[kScale].data);
    a.norms = saved_bytes > 0 ? Part<float>(launch.saved, 0) : nullptr;
    a.fault = launch.fault;
    const unsigned rows = static_cast<unsigned>(m_);
    if (pass_ != XH_BACKWARD) {
      a.losses = ViewOf<float>(args[kLosses]);
      DistillForward<T><<<rows, kThreads, shared_, launch.stream>>>(a);
    } else if (Present(args[kDlogits])) {
      a.dlogits = ViewOf<T>(args[kDlogits]);
      DistillBackward<T><<<rows, kThreads, shared_, launch.stream>>>(a);
    }
  }

 private:
  enum { kLogits, kTargets, kTeacherValues, kTeacherIds, kScale, kLosses, kDlosses, kDlogits };
  xh_pass pass_;
  int64_t m_;
  DistillArguments<T> a_ = {};
  int shared_;
};

}  // namespace

Refusal OpenDistillLoss(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_distill_params params = {};
  Refusal refusal = backend::CheckDistillLoss(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  if (dims['k'] > kMostK) {
    return Unsupported("DISTILL_LOSS: the teacher has " + std::to_string(dims['k']) + " ids a row, at most " +
                       std::to_string(kMostK) + " are handled");
  }
  if (params.mode == XH_KL_TAIL_BUCKET && dims['V'] > kMostTailVocabulary) {
    return Unsupported("DISTILL_LOSS: TAIL_BUCKET with a vocabulary of " + std::to_string(dims['V']) + ", at most " +
                       std::to_string(kMostTailVocabulary) + " is handled");
  }
  WithType(dims.activation, [&](auto t) {
    using T = decltype(t);
    auto plan = std::make_unique<DistillPlan<T>>(request, dims, params);
    refusal = plan->Allow(*request.facts);
    if (refusal.code == 0) *out = std::move(plan);
  });
  return refusal;
}

}  // namespace xh::gpu
