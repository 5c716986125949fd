#include "core/merge/tensor_merger.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "core/checkpoint/dtype.h"
#include "core/checkpoint/names.h"

namespace xh {
namespace {

constexpr int64_t kTile = 1 << 15;  // elements; also the unit in which sums are added up

// An exception must not end a thread, and with it the process.
Status Guarded(const std::function<Status(int64_t)>& body, int64_t tile) {
  try {
    return body(tile);
  } catch (const std::bad_alloc&) {
    return OutOfMemory("out of memory while merging tiles");
  }
}

// Calls body(0) ... body(count - 1) on up to `threads` threads, in ascending order of starting. Returns the failure of
// the lowest number, so that the same input gives the same error; what comes after a failure may be left out.
Status ForEachTile(int64_t count, int32_t threads, const std::function<Status(int64_t)>& body) {
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  int64_t failed = count;
  Status failure;
  auto work = [&] {
    for (int64_t tile = next++; tile < count; tile = next++) {
      Status status = Guarded(body, tile);
      if (status.ok()) continue;
      std::lock_guard<std::mutex> lock(mutex);
      next = count;
      if (tile < failed) {
        failed = tile;
        failure = std::move(status);
      }
    }
  };
  std::vector<std::thread> helpers;
  helpers.reserve(static_cast<size_t>(std::min<int64_t>(threads, count)));
  try {
    while (static_cast<int64_t>(helpers.size()) + 1 < std::min<int64_t>(threads, count)) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // No more threads to be had: those there are do the work.
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  return failure;
}

// The first element that is NaN or infinite, n when there is none.
int64_t FirstNotFinite(const float* values, int64_t n) {
  return std::find_if_not(values, values + n, [](float value) { return std::isfinite(value); }) - values;
}

}  // namespace

// One tensor being merged. Operands are the models, then the base where there is one.
struct TensorMerger::Work {
  const std::string& name;
  std::vector<MergeOperand> operands;
  size_t models;
  int64_t n;
  xh_dtype dtype;
  MergedTensor result;
  std::vector<TaskVectorSums> sums;  // one a tile

