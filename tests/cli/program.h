// Runs the built program as a user's shell does.
#ifndef XHYBRID_TESTS_CLI_PROGRAM_H_
#define XHYBRID_TESTS_CLI_PROGRAM_H_

#include <filesystem>
#include <string>
#include <vector>

namespace cli_test {

struct Outcome {
  int status = -1;  // exit status; -1 when the program was ended by a signal
  std::string out, err;
};

using Words = std::vector<std::string>;

// Runs `xhybrid` with these arguments, an empty standard input and "NAME=value" added to the environment.
Outcome RunProgram(const Words& arguments, const Words& environment = {});

// The same, interrupted (SIGINT) once `sign` stands on its standard error.
Outcome RunInterrupted(const Words& arguments, const std::string& sign);

// Number of lines, the last one ended or not.
size_t Lines(const std::string& text);

std::string ReadFile(const std::filesystem::path& path);

// A directory of its own, removed with everything in it.
class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

// A Hugging Face directory with weights and without a tokenizer: 3 layers, vocabulary 160.
std::string TinyTeacher();

}  // namespace cli_test

#endif  // XHYBRID_TESTS_CLI_PROGRAM_H_
