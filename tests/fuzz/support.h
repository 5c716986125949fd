// What the fuzz targets share: inputs of several files, a directory in memory, and the rules that every answer keeps.
#ifndef XHYBRID_TESTS_FUZZ_SUPPORT_H_
#define XHYBRID_TESTS_FUZZ_SUPPORT_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "core/runtime.h"

// The entry of every target, as libFuzzer calls it.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace xh::fuzz {

// An input that begins with "==== NAME" holds several files, each behind such a line; any other is the one file
// `single`. Files whose names are not bare are left out.
std::map<std::string, std::string> SplitFiles(const uint8_t* data, size_t size, const std::string& single);

// A directory in memory, one a process, which this empties; it is the working directory from then on.
std::string FreshDirectory();
void Put(const std::string& path, const std::string& bytes);
std::string ReadAll(const std::string& path);

// The plugins of this build.
const std::shared_ptr<Runtime>& Plugins();

// Ends the process with `what` when a rule is broken: that is a finding.
void Require(bool kept, const std::string& what);
// An error is one line of bounded length. With XH_FUZZ_SHOW in the environment it is shown.
void CheckMessage(const Status& status);
template <typename T>
bool Accepted(const StatusOr<T>& result) {
  CheckMessage(result.status());
  return result.ok();
}

// Requires that the memory held at once while it lives is at most `fixed` + `factor` * `input` bytes.
class MemoryBound {
 public:
  MemoryBound(size_t fixed, size_t factor, size_t input);
  ~MemoryBound();

 private:
  size_t most_;
};

}  // namespace xh::fuzz

#endif  // XHYBRID_TESTS_FUZZ_SUPPORT_H_
