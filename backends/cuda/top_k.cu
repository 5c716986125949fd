// TOP_K: the k largest of each row, in order, a block a row. Values become integer keys that order like them; the k-th
// key is found digit by digit from counts, what lies above it and the first of its equals are gathered, and sorted in
// shared memory. Of the largest alone, as greedy decoding asks for it, slices of a row are searched at once.
#include "backends/cuda/ops.h"
#include "backends/cuda/rows.cuh"

namespace xh::gpu {
namespace {

constexpr int kThreads = 512;
constexpr int kMostK = 8192;
constexpr int kMostDigits = 4096;  // of the first round: 12 bits of the key, then 10 and 10

// Orders like the value; -0 equals 0; NaN comes above everything, so that it is seen.
__device__ inline uint32_t KeyOf(float value) {
  if (value != value) return 0xffffffffu;
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Orders by key, and the lower id above the higher among equals.
__device__ inline uint64_t Candidate(uint32_t key, int64_t id) {
  return static_cast<uint64_t>(key) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}

__device__ inline int32_t IdOf(uint64_t candidate) {
  return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(candidate));
}

// body(id, key) for every element; N at a time.
template <class T, int N, class Body>
__device__ inline void ForKeys(const T* row, int64_t v, Body body) {
  for (int64_t i = static_cast<int64_t>(threadIdx.x) * N; i < v; i += kThreads * N) {
    float value[N];
    LoadPack<T, N>(row + i, value);
#pragma unroll
    for (int j = 0; j < N; ++j) body(i + j, KeyOf(value[j]));
  }
}

// The digit in which the k-th largest lies, and how many of the k are left within it. All threads call it.
__device__ inline void FindDigit(const int* counts, int digits, int k, int* digit, int* left, int* shared) {
  const int each = digits / kThreads, thread = static_cast<int>(threadIdx.x);
  int sum = 0;  // of this thread's digits, the largest first
  for (int i = 0; i < each; ++i) sum += counts[digits - 1 - (thread * each + i)];
  if (each == 0 && thread < digits) sum = counts[digits - 1 - thread];
  shared[thread] = sum;
  __syncthreads();
  for (int reach = 1; reach < kThreads; reach *= 2) {
    const int other = thread >= reach ? shared[thread - reach] : 0;
    __syncthreads();
    shared[thread] += other;
    __syncthreads();
  }
  int before = shared[thread] - sum;
  const int own = each == 0 ? (thread < digits ? 1 : 0) : each;
  for (int i = 0; i < own; ++i) {
    const int at = digits - 1 - (each == 0 ? thread : thread * each + i), count = counts[at];
    if (before < k && k <= before + count) {
      *digit = at;
      *left = k - before;
    }
    before += count;
  }
  __syncthreads();
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    TopKKernel(View<const T> logits, View<float> values, View<int32_t> ids, int64_t v, int k, int sorted) {
  extern __shared__ uint64_t chosen[];  // [sorted] candidates
  __shared__ int counts[kMostDigits], scan[kThreads], found[2], gathered;
  const int thread = static_cast<int>(threadIdx.x);
  const T* const row = logits.At(blockIdx.x);

  uint32_t prefix = 0;
  int left = k, known = 32;
  for (int round = 0; round < 3; ++round) {
    const int digits = round == 0 ? kMostDigits : 1024, shift = 20 - 10 * round;
    for (int i = thread; i < digits; i += kThreads) counts[i] = 0;
    __syncthreads();
    ForKeys<T, N>(row, v, [&](int64_t, uint32_t key) {
      if (known == 32 || key >> known == prefix >> known) atomicAdd(&counts[key >> shift & (digits - 1)], 1);
    });
    __syncthreads();
    FindDigit(counts, digits, left, &found[0], &found[1], scan);
    prefix |= static_cast<uint32_t>(found[0]) << shift;
    left = found[1];
    known = shift;
    __syncthreads();
  }

  // All above the k-th key in any order, and the first `left` that equal it.
  if (thread == 0) gathered = 0;
  for (int i = thread; i < sorted; i += kThreads) chosen[i] = 0;
  __syncthreads();
  int ties = 0;  // of the stretches before
  for (int64_t base = 0; base < v; base += kThreads * N) {
    const int64_t first = base + static_cast<int64_t>(thread) * N;
    float value[N];
    int equal = 0;
    if (first < v) {
      LoadPack<T, N>(row + first, value);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const uint32_t key = KeyOf(value[j]);
        equal += key == prefix;
        if (key > prefix) {
          chosen[atomicAdd(&gathered, 1)] = Candidate(key, first + j);
        }
      }
    }
    if (ties >= left || !__syncthreads_or(equal)) continue;
    scan[thread] = equal;
    __syncthreads();
    for (int reach = 1; reach < kThreads; reach *= 2) {
      const int other = thread >= reach ? scan[thread - reach] : 0;
      __syncthreads();
      scan[thread] += other;
      __syncthreads();
    }
    int place = ties + scan[thread] - equal;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (equal == 0 || KeyOf(value[j]) != prefix) continue;
      if (place < left) {
        chosen[k - left + place] = Candidate(prefix, first + j);
      }
      ++place;
    }
    ties += scan[kThreads - 1];
    __syncthreads();
  }
  __syncthreads();

