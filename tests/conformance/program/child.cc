#include "tests/conformance/program/child.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <exception>

namespace xh::test {
namespace {

constexpr int kPatienceSeconds = 300;  // for one test; the longest takes some ten on two cores

// False when the child was silent for too long.
bool ReadLines(int file, const std::function<void(const std::string&)>& read) {
  std::string text;
  for (;;) {
    pollfd ready = {file, POLLIN, 0};
    if (poll(&ready, 1, kPatienceSeconds * 1000) == 0) return false;
    char buffer[4096];
    const ssize_t count = ::read(file, buffer, sizeof(buffer));
    if (count <= 0) return true;
    text.append(buffer, static_cast<size_t>(count));
    for (size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n')) {
      read(text.substr(0, end));
      text.erase(0, end + 1);
    }
  }
}

[[noreturn]] void Work(const std::function<void(int file)>& work, int file) {
  try {
    work(file);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "xhybrid-conformance: %s\n", error.what());
    _exit(3);
  }
  std::fflush(nullptr);
  _exit(0);  // without the ends of libraries, which the plugin has had its shutdown for
}

}  // namespace

std::string InChild(const std::function<void(int file)>& work, const std::function<void(const std::string&)>& read) {
  int ends[2];
  if (pipe(ends) != 0) return std::string("cannot be run: ") + std::strerror(errno);
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) return std::string("cannot be run: ") + std::strerror(errno);
  if (child == 0) {
    close(ends[0]);
    Work(work, ends[1]);
  }
  close(ends[1]);
  const bool spoke = ReadLines(ends[0], read);
  if (!spoke) kill(child, SIGKILL);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (!spoke) return "says nothing for " + std::to_string(kPatienceSeconds) + " s";
  if (WIFSIGNALED(status)) return std::string("crashed (") + strsignal(WTERMSIG(status)) + ")";
  if (WEXITSTATUS(status) != 0) return "ended the process (status " + std::to_string(WEXITSTATUS(status)) + ")";
  return "";
}

}  // namespace xh::test
