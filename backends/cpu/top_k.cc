// TOP_K: the k largest of each row, in order. Candidates are kept as integer keys that order like the floats, in the
// order of their ids. A threshold is found by counting keys above a guess, a vector at a time, and bisecting; the rest
// of a long row is compared with that threshold, and only what exceeds it joins the candidates.
#include <algorithm>
#include <cstring>

#include "backends/cpu/ops.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"

namespace xh::cpu::XH_ISA {
namespace {

enum { kLogits, kValues, kIds };

// Keys order like values; -0 equals 0; NaN comes above everything, so that it is seen.
constexpr int32_t kNanKey = INT32_MAX;

IVec KeysOf(Vec v) {
  const IVec bits = reinterpret_cast<IVec>(v + 0.0f);
  const IVec keys = bits ^ ((bits >> 31) & 0x7fffffff);
  return v != v ? IVec{} + kNanKey : keys;
}
int32_t KeyOf(float value) {
  int32_t bits = 0;
  const float canonical = value + 0.0f;
  std::memcpy(&bits, &canonical, sizeof(bits));
  return value != value ? kNanKey : bits ^ ((bits >> 31) & 0x7fffffff);
}

IVec LoadKeys(const int32_t* p) {
  IVec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

bool AnyLane(IVec mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(mask), reinterpret_cast<__m512i>(mask)) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps(reinterpret_cast<__m256>(mask)) != 0;
#else
  return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}

// Candidates of one row, in the order of their ids.
struct Candidates {
  int32_t* keys;
  int32_t* ids;
  int64_t count;
};

int64_t CountAbove(const Candidates& c, int32_t threshold) {
  IVec count = {};
  int64_t i = 0;
  for (; i + kLanes <= c.count; i += kLanes) count -= LoadKeys(c.keys + i) > threshold;
  int64_t total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += count[lane];
  for (; i < c.count; ++i) total += c.keys[i] > threshold ? 1 : 0;
  return total;
}

// Drops candidates that cannot be among the k largest and keeps at most k + slack. Returns the threshold: nothing that
// comes later and is not above it can be among them either.
int32_t Cut(Candidates* c, int64_t k, int64_t slack) {
  int64_t low = INT32_MIN, high = INT32_MAX;  // k or more keys are above low, fewer than k above high
  bool exact = true;
  while (exact && high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    const int64_t above = CountAbove(*c, static_cast<int32_t>(middle));
    (above >= k ? low : high) = middle;
    exact = above < k || above > k + slack;
  }
  // All keys above `low` are kept; or `high` is the k-th key itself, and the first of its equals fill up.
  const int32_t threshold = static_cast<int32_t>(exact ? high : low);
  int64_t ties = exact ? k - CountAbove(*c, threshold) : 0;
  int64_t kept = 0;
  for (int64_t i = 0; i < c->count; ++i) {
    const int32_t key = c->keys[i];
    const bool tie = key == threshold && ties > 0;
    ties -= tie ? 1 : 0;
    c->keys[kept] = key;
    c->ids[kept] = c->ids[i];
    kept += key > threshold || tie ? 1 : 0;
  }
  c->count = kept;
  return threshold;
}

// Sorts by descending key and keeps the order of equal ones: four passes of a radix sort between the two arrays.
void SortDescending(Candidates* from, Candidates* other) {
  Candidates *a = from, *b = other;
  for (int shift = 0; shift < 32; shift += 8) {
    int32_t places[256] = {};
    const auto digit = [&](int32_t key) {
      return (~(static_cast<uint32_t>(key) ^ 0x80000000u) >> shift) & 255u;  // ascending digits of descending keys
    };
    for (int64_t i = 0; i < a->count; ++i) ++places[digit(a->keys[i])];
    int32_t next = 0;
    for (int32_t& place : places) {
      const int32_t size = place;
      place = next;
      next += size;
    }
    for (int64_t i = 0; i < a->count; ++i) {
      const int32_t place = places[digit(a->keys[i])]++;
      b->keys[place] = a->keys[i];
      b->ids[place] = a->ids[i];
    }
    b->count = a->count;
    std::swap(a, b);
  }
}

template <class T>
class TopKPlan final : public Plan {
 public:
  TopKPlan(const Request& request, const Dims& dims)
      : args_(request.args), m_(dims['M']), v_(dims['V']), k_(dims['k']), slack_(k_ / 4) {
    parts_ = Parts(request.threads, m_, m_ * v_);
    full_ = std::max<int64_t>(4 * k_, 1024);
    capacity_ = RoundUp(std::max(std::min(v_, std::max(kFirst, full_)), k_ + slack_));
    arrays_ = Reserve(&workspace_bytes, parts_ * 4 * capacity_ * 4);
    implementation = "threshold";
  }

