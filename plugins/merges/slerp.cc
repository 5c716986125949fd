// Spherical interpolation of two models (Shoemake 1985), each tensor one vector:
//   th = angle(v0, v1);  y = sin((1-t) th) / sin(th) v0 + sin(t th) / sin(th) v1
// The vectors keep their lengths. Where they are (anti)parallel, |cos th| > 0.9995: y = (1-t) v0 + t v1.
// v0 and v1 are models[0] and models[1]; or the base and models[0].
#include "merge_plugin.h"

struct xh_merge {
  double t;
  int32_t model_count;
  double first = 0;  // what v0 and v1 of the tensor in hand are multiplied by
  double second = 0;
};

namespace {

using xh_merges::Error;
using xh_merges::Guard;

constexpr double kParallel = 0.9995;
constexpr double kShortest = 1e-8;  // shorter vectors have no direction

constexpr char kSchema[] = R"json({"options": [
  {"name": "t", "type": "real", "min": 0, "max": 1,
   "help": "0 gives the first of the two (the base, if there is one), 1 the second"}
]})json";

xh_error* Open(const xh_option* options, int64_t count, int32_t model_count, xh_merge** out) {
  return Guard([&]() -> xh_error* {
    xh_merges::Options given(options, count);
    double t = 0;
    if (!given.Real("t", 0, 1, &t)) return given.error();
    *out = new xh_merge{t, model_count};
    return nullptr;
  });
}

// Sets *v0 and *v1 to the two of them.
xh_error* Pair(const xh_merge& merge, const float* const* models, const float* base, const float** v0,
               const float** v1) {
  if (merge.model_count == (base != nullptr ? 1 : 2)) {
    *v0 = base != nullptr ? base : models[0];
    *v1 = base != nullptr ? models[0] : models[1];
    return nullptr;
  }
  return Guard([&] {
    return Error(XH_INVALID_ARGUMENT, std::string("slerp takes two models, or a base and one model; given: ") +
                                          (base != nullptr ? "a base and two models" : "one model without a base"));
  });
}

xh_error* Observe(xh_merge* merge, const char*, const float* const* models, const float* base, int64_t n) {
  const float *v0 = nullptr, *v1 = nullptr;
  if (xh_error* error = Pair(*merge, models, base, &v0, &v1)) return error;
  double length0 = std::sqrt(xh_merges::Dot(v0, v0, n));
  double length1 = std::sqrt(xh_merges::Dot(v1, v1, n));
  if (length0 <= kShortest) length0 = 1;
  if (length1 <= kShortest) length1 = 1;
  const double cosine = xh_merges::Dot(v0, v1, n) / length0 / length1;
  const double t = merge->t;
  if (std::fabs(cosine) > kParallel) {
    merge->first = 1 - t;
    merge->second = t;
    return nullptr;
  }
  const double angle = std::acos(cosine);
  merge->first = std::sin((1 - t) * angle) / std::sin(angle);
  merge->second = std::sin(t * angle) / std::sin(angle);
  return nullptr;
}

xh_error* Combine(const xh_merge* merge, const char*, const float* const* models, const float* base, int64_t, int64_t n,
                  float* out) {
  const float *v0 = nullptr, *v1 = nullptr;
  if (xh_error* error = Pair(*merge, models, base, &v0, &v1)) return error;
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(merge->first * v0[i] + merge->second * v1[i]);
  return nullptr;
}

void Close(xh_merge* merge) { delete merge; }

constexpr xh_merge_table kTable = {
    XH_SIZED(xh_merge_table), XH_MERGE_ELEMENTWISE | XH_MERGE_TWO_PASS, 1, 2, kSchema, Open, Observe, Combine, Close};

}  // namespace

XH_MERGE_PLUGIN("slerp", kTable)
