// The weighted mean of models (SPEC.md 5; model soups, arXiv 2203.05482): y = sum_i w_i x_i, divided by sum_i w_i when
// normalised. Negative weights extrapolate.
#include "merge_plugin.h"

struct xh_merge {
  std::vector<double> weights;  // final: already divided by their sum
};

namespace {

using xh_merges::Guard;

constexpr char kSchema[] = R"json({"options": [
  {"name": "weights", "type": "reals", "default": [], "help": "one a model; empty: equal weights of sum 1"},
  {"name": "normalize", "type": "bool", "default": true, "help": "divide by the sum of the weights"}
]})json";

xh_error* Open(const xh_option* options, int64_t count, int32_t model_count, xh_merge** out) {
  return Guard([&]() -> xh_error* {
    xh_merges::Options given(options, count);
    xh_merge merge;
    bool normalize = true;
    if (!given.Weights("weights", model_count, -HUGE_VAL, 1.0 / model_count, &merge.weights) ||
        !given.Bool("normalize", &normalize)) {
      return given.error();
    }
    const double sum = xh_merges::Sum(merge.weights);
    if (normalize && xh_merges::Vanishes(sum, merge.weights)) {
      given.Refuse("weights", "of sum 0", "any other sum, or \"normalize\" false");
      return given.error();
    }
    if (normalize) {
      for (double& weight : merge.weights) weight /= sum;
    }
    *out = new xh_merge(std::move(merge));
    return nullptr;
  });
}

xh_error* Combine(const xh_merge* merge, const char*, const float* const* models, const float*, int64_t, int64_t n,
                  float* out) {
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0;
    for (size_t model = 0; model < merge->weights.size(); ++model) sum += merge->weights[model] * models[model][i];
    out[i] = static_cast<float>(sum);
  }
  return nullptr;
}

void Close(xh_merge* merge) { delete merge; }

constexpr xh_merge_table kTable = {
    XH_SIZED(xh_merge_table), XH_MERGE_ELEMENTWISE, 1, 0, kSchema, Open, nullptr, Combine, Close};

}  // namespace

XH_MERGE_PLUGIN("linear", kTable)
