#include "core/merge/task_vectors.h"

#include <algorithm>
#include <cmath>

#include "nlohmann/json.hpp"

namespace xh {
namespace {

using nlohmann::json;

constexpr int64_t kBlock = 256;  // elements whose task vectors stand in fast memory at once

// Eight sums side by side, then one: a fixed order that the compiler can vectorise.
double Dot(const double* a, const double* b, int64_t n) {
  constexpr int64_t kLanes = 8;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  }
  for (; i < n; ++i) lanes[i % kLanes] += a[i] * b[i];
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

}  // namespace

TaskVectorSums::TaskVectorSums(size_t models) : models_(models), products_(models * models, 0.0) {}

void TaskVectorSums::Count(const float* const* models, const float* base, int64_t n) {
  std::vector<double> deltas(models_ * kBlock);
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t count = std::min(kBlock, n - first);
    uint8_t signs[kBlock] = {};  // bit 0: a model moved up, bit 1: a model moved down
    for (size_t model = 0; model < models_; ++model) {
      double* delta = &deltas[model * kBlock];
      for (int64_t i = 0; i < count; ++i) {
        delta[i] = static_cast<double>(models[model][first + i]) - (base != nullptr ? base[first + i] : 0.0);
        signs[i] |= static_cast<uint8_t>((delta[i] > 0 ? 1 : 0) | (delta[i] < 0 ? 2 : 0));
      }
      for (size_t other = 0; other <= model; ++other) {
        products_[model * models_ + other] += Dot(delta, &deltas[other * kBlock], count);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      moved_ += signs[i] != 0 ? 1 : 0;
      conflicts_ += signs[i] == 3 ? 1 : 0;
    }
  }
}

void TaskVectorSums::Add(const TaskVectorSums& other) {
  for (size_t i = 0; i < products_.size(); ++i) products_[i] += other.products_[i];
  moved_ += other.moved_;
  conflicts_ += other.conflicts_;
}

json TaskVectorSums::Report() const {
  json norms = json::array(), cosines = json::array();
  for (size_t i = 0; i < models_; ++i) norms.push_back(std::sqrt(products_[i * models_ + i]));
  for (size_t i = 0; i < models_; ++i) {
    json row = json::array();
    for (size_t j = 0; j < models_; ++j) {
      const double length = norms[i].get<double>() * norms[j].get<double>();
      const double product = products_[std::max(i, j) * models_ + std::min(i, j)];
      row.push_back(length > 0 ? json(std::clamp(product / length, -1.0, 1.0)) : json());
    }
    cosines.push_back(std::move(row));
  }
  const double share = moved_ > 0 ? static_cast<double>(conflicts_) / static_cast<double>(moved_) : 0.0;
  return {{"norms", norms}, {"cosines", cosines}, {"sign_conflict", share}};
}

}  // namespace xh