  void Run(const xh_tensor* args, void* workspace, void*) const override {
    RunParts(parts_, m_, [&](int64_t first, int64_t last, int part) {
      int32_t* const arrays = At<int32_t>(workspace, arrays_) + part * 4 * capacity_;
      Candidates found = {arrays, arrays + capacity_, 0}, spare = {arrays + 2 * capacity_, arrays + 3 * capacity_, 0};
      for (int64_t m = first; m < last; ++m) {
        const T* const row = static_cast<const T*>(args[kLogits].data) + m * args_[kLogits].stride[0];
        if (k_ == 1) {
          found.ids[0] = Largest(row);
        } else {
          Select(row, &found);
          SortDescending(&found, &spare);
        }
        float* const values = static_cast<float*>(args[kValues].data) + m * args_[kValues].stride[0];
        int32_t* const ids = static_cast<int32_t*>(args[kIds].data) + m * args_[kIds].stride[0];
        for (int64_t j = 0; j < k_; ++j) {
          ids[j] = found.ids[j];
          values[j] = ToFloat(row[found.ids[j]]);
        }
      }
    });
  }

 private:
  static constexpr int64_t kFirst = 8192;  // elements that become candidates without a threshold

  static int64_t RoundUp(int64_t n) { return (n + 15) / 16 * 16; }

  // The first of the largest: what greedy decoding asks for.
  int32_t Largest(const T* row) const {
    IVec largest = IVec{} + INT32_MIN;
    int64_t i = 0;
    for (; i + kLanes <= v_; i += kLanes) {
      const IVec keys = KeysOf(Load(row + i));
      largest = keys > largest ? keys : largest;
    }
    int32_t key = INT32_MIN;
    for (int lane = 0; lane < kLanes; ++lane) key = std::max<int32_t>(key, largest[lane]);
    for (; i < v_; ++i) key = std::max(key, KeyOf(ToFloat(row[i])));
    for (i = 0; i + kLanes <= v_ && !AnyLane(KeysOf(Load(row + i)) == key); i += kLanes) {
    }
    while (KeyOf(ToFloat(row[i])) != key) ++i;
    return static_cast<int32_t>(i);
  }

  // Between k and k + slack candidates that hold the k largest.
  void Select(const T* row, Candidates* c) const {
    const int64_t start = std::min(v_, std::max(kFirst, full_));
    int64_t i = 0;
    for (; i + kLanes <= start; i += kLanes) {
      const IVec keys = KeysOf(Load(row + i));
      std::memcpy(c->keys + i, &keys, sizeof(keys));
    }
    for (; i < start; ++i) c->keys[i] = KeyOf(ToFloat(row[i]));
    for (int64_t j = 0; j < start; ++j) c->ids[j] = static_cast<int32_t>(j);
    c->count = start;
    int32_t threshold = Cut(c, k_, slack_);
    constexpr int64_t kStep = 4 * kLanes;
    for (; i + kStep <= v_; i += kStep) {
      IVec above[4], any = {};
      for (int j = 0; j < 4; ++j) any |= above[j] = KeysOf(Load(row + i + j * kLanes)) > threshold;
      if (!AnyLane(any)) continue;
      for (int j = 0; j < 4; ++j) {
        if (AnyLane(above[j])) Consider(row, i + j * kLanes, kLanes, &threshold, c);
      }
    }
    Consider(row, i, v_ - i, &threshold, c);
    if (c->count > k_ + slack_) Cut(c, k_, slack_);
  }

  void Consider(const T* row, int64_t first, int64_t n, int32_t* threshold, Candidates* c) const {
    if (c->count + n > full_) *threshold = Cut(c, k_, slack_);
    for (int64_t id = first; id < first + n; ++id) {
      const int32_t key = KeyOf(ToFloat(row[id]));
      if (key <= *threshold) continue;  // an equal one has a higher id than those kept
      c->keys[c->count] = key;
      c->ids[c->count++] = static_cast<int32_t>(id);
    }
  }

  std::vector<xh_tensor> args_;
  int64_t m_, v_, k_, slack_, full_ = 0, capacity_ = 0;
  int parts_ = 1;
  int64_t arrays_ = 0;
};

}  // namespace

Refusal OpenTopK(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  xh_top_k_params params = {};
  const Refusal refusal = backend::CheckTopK(request, &dims, &params);
  if (refusal.code != 0) return refusal;
  WithType(request.args[kLogits].dtype, [&](auto t) { *out = std::make_unique<TopKPlan<decltype(t)>>(request, dims); });
  return {};
}

}  // namespace xh::cpu::XH_ISA