  // Descending, and ids ascending among equals.
  for (int size = 2; size <= sorted; size *= 2) {
    for (int step = size / 2; step > 0; step /= 2) {
      for (int i = thread; i < sorted / 2; i += kThreads) {
        const int low = i / step * 2 * step + i % step, high = low + step;
        const bool descending = (low & size) == 0;
        const uint64_t a = chosen[low], b = chosen[high];
        if ((a < b) == descending) {
          chosen[low] = b;
          chosen[high] = a;
        }
      }
      __syncthreads();
    }
  }
  for (int i = thread; i < k; i += kThreads) {
    const int32_t id = IdOf(chosen[i]);
    ids.At(blockIdx.x)[i] = id;
    values.At(blockIdx.x)[i] = ToFloat(row[id]);
  }
}

// ---- the largest alone ----

// The largest of columns [x each, (x + 1) each) of row y.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    LargestOfSlice(View<const T> logits, uint64_t* largest, int64_t v, int64_t each, int slices) {
  __shared__ uint64_t of_warps[kThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x), slice = static_cast<int>(blockIdx.x) % slices;
  const int64_t m = static_cast<int>(blockIdx.x) / slices;
  LetNextBegin();
  WaitForEarlier();
  const T* const row = logits.At(m);
  const int64_t first = slice * each, last = first + each < v ? first + each : v;
  uint64_t best = 0;
  for (int64_t i = first + static_cast<int64_t>(thread) * N; i < last; i += kThreads * N) {
    float value[N];
    LoadPack<T, N>(row + i, value);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const uint64_t one = Candidate(KeyOf(value[j]), i + j);
      best = one > best ? one : best;
    }
  }
  best = BlockMax(best, of_warps);
  if (thread == 0) largest[blockIdx.x] = best;
}

// A warp a row.
template <class T>
__global__ void __launch_bounds__(kWarp)
    LargestOfRow(View<const T> logits, const uint64_t* largest, int slices, View<float> values, View<int32_t> ids) {
  LetNextBegin();
  WaitForEarlier();
  uint64_t best = 0;
  for (int s = static_cast<int>(threadIdx.x); s < slices; s += kWarp) {
    const uint64_t one = largest[static_cast<int64_t>(blockIdx.x) * slices + s];
    best = one > best ? one : best;
  }
  best = WarpMax(best);
  if (threadIdx.x != 0) return;
  const int32_t id = IdOf(best);
  ids.At(blockIdx.x)[0] = id;
  values.At(blockIdx.x)[0] = ToFloat(logits.At(blockIdx.x)[id]);
}

