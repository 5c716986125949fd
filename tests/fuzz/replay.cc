// Runs a fuzz target without libFuzzer: every file of the directories that are given, then a fixed number of mutations
// of them, the same ones each time. A crash is a failed test; the input at fault is in the file that is named first.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/support.h"

namespace {

using xh::fuzz::Put;
using xh::fuzz::ReadAll;
using Generator = std::mt19937_64;  // whose numbers are the same everywhere

constexpr int kMutations = 2000;

std::vector<std::string> ReadInputs(const std::vector<std::string>& directories) {
  std::vector<std::string> paths, inputs;
  for (const std::string& directory : directories) {
    if (!std::filesystem::is_directory(directory)) continue;  // without findings there is no directory of them
    for (const auto& entry : std::filesystem::directory_iterator(directory)) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  for (const std::string& path : paths) inputs.push_back(ReadAll(path));
  return inputs;
}

size_t Below(Generator& random, size_t end) { return end > 0 ? random() % end : 0; }

void ChangeOnce(Generator& random, const std::string& other, std::string* input) {
  static const unsigned char edges[] = {0, 1, 0x7f, 0x80, 0xff, '"', '[', '{', '9', '-', '\n'};
  const size_t at = Below(random, input->size());
  const size_t count = 1 + Below(random, std::min<size_t>(input->size(), 64));
  switch (Below(random, 6)) {
    case 0:
      if (!input->empty()) (*input)[at] = static_cast<char>((*input)[at] ^ (1 << Below(random, 8)));
      break;
    case 1:
      if (!input->empty()) (*input)[at] = static_cast<char>(edges[Below(random, sizeof(edges))]);
      break;
    case 2:
      input->resize(at);
      break;
    case 3:
      input->erase(at, count);
      break;
    case 4:
      input->insert(at, input->substr(Below(random, input->size()), count));
      break;
    default:
      input->replace(at, count, other.substr(Below(random, other.size()), count));
  }
}

void Run(const std::string& kept, const std::string& input) {
  Put(kept, input);
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string kept = std::filesystem::temp_directory_path() / ("xhybrid-input-" + std::to_string(::getpid()));
  const std::vector<std::string> inputs = ReadInputs({argv + 1, argv + argc});
  if (inputs.empty()) {
    std::fprintf(stderr, "usage: %s DIRECTORY...; there is no input in those that are given\n", argv[0]);
    return 2;
  }
  std::printf("the input at hand is in %s\n", kept.c_str());
  std::fflush(stdout);
  for (const std::string& input : inputs) Run(kept, input);
  Generator random(1);
  for (int i = 0; i < kMutations; ++i) {
    std::string input = inputs[Below(random, inputs.size())];
    const std::string& other = inputs[Below(random, inputs.size())];
    for (size_t changes = 1 + Below(random, 4); changes > 0; --changes) ChangeOnce(random, other, &input);
    Run(kept, input);
  }
  std::filesystem::remove(kept);
  std::printf("%zu inputs and %d mutations of them\n", inputs.size(), kMutations);
  return 0;
}
