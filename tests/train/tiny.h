// A small random teacher, token data and recipes for tests of training.
#ifndef XHYBRID_TESTS_TRAIN_TINY_H_
#define XHYBRID_TESTS_TRAIN_TINY_H_

#include <memory>
#include <string>
#include <vector>

#include "core/job.h"
#include "core/model/model.h"
#include "core/train/batches.h"
#include "core/train/recipe.h"
#include "core/train/student.h"
#include "nlohmann/json.hpp"
#include "tests/files.h"

namespace xh::tiny {

// A directory that goes with its contents.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// 2 layers, D 32, 2 heads on 1 key/value head of 16, F 64, context 128.
ModelConfig Config(int64_t vocab_size = 64);
// Writes a checkpoint with random weights; `tokenizer` adds the tokenizer of the tests' vectors (vocabulary 4,096).
Status WriteTeacher(const std::string& path, int64_t vocab_size = 64, bool tokenizer = false);
// Writes {"ids": [...]} rows of a language that can be learnt: 1, then each token follows from the one before, mostly.
void WriteRows(const std::string& path, int64_t documents, uint64_t seed);
using test_files::ReadText;
using test_files::ReadTree;
using test_files::WriteText;

StatusOr<std::shared_ptr<Runtime>> OpenRuntime(int32_t threads = 1);
// align 4 steps, distill 6; writes nothing itself. Teacher and data must lie in `dir` as teacher.xhy and data.jsonl.
nlohmann::json RecipeIn(const TempDir& dir, const std::string& output);

// Pulls a job until it ends; *events gets every event. The status of the failing Next, ok when it finished.
Status Drain(Job& job, std::vector<nlohmann::json>* events);
// Opens and drains a distill job.
Status Distil(const nlohmann::json& recipe, std::vector<nlohmann::json>* events = nullptr, int32_t threads = 1);

}  // namespace xh::tiny

#endif  // XHYBRID_TESTS_TRAIN_TINY_H_
