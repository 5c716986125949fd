#include "program.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>
#include <thread>

namespace cli_test {
namespace {

std::vector<char*> Pointers(Words& words) {
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

// This program's environment; an addition goes first and what it replaces is left out.
Words Environment(const Words& additions) {
  Words all = additions;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string name = text.substr(0, text.find('=') + 1);
    const bool replaced = std::any_of(additions.begin(), additions.end(),
                                      [&](const std::string& addition) { return addition.rfind(name, 0) == 0; });
    if (!replaced) all.push_back(text);
  }
  return all;
}

// The program while it runs, its output in two files.
class Process {
 public:
  Process(const Words& arguments, const Words& environment) {
    Words words = {XH_CLI};
    words.insert(words.end(), arguments.begin(), arguments.end());
    Words variables = Environment(environment);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    constexpr int kWrite = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, (scratch_ / "out").c_str(), kWrite, 0600);
    posix_spawn_file_actions_addopen(&files, STDERR_FILENO, (scratch_ / "err").c_str(), kWrite, 0600);
    if (posix_spawn(&pid_, XH_CLI, &files, nullptr, Pointers(words).data(), Pointers(variables).data()) != 0) pid_ = -1;
    posix_spawn_file_actions_destroy(&files);
  }

  std::string Errors() const { return ReadFile(scratch_ / "err"); }
  bool Ended() { return pid_ < 0 || (!waited_ && Reap(WNOHANG)) || waited_; }
  void Interrupt() {
    if (!Ended()) kill(pid_, SIGINT);
  }

  Outcome Wait() {
    if (!Ended()) Reap(0);
    Outcome outcome;
    if (waited_ && WIFEXITED(status_)) outcome.status = WEXITSTATUS(status_);
    outcome.out = ReadFile(scratch_ / "out");
    outcome.err = Errors();
    return outcome;
  }

 private:
  bool Reap(int flags) {
    waited_ = waitpid(pid_, &status_, flags) == pid_;
    return waited_;
  }

  Scratch scratch_;
  pid_t pid_ = -1;
  int status_ = 0;
  bool waited_ = false;
};

}  // namespace

Outcome RunProgram(const Words& arguments, const Words& environment) { return Process(arguments, environment).Wait(); }

Outcome RunInterrupted(const Words& arguments, const std::string& sign) {
  Process process(arguments, {});
  while (!process.Ended() && process.Errors().find(sign) == std::string::npos) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  process.Interrupt();
  return process.Wait();
}

size_t Lines(const std::string& text) {
  const auto ends = static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
  return ends + (!text.empty() && text.back() != '\n' ? 1 : 0);
}

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

Scratch::Scratch() {
  std::string name = (std::filesystem::temp_directory_path() / "xhybrid-cli-XXXXXX").string();
  if (mkdtemp(name.data()) != nullptr) path_ = name;
}

Scratch::~Scratch() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

std::string TinyTeacher() { return std::string(XH_TEST_DATA) + "/teachers/hf_llama"; }

}  // namespace cli_test
