// TOP_K: the k largest of each row. A row is compared with the k-th largest value so far, a vector at a time; the few
// elements above it are collected and cut back to k when the buffer is full.
#include <algorithm>
#include <cstring>
#include <functional>

#include "backends/cpu/arguments.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows.h"

namespace xh::cpu::XH_ISA {
namespace {

enum { kLogits, kValues, kIds };

// Larger keys come first: by value, NaN above everything so that it is seen, then by lower id.
uint64_t KeyOf(float value, int64_t id) {
  uint32_t bits = 0;
  const float canonical = value + 0.0f;  // -0 ties with 0
  std::memcpy(&bits, &canonical, sizeof(bits));
  bits = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  if (value != value) bits = 0xffffffffu;
  return static_cast<uint64_t>(bits) << 32 | static_cast<uint32_t>(~static_cast<uint32_t>(id));
}
int64_t IdOf(uint64_t key) { return static_cast<uint32_t>(~static_cast<uint32_t>(key)); }

bool AnyLane(IVec mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(mask), reinterpret_cast<__m512i>(mask)) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps(reinterpret_cast<__m256>(mask)) != 0;
#else
  return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}

template <class T>
class TopKPlan final : public Plan {
 public:
  TopKPlan(const Request& request, const Dims& dims)
      : args_(request.args), m_(dims['M']), v_(dims['V']), k_(dims['k']) {
    parts_ = Parts(request.threads, m_, m_ * v_);
    capacity_ = std::min(v_, std::max<int64_t>(4 * k_, 512));
    buffers_ = Reserve(&workspace_bytes, parts_ * capacity_ * 8);
    implementation = "threshold";
  }

  void Run(const xh_tensor* args, void* workspace, void*) const override {
    uint64_t* const buffers = At<uint64_t>(workspace, buffers_);
    RunParts(parts_, m_, [&](int64_t first, int64_t last, int part) {
      for (int64_t m = first; m < last; ++m) {
        const T* const row = static_cast<const T*>(args[kLogits].data) + m * args_[kLogits].stride[0];
        uint64_t* const keys = buffers + part * capacity_;
        Select(row, keys);
        float* const values = static_cast<float*>(args[kValues].data) + m * args_[kValues].stride[0];
        int32_t* const ids = static_cast<int32_t*>(args[kIds].data) + m * args_[kIds].stride[0];
        for (int64_t j = 0; j < k_; ++j) {
          ids[j] = static_cast<int32_t>(IdOf(keys[j]));
          values[j] = ToFloat(row[ids[j]]);
        }
      }
    });
  }

 private:
  // The first k keys of the row, in order, at the front of `keys`.
  void Select(const T* row, uint64_t* keys) const {
    constexpr int64_t kStep = 4 * kLanes;
    int64_t count = 0, i = 0;
    for (; i < capacity_; ++i) keys[count++] = KeyOf(ToFloat(row[i]), i);
    float least = Cut(row, keys, &count);
    for (; i + kStep <= v_; i += kStep) {
      IVec above = {};
      for (int j = 0; j < 4; ++j) above |= ~(Load(row + i + j * kLanes) <= least);
      if (!AnyLane(above)) continue;
      for (int64_t j = i; j < i + kStep; ++j) Consider(row, j, &least, keys, &count);
    }
    for (; i < v_; ++i) Consider(row, i, &least, keys, &count);
    Cut(row, keys, &count);
    std::sort(keys, keys + k_, std::greater<uint64_t>());
  }

  void Consider(const T* row, int64_t id, float* least, uint64_t* keys, int64_t* count) const {
    const float value = ToFloat(row[id]);
    if (value <= *least) return;  // an equal value has a higher id than those kept
    if (*count == capacity_) *least = Cut(row, keys, count);
    keys[(*count)++] = KeyOf(value, id);
  }

  // Keeps the k largest keys and returns the least of their values.
  float Cut(const T* row, uint64_t* keys, int64_t* count) const {
    std::nth_element(keys, keys + k_ - 1, keys + *count, std::greater<uint64_t>());
    *count = k_;
    return ToFloat(row[IdOf(keys[k_ - 1])]);
  }

  std::vector<xh_tensor> args_;
  int64_t m_, v_, k_, capacity_ = 0;
  int parts_ = 1;
  int64_t buffers_ = 0;
};

}  // namespace

Refusal OpenTopK(const Request& request, std::unique_ptr<Plan>* out) {
  Dims dims;
  Refusal refusal = RequireInfer("TOP_K", request);
  if (refusal.code != 0) return refusal;
  refusal = CheckArguments("TOP_K", request, {{"logits", "MV", Type::kFloat, 0}},
                           {{"values", "Mk", Type::kF32, 0}, {"ids", "Mk", Type::kI32, 0}}, &dims);
  if (refusal.code != 0) return refusal;
  xh_top_k_params params = {};
  refusal = Params("TOP_K", request, &params);
  if (refusal.code != 0) return refusal;
  if (params.top_k != dims['k'] || params.top_k < 1 || params.top_k > dims['V']) {
    return Invalid("TOP_K: top_k is " + std::to_string(params.top_k) + ", values has " + std::to_string(dims['k']) +
                   " columns and logits " + std::to_string(dims['V']) + "; allowed is 1 to V, equal to the columns");
  }
  if (dims['V'] > INT32_MAX) return Invalid("TOP_K: V is " + std::to_string(dims['V']) + ", ids are i32");
  WithType(request.args[kLogits].dtype, [&](auto t) { *out = std::make_unique<TopKPlan<decltype(t)>>(request, dims); });
  return {};
}

}  // namespace xh::cpu::XH_ISA
