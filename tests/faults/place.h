// What the tests of this directory share: a place of their own, small models, and jobs run through the C interface.
#ifndef XHYBRID_TESTS_FAULTS_PLACE_H_
#define XHYBRID_TESTS_FAULTS_PLACE_H_

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/files.h"
#include "xhybrid.h"

namespace faults {

// A directory that goes with its contents.
class Place {
 public:
  Place();
  ~Place();
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A Hugging Face directory: 3 layers, vocabulary 160, no tokenizer; and one with a tokenizer, 4,096 tokens.
std::string SmallTeacher();
std::string SpeakingTeacher();
// A copy of SpeakingTeacher in PLACE/bytes whose tokens are bytes (examples/plugin/bytes.c): libsentencepiece is not
// made for memory that runs out, its destructors crash.
std::string ByteTeacher(const Place& place);

// Rows {"ids": [...]} of SmallTeacher's vocabulary.
void WriteRows(const std::string& path, int rows = 8, int seed = 0);
using test_files::ReadText;
using test_files::ReadTree;
using test_files::WriteText;
// What lies in a directory, sorted.
std::vector<std::string> Names(const std::string& path);

// align 2 steps, distill 3, a checkpoint every 2 steps; teacher SmallTeacher, rows at PLACE/data.jsonl.
nlohmann::json TrainingRecipe(const Place& place, const std::string& output);

// A runtime on one thread; `plugins` is searched before those of this build.
xh_runtime* OpenRuntime(const char* device = "cpu", const std::string& plugins = "");

// What a call gave; takes the error over.
struct Outcome {
  xh_code code = 0;  // 0: success
  std::string message;
  std::string origin;
};
Outcome Take(xh_error* error);

// Runs a job to its end or its first error. *result gets its outcome as JSON text.
Outcome RunJob(xh_runtime* runtime, const char* kind, const nlohmann::json& recipe, std::string* result = nullptr);

}  // namespace faults

#endif  // XHYBRID_TESTS_FAULTS_PLACE_H_
