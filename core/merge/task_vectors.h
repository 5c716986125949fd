// How far experts moved and whether they agree: lengths of their task vectors d_i = x_i - b, the angles between them,
// and where their signs conflict. Without a base, of the weights x_i themselves.
#ifndef XHYBRID_CORE_MERGE_TASK_VECTORS_H_
#define XHYBRID_CORE_MERGE_TASK_VECTORS_H_

#include <cstdint>
#include <vector>

#include "nlohmann/json_fwd.hpp"

namespace xh {

// Sums in double over some elements. Parts of a tensor are added up in the order of their elements, so that the result
// does not depend on who counted which part.
class TaskVectorSums {
 public:
  explicit TaskVectorSums(size_t models);

  // models: one array of n floats a model; base NULL without one.
  void Count(const float* const* models, const float* base, int64_t n);
  void Add(const TaskVectorSums& other);  // of the same number of models

  // {"norms": [a model], "cosines": [[row a model]], null where a vector is zero; "sign_conflict": of the elements that
  // any model moved, the share that two models moved in opposite directions}.
  nlohmann::json Report() const;

 private:
  size_t models_;
  std::vector<double> products_;  // <d_i, d_j> at i * models + j for j <= i
  int64_t moved_ = 0;
  int64_t conflicts_ = 0;
};

}  // namespace xh

#endif  // XHYBRID_CORE_MERGE_TASK_VECTORS_H_
