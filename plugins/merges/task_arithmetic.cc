// Task arithmetic (arXiv 2212.04089): y = b + lambda sum_i w_i (x_i - b), the sum divided by sum_i w_i when normalised.
// Negative weights unlearn.
#include "merge_plugin.h"

struct xh_merge {
  std::vector<double> weights;  // final: times lambda, divided by their sum
};

namespace {

using xh_merges::Guard;

constexpr double kMostLambda = 1e6;

constexpr char kSchema[] = R"json({"options": [
  {"name": "weights", "type": "reals", "default": [], "help": "one a model; empty: 1 each"},
  {"name": "lambda", "type": "real", "default": 1.0, "min": -1e6, "max": 1e6,
   "help": "how much of the merged task vector is added to the base"},
  {"name": "normalize", "type": "bool", "default": false, "help": "divide by the sum of the weights"}
]})json";

xh_error* Open(const xh_option* options, int64_t count, int32_t model_count, xh_merge** out) {
  return Guard([&]() -> xh_error* {
    xh_merges::Options given(options, count);
    xh_merge merge;
    double lambda = 1;
    bool normalize = false;
    if (!given.Weights("weights", model_count, -HUGE_VAL, 1, &merge.weights) ||
        !given.Real("lambda", -kMostLambda, kMostLambda, &lambda) || !given.Bool("normalize", &normalize)) {
      return given.error();
    }
    const double sum = xh_merges::Sum(merge.weights);
    if (normalize && xh_merges::Vanishes(sum, merge.weights)) {
      given.Refuse("weights", "of sum 0", "any other sum, or \"normalize\" false");
      return given.error();
    }
    for (double& weight : merge.weights) weight *= normalize ? lambda / sum : lambda;
    *out = new xh_merge(std::move(merge));
    return nullptr;
  });
}

xh_error* Combine(const xh_merge* merge, const char*, const float* const* models, const float* base, int64_t, int64_t n,
                  float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const double b = base[i];
    double sum = 0;
    for (size_t model = 0; model < merge->weights.size(); ++model) {
      sum += merge->weights[model] * (models[model][i] - b);
    }
    out[i] = static_cast<float>(b + sum);
  }
  return nullptr;
}

void Close(xh_merge* merge) { delete merge; }

constexpr xh_merge_table kTable = {
    XH_SIZED(xh_merge_table), XH_MERGE_ELEMENTWISE | XH_MERGE_NEEDS_BASE, 1, 0, kSchema, Open, nullptr, Combine, Close};

}  // namespace

XH_MERGE_PLUGIN("task_arithmetic", kTable)
