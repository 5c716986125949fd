// TIES: trim, elect sign, merge what agrees (arXiv 2306.01708). d_i = x_i - b.
//   trim:  d_i keeps its k = floor(density n) elements of largest magnitude (at least one), the others become 0;
//   elect: s = sign(sum_i w_i d_i), +1 where the sum is 0;
//   merge: D = the sum of those w_i d_i whose sign is s, divided by their weights' sum when normalised;
//   y = b + lambda D.
#include <cstdint>

#include "merge_plugin.h"

namespace {

// Which elements of one task vector stay: those of a larger magnitude than `magnitude`, and those of this very
// magnitude up to index `last`. So exactly k stay whatever is equal, and no tile needs to know another.
struct Trim {
  uint32_t magnitude = 0;  // bits of a non-negative float, which are ordered as the floats are
  int64_t last = -1;
};

}  // namespace

struct xh_merge {
  std::vector<double> weights;
  double density = 1;
  double lambda = 1;
  bool normalize = true;
  std::vector<Trim> trims;         // of the tensor in hand, one a model
  std::vector<int64_t> histogram;  // scratch of observe
};

namespace {

using xh_merges::Guard;

constexpr double kMostLambda = 1e6;
constexpr int kHalfBits = 16;
constexpr uint32_t kLowHalf = (1u << kHalfBits) - 1;

constexpr char kSchema[] = R"json({"options": [
  {"name": "weights", "type": "reals", "default": [], "help": "one a model, none negative; empty: 1 each"},
  {"name": "density", "type": "real", "default": 1.0, "min": 0, "max": 1,
   "help": "share of each task vector's elements that is kept, above 0; at least one element is"},
  {"name": "lambda", "type": "real", "default": 1.0, "min": -1e6, "max": 1e6,
   "help": "how much of the merged task vector is added to the base"},
  {"name": "normalize", "type": "bool", "default": true,
   "help": "divide by the sum of the weights that agree, element by element"}
]})json";

xh_error* Open(const xh_option* options, int64_t count, int32_t model_count, xh_merge** out) {
  return Guard([&]() -> xh_error* {
    xh_merges::Options given(options, count);
    xh_merge merge;
    if (!given.Weights("weights", model_count, 0, 1, &merge.weights) || !given.Real("density", 0, 1, &merge.density) ||
        !given.Real("lambda", -kMostLambda, kMostLambda, &merge.lambda) || !given.Bool("normalize", &merge.normalize)) {
      return given.error();
    }
    if (merge.density == 0) given.Refuse("density", "0", "a number above 0, to 1");
    if (merge.density != 0 && xh_merges::Sum(merge.weights) == 0) given.Refuse("weights", "all 0", "one above 0");
    if (given.error() != nullptr) return given.error();
    merge.trims.resize(static_cast<size_t>(model_count));
    merge.histogram.resize(size_t{1} << kHalfBits);
    *out = new xh_merge(std::move(merge));
    return nullptr;
  });
}

// The task vector's element, in one rounding: the same in both passes.
inline float Delta(float x, float b) { return x - b; }

inline uint32_t Magnitude(float delta) {
  uint32_t bits = 0;
  std::memcpy(&bits, &delta, sizeof(bits));
  return bits & 0x7fffffffu;
}

// How many elements stay; the small addend makes up for density * n falling short of a whole number by rounding.
int64_t KeptOf(double density, int64_t n) {
  const int64_t kept = static_cast<int64_t>(std::floor(density * static_cast<double>(n) + 1e-6));
  return std::min(std::max<int64_t>(kept, 1), n);
}

// The bucket, counted from the highest down, that holds the element number *rank (from 1); *rank becomes its number
// inside that bucket.
uint32_t BucketOf(const std::vector<int64_t>& histogram, int64_t* rank) {
  uint32_t bucket = static_cast<uint32_t>(histogram.size()) - 1;
  while (*rank > histogram[bucket]) *rank -= histogram[bucket--];
  return bucket;
}

// The k-th largest magnitude, exactly, by a histogram of its upper half and one of its lower half.
Trim FindTrim(const float* x, const float* b, int64_t n, int64_t k, std::vector<int64_t>* histogram) {
  histogram->assign(histogram->size(), 0);
  for (int64_t i = 0; i < n; ++i) ++(*histogram)[Magnitude(Delta(x[i], b[i])) >> kHalfBits];
  const uint32_t upper = BucketOf(*histogram, &k);
  histogram->assign(histogram->size(), 0);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t magnitude = Magnitude(Delta(x[i], b[i]));
    if (magnitude >> kHalfBits == upper) ++(*histogram)[magnitude & kLowHalf];
  }
  Trim trim;
  trim.magnitude = upper << kHalfBits | BucketOf(*histogram, &k);
  for (int64_t i = 0; k > 0; ++i) {  // k of this magnitude stay: the first ones
    if (Magnitude(Delta(x[i], b[i])) != trim.magnitude) continue;
    trim.last = i;
    --k;
  }
  return trim;
}

xh_error* Observe(xh_merge* merge, const char*, const float* const* models, const float* base, int64_t n) {
  if (n == 0) return nullptr;
  const int64_t kept = KeptOf(merge->density, n);
  for (size_t model = 0; model < merge->weights.size(); ++model) {
    merge->trims[model] = FindTrim(models[model], base, n, kept, &merge->histogram);
  }
  return nullptr;
}

xh_error* Combine(const xh_merge* merge, const char*, const float* const* models, const float* base, int64_t first,
                  int64_t n, float* out) {
  const size_t count = merge->weights.size();
  // w_i d_i of element i after trimming.
  auto trimmed = [&](size_t model, int64_t i) {
    const Trim& trim = merge->trims[model];
    const float delta = Delta(models[model][i], base[i]);
    const uint32_t magnitude = Magnitude(delta);
    const bool stays = magnitude > trim.magnitude || (magnitude == trim.magnitude && first + i <= trim.last);
    return stays ? merge->weights[model] * delta : 0.0;
  };
  for (int64_t i = 0; i < n; ++i) {
    double elected = 0;
    for (size_t model = 0; model < count; ++model) elected += trimmed(model, i);
    double sum = 0, weight = 0;
    for (size_t model = 0; model < count; ++model) {
      const double value = trimmed(model, i);
      if (elected >= 0 ? value > 0 : value < 0) {
        sum += value;
        weight += merge->weights[model];
      }
    }
    if (merge->normalize && weight > 0) sum /= weight;
    out[i] = static_cast<float>(base[i] + merge->lambda * sum);
  }
  return nullptr;
}

void Close(xh_merge* merge) { delete merge; }

constexpr xh_merge_table kTable = {XH_SIZED(xh_merge_table),
                                   XH_MERGE_ELEMENTWISE | XH_MERGE_NEEDS_BASE | XH_MERGE_TWO_PASS,
                                   1,
                                   0,
                                   kSchema,
                                   Open,
                                   Observe,
                                   Combine,
                                   Close};

}  // namespace

XH_MERGE_PLUGIN("ties", kTable)
