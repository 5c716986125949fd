// One tensor at a time through a merge plugin: f32 in, the stored dtype out, tiles spread over threads.
#ifndef XHYBRID_CORE_MERGE_TENSOR_MERGER_H_
#define XHYBRID_CORE_MERGE_TENSOR_MERGER_H_

#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/merge/task_vectors.h"
#include "xhybrid_plugin.h"

namespace xh {

// One model's copy of the tensor, as stored; `data` may be unaligned.
struct MergeOperand {
  std::string path;  // for messages
  xh_dtype dtype;    // f32, f16 or bf16
  const void* data;
};

struct MergedTensor {
  std::string bytes;  // n elements of the asked dtype
  TaskVectorSums sums;
};

// One thread at a time. Results do not depend on the number of threads.
class TensorMerger {
 public:
  // `options` are checked by the plugin. Then asks the plugin to merge a tensor of no elements: a plugin that does not
  // take this number of models with or without a base says so before anything is read.
  static StatusOr<std::unique_ptr<TensorMerger>> Open(const xh_merge_table* table, const std::string& method,
                                                      const xh_option* options, int64_t option_count,
                                                      int32_t model_count, bool has_base, int32_t threads);
  ~TensorMerger();
  TensorMerger(const TensorMerger&) = delete;
  TensorMerger& operator=(const TensorMerger&) = delete;

  // Merges `n` elements into `dtype`. `base` NULL without one. Corrupt, naming tensor, path and element, when an input
  // is NaN or infinite; InvalidArgument when the result is.
  // Memory: where the plugin works element by element, the result; else every operand in f32 besides.
  StatusOr<MergedTensor> Merge(const std::string& name, const std::vector<MergeOperand>& models,
                               const MergeOperand* base, int64_t n, xh_dtype dtype);

 private:
  struct Work;
  TensorMerger(const xh_merge_table* table, std::string method, int32_t threads)
      : table_(table), method_(std::move(method)), threads_(threads) {}
  Status FromPlugin(xh_error* error) const;
  Status AskWithoutElements(int32_t model_count, bool has_base);
  Status LoadTile(Work& work, int64_t first, int64_t n, float* const* into, TaskVectorSums* sums) const;
  Status StoreTile(Work& work, int64_t first, int64_t n, const float* values) const;
  Status MergeByTiles(Work& work) const;
  Status MergeWhole(Work& work);

  const xh_merge_table* table_;
  const std::string method_;
  const int32_t threads_;
  xh_merge* merge_ = nullptr;
};

}  // namespace xh

#endif  // XHYBRID_CORE_MERGE_TENSOR_MERGER_H_