template <class T>
class LargestPlan final : public Plan {
 public:
  LargestPlan(const Dims& dims, const Facts& facts) : m_(dims['M']), v_(dims['V']) {
    constexpr int64_t kStep = kThreads * kPack<T>;
    const int64_t most = std::max<int64_t>(1, facts.multiprocessors / std::max<int64_t>(m_, 1));
    const int64_t steps = (v_ + kStep - 1) / kStep, slices = std::min(most, steps);
    each_ = (steps + slices - 1) / slices * kStep;
    slices_ = static_cast<int>((v_ + each_ - 1) / each_);
    largest_ = Reserve(&workspace_bytes, m_ * slices_, sizeof(uint64_t));
    implementation = "slices";
  }
  void Run(const Launch& launch) const override {
    if (m_ == 0) return;
    MovesInPacks(launch.args[0]) ? Find<kPack<T>>(launch) : Find<1>(launch);
  }

 private:
  template <int N>
  void Find(const Launch& launch) const {
    uint64_t* const largest = Part<uint64_t>(launch.workspace, largest_);
    const auto rows = static_cast<unsigned>(m_);
    const View<const T> logits = ViewOf<const T>(launch.args[0]);
    LaunchEarly(launch, LargestOfSlice<T, N>, rows * static_cast<unsigned>(slices_), kThreads, 0, logits, largest, v_,
                each_, slices_);
    LaunchEarly(launch, LargestOfRow<T>, rows, kWarp, 0, logits, static_cast<const uint64_t*>(largest), slices_,
                ViewOf<float>(launch.args[1]), ViewOf<int32_t>(launch.args[2]));
  }

  int64_t m_, v_, each_ = 0, largest_ = 0;
  int slices_ = 1;
};

template <class T>
class TopKPlan final : public Plan {
 public:
  TopKPlan(const Dims& dims) : m_(dims['M']), v_(dims['V']), k_(static_cast<int>(dims['k'])) {
    while (sorted_ < k_) sorted_ *= 2;
    implementation = "radix";
  }
  static Refusal Allow(const Facts& facts) {
    Refusal refusal = AllowShared(TopKKernel<T, kPack<T>>, kMostK * 8, facts);
    if (refusal.code == 0) refusal = AllowShared(TopKKernel<T, 1>, kMostK * 8, facts);
    return refusal;
  }

  void Run(const Launch& launch) const override {
    if (m_ == 0) return;
    MovesInPacks(launch.args[0]) ? Select<kPack<T>>(launch) : Select<1>(launch);
  }

 private:
  template <int N>
  void Select(const Launch& launch) const {
    TopKKernel<T, N><<<static_cast<unsigned>(m_), kThreads, sorted_ * 8, launch.stream>>>(
        ViewOf<const T>(launch.args[0]), ViewOf<float>(launch.args[1]), ViewOf<int32_t>(launch.args[2]), v_, k_,
        sorted_);
  }

  int64_t m_, v_;
  int k_, sorted_ = 1;
};

}  // namespace

Refusal OpenTopK(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_top_k_params params = {};
  Refusal refusal = backend::CheckTopK(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  if (params.top_k > kMostK) {
    return Unsupported("TOP_K: top_k is " + std::to_string(params.top_k) + ", at most " + std::to_string(kMostK) +
                       " are handled");
  }
  WithType(request.args[0].dtype, [&](auto t) {
    using T = decltype(t);
    if (params.top_k == 1) {
      *out = std::make_unique<LargestPlan<T>>(dims, *request.facts);
      return;
    }
    refusal = TopKPlan<T>::Allow(*request.facts);
    if (refusal.code == 0) *out = std::make_unique<TopKPlan<T>>(dims);
  });
  return refusal;
}

}  // namespace xh::gpu