  bool has_base() const { return operands.size() > models; }
  const float* BaseOf(float* const* operand_values) const { return has_base() ? operand_values[models] : nullptr; }
  int64_t tiles() const { return (n + kTile - 1) / kTile; }
};

StatusOr<std::unique_ptr<TensorMerger>> TensorMerger::Open(const xh_merge_table* table, const std::string& method,
                                                           const xh_option* options, int64_t option_count,
                                                           int32_t model_count, bool has_base, int32_t threads) {
  std::unique_ptr<TensorMerger> merger(new TensorMerger(table, method, std::max(threads, 1)));
  const std::string takes = table->max_models == 0 ? absl::StrCat("at least ", table->min_models)
                            : table->max_models == table->min_models
                                ? absl::StrCat(table->min_models)
                                : absl::StrCat(table->min_models, " to ", table->max_models);
  if (model_count < table->min_models || (table->max_models != 0 && model_count > table->max_models)) {
    return WithOrigin(InvalidArgument("\"models\" names ", model_count, "; allowed for ", method, ": ", takes),
                      "merge." + method);
  }
  if ((table->traits & XH_MERGE_NEEDS_BASE) != 0 && !has_base) {
    return WithOrigin(InvalidArgument("\"base\" is missing; ", method, " needs the model that the others began from"),
                      "merge." + method);
  }
  XH_RETURN_IF_ERROR(merger->FromPlugin(table->open(options, option_count, model_count, &merger->merge_)));
  XH_RETURN_IF_ERROR(merger->AskWithoutElements(model_count, has_base));
  return merger;
}

TensorMerger::~TensorMerger() {
  if (merge_ != nullptr) table_->close(merge_);
}

Status TensorMerger::FromPlugin(xh_error* error) const {
  const Status status = FromError(error);
  return status.ok() || OriginOf(status) != "plugin" ? status : WithOrigin(status, "merge." + method_);
}

Status TensorMerger::AskWithoutElements(int32_t model_count, bool has_base) {
  float none = 0;
  const std::vector<const float*> models(static_cast<size_t>(model_count), &none);
  const float* base = has_base ? &none : nullptr;
  if ((table_->traits & XH_MERGE_TWO_PASS) != 0) {
    XH_RETURN_IF_ERROR(FromPlugin(table_->observe(merge_, "", models.data(), base, 0)));
  }
  return FromPlugin(table_->combine(merge_, "", models.data(), base, 0, 0, &none));
}

Status TensorMerger::LoadTile(Work& work, int64_t first, int64_t n, float* const* into, TaskVectorSums* sums) const {
  for (size_t i = 0; i < work.operands.size(); ++i) {
    const MergeOperand& operand = work.operands[i];
    ToF32(operand.dtype, static_cast<const char*>(operand.data) + first * DTypeBytes(operand.dtype), n, into[i]);
    const int64_t bad = FirstNotFinite(into[i], n);
    if (bad < n) {
      return Corrupt("tensor ", Quoted(work.name), " of ", operand.path, " holds ",
                     std::isnan(into[i][bad]) ? "NaN" : "an infinite value", " at element ", first + bad);
    }
  }
  sums->Count(into, work.BaseOf(into), n);
  return absl::OkStatus();
}

Status TensorMerger::StoreTile(Work& work, int64_t first, int64_t n, const float* values) const {
  char* out = work.result.bytes.data() + first * DTypeBytes(work.dtype);
  FromF32(values, n, work.dtype, out);
  std::vector<float> stored(static_cast<size_t>(n));
  ToF32(work.dtype, out, n, stored.data());  // rounding to f16 or bf16 may overflow
  const int64_t bad = FirstNotFinite(stored.data(), n);
  if (bad == n) return absl::OkStatus();
  return WithOrigin(InvalidArgument("tensor ", Quoted(work.name), " becomes ", absl::StrCat(values[bad]),
                                    " at element ", first + bad, ", beyond what ", DTypeName(work.dtype), " holds"),
                    "merge." + method_);
}

// Element by element: nothing but the result is whole in memory.
Status TensorMerger::MergeByTiles(Work& work) const {
  const size_t count = work.operands.size();
  return ForEachTile(work.tiles(), threads_, [&](int64_t tile) -> Status {
    const int64_t first = tile * kTile, n = std::min(kTile, work.n - first);
    std::vector<float> values((count + 1) * static_cast<size_t>(n));
    std::vector<float*> into(count + 1);
    for (size_t i = 0; i <= count; ++i) into[i] = values.data() + i * static_cast<size_t>(n);
    XH_RETURN_IF_ERROR(LoadTile(work, first, n, into.data(), &work.sums[tile]));
    XH_RETURN_IF_ERROR(FromPlugin(
        table_->combine(merge_, work.name.c_str(), into.data(), work.BaseOf(into.data()), first, n, into[count])));
    return StoreTile(work, first, n, into[count]);
  });
}

// The plugin sees the whole tensor, to observe it or because it combines no tiles.
Status TensorMerger::MergeWhole(Work& work) {
  const size_t count = work.operands.size(), n = static_cast<size_t>(work.n);
  std::vector<std::vector<float>> values(count + 1, std::vector<float>(n));
  auto at = [&](int64_t first) {
    std::vector<float*> pointers;
    for (std::vector<float>& operand : values) pointers.push_back(operand.data() + first);
    return pointers;
  };
  XH_RETURN_IF_ERROR(ForEachTile(work.tiles(), threads_, [&](int64_t tile) {
    const int64_t first = tile * kTile;
    return LoadTile(work, first, std::min(kTile, work.n - first), at(first).data(), &work.sums[tile]);
  }));
  const std::vector<float*> whole = at(0);
  if ((table_->traits & XH_MERGE_TWO_PASS) != 0) {
    XH_RETURN_IF_ERROR(
        FromPlugin(table_->observe(merge_, work.name.c_str(), whole.data(), work.BaseOf(whole.data()), work.n)));
  }
  const bool by_tiles = (table_->traits & XH_MERGE_ELEMENTWISE) != 0;
  if (!by_tiles) {
    XH_RETURN_IF_ERROR(FromPlugin(
        table_->combine(merge_, work.name.c_str(), whole.data(), work.BaseOf(whole.data()), 0, work.n, whole[count])));
  }
  return ForEachTile(work.tiles(), threads_, [&](int64_t tile) -> Status {
    const int64_t first = tile * kTile, size = std::min(kTile, work.n - first);
    const std::vector<float*> here = at(first);
    if (by_tiles) {
      XH_RETURN_IF_ERROR(FromPlugin(
          table_->combine(merge_, work.name.c_str(), here.data(), work.BaseOf(here.data()), first, size, here[count])));
    }
    return StoreTile(work, first, size, here[count]);
  });
}

StatusOr<MergedTensor> TensorMerger::Merge(const std::string& name, const std::vector<MergeOperand>& models,
                                           const MergeOperand* base, int64_t n, xh_dtype dtype) {
  Work work{name, models, models.size(), n, dtype, {std::string(), TaskVectorSums(models.size())}, {}};
  if (base != nullptr) work.operands.push_back(*base);
  work.result.bytes.resize(static_cast<size_t>(n * DTypeBytes(dtype)));
  work.sums.assign(static_cast<size_t>(work.tiles()), TaskVectorSums(models.size()));
  const bool streams =
      table_->traits == XH_MERGE_ELEMENTWISE || table_->traits == (XH_MERGE_ELEMENTWISE | XH_MERGE_NEEDS_BASE);
  if (n > 0) XH_RETURN_IF_ERROR(streams ? MergeByTiles(work) : MergeWhole(work));
  for (const TaskVectorSums& sums : work.sums) work.result.sums.Add(sums);
  return std::move(work.result);
}

}  // namespace xh
