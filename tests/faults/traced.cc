#include "traced.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace faults {
namespace {

// How a system call says what it changes.
enum class Names { kNothing, kDescriptor, kPath, kPathAt, kOpen, kOpenAt };
struct Watched {
  long number;
  const char* name;
  Names names;
};
constexpr Watched kWatched[] = {
    {SYS_write, "write", Names::kDescriptor},
    {SYS_writev, "writev", Names::kDescriptor},
    {SYS_pwrite64, "pwrite", Names::kDescriptor},
    {SYS_fsync, "fsync", Names::kDescriptor},
    {SYS_fdatasync, "fdatasync", Names::kDescriptor},
    {SYS_ftruncate, "ftruncate", Names::kDescriptor},
    {SYS_rename, "rename", Names::kPath},
    {SYS_renameat, "renameat", Names::kPathAt},
    {SYS_renameat2, "renameat2", Names::kPathAt},
    {SYS_mkdir, "mkdir", Names::kPath},
    {SYS_mkdirat, "mkdirat", Names::kPathAt},
    {SYS_rmdir, "rmdir", Names::kPath},
    {SYS_unlink, "unlink", Names::kPath},
    {SYS_unlinkat, "unlinkat", Names::kPathAt},
    {SYS_open, "open", Names::kOpen},
    {SYS_openat, "openat", Names::kOpenAt},
};

const Watched* Find(long number) {
  for (const Watched& watched : kWatched) {
    if (watched.number == number) return &watched;
  }
  return nullptr;
}

std::string TextAt(pid_t pid, unsigned long address) {
  char buffer[4096] = {};
  iovec to = {buffer, sizeof(buffer) - 1}, from = {reinterpret_cast<void*>(address), sizeof(buffer) - 1};
  // A name near the end of a mapping is read to there.
  while (from.iov_len > 0 && process_vm_readv(pid, &to, 1, &from, 1, 0) < 0) from.iov_len /= 2;
  return buffer;
}

std::string PathOf(pid_t pid, int descriptor) {
  char buffer[4096] = {};
  const std::string link = descriptor == AT_FDCWD
                               ? "/proc/" + std::to_string(pid) + "/cwd"
                               : "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(descriptor);
  const ssize_t size = readlink(link.c_str(), buffer, sizeof(buffer) - 1);
  return std::string(buffer, size > 0 ? static_cast<size_t>(size) : 0);
}

std::string Joined(const std::string& directory, const std::string& name) {
  return !name.empty() && name[0] == '/' ? name : directory + "/" + name;
}

// Whether a call that begins changes something below `directory`.
bool Changes(pid_t pid, const user_regs_struct& at, const Watched& watched, const std::string& directory) {
  std::string path;
  const int first = static_cast<int>(at.rdi);
  switch (watched.names) {
    case Names::kDescriptor:
      path = PathOf(pid, first);
      break;
    case Names::kPath:
      path = TextAt(pid, at.rdi);
      break;
    case Names::kPathAt:
      path = Joined(PathOf(pid, first), TextAt(pid, at.rsi));
      break;
    case Names::kOpen:
      if ((at.rsi & (O_CREAT | O_TRUNC)) == 0) return false;
      path = TextAt(pid, at.rdi);
      break;
    case Names::kOpenAt:
      if ((at.rdx & (O_CREAT | O_TRUNC)) == 0) return false;
      path = Joined(PathOf(pid, first), TextAt(pid, at.rsi));
      break;
    default:
      return false;
  }
  return path.compare(0, directory.size(), directory) == 0;
}

// Runs to the next beginning or end of a system call; false when the process ended, which *status tells.
bool NextStop(pid_t pid, int* status) {
  for (int signal = 0;;) {
    if (ptrace(PTRACE_SYSCALL, pid, nullptr, signal) != 0) return false;
    if (waitpid(pid, status, 0) != pid || !WIFSTOPPED(*status)) return false;
    if (WSTOPSIG(*status) == (SIGTRAP | 0x80)) return true;
    signal = WSTOPSIG(*status);
  }
}

void Kill(pid_t pid, int* status) {
  kill(pid, SIGKILL);
  waitpid(pid, status, 0);
}

// Follows a stopped child to its end, with the fault on its way.
void Follow(pid_t pid, const std::string& directory, const Fault& fault, Ending* ending, int* status) {
  user_regs_struct at{};
  while (NextStop(pid, status)) {
    ptrace(PTRACE_GETREGS, pid, nullptr, &at);
    const Watched* watched = Find(static_cast<long>(at.orig_rax));
    const bool counts = watched != nullptr && Changes(pid, at, *watched, directory);
    const bool met = counts && ++ending->calls == fault.call;
    if (met) {
      ending->reached = true;
      ending->call = watched->name;
      if (fault.reason == 0 && !fault.after) return Kill(pid, status);
      if (fault.reason != 0) {
        at.orig_rax = static_cast<unsigned long>(-1);  // no such call: the kernel makes none
        ptrace(PTRACE_SETREGS, pid, nullptr, &at);
      }
    }
    if (!NextStop(pid, status)) return;  // its end
    if (met && fault.reason == 0) return Kill(pid, status);
    if (met) {
      ptrace(PTRACE_GETREGS, pid, nullptr, &at);
      at.rax = static_cast<unsigned long>(-static_cast<long>(fault.reason));
      ptrace(PTRACE_SETREGS, pid, nullptr, &at);
    }
  }
}

void Send(int to, const Outcome& outcome) {
  std::string text(reinterpret_cast<const char*>(&outcome.code), sizeof(outcome.code));
  text += outcome.message + '\0' + outcome.origin;
  [[maybe_unused]] const ssize_t written = write(to, text.data(), text.size());
}

Outcome Receive(int from) {
  std::string text;
  char buffer[4096];
  for (ssize_t size; (size = read(from, buffer, sizeof(buffer))) > 0;) text.append(buffer, static_cast<size_t>(size));
  close(from);
  Outcome outcome;
  if (text.size() < sizeof(outcome.code)) return {XH_INTERNAL, "the child said nothing", ""};
  std::memcpy(&outcome.code, text.data(), sizeof(outcome.code));
  const size_t end = text.find('\0', sizeof(outcome.code));
  outcome.message = text.substr(sizeof(outcome.code), end - sizeof(outcome.code));
  outcome.origin = text.substr(end + 1);
  return outcome;
}

// A child that waits to be traced, or not.
pid_t Fork(const std::function<Outcome()>& body, bool traced, int* result) {
  int ends[2];
  if (pipe(ends) != 0) return -1;
  const pid_t pid = fork();
  if (pid == 0) {
    close(ends[0]);
    if (traced) {
      ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
      raise(SIGSTOP);
    }
    Send(ends[1], body());
    _exit(0);
  }
  close(ends[1]);
  *result = ends[0];
  return pid;
}

Ending Ended(int status, int result, Ending ending) {
  ending.killed = !WIFEXITED(status);
  const Outcome outcome = Receive(result);
  if (!ending.killed) ending.outcome = outcome;
  return ending;
}

}  // namespace

Ending RunWithFault(const std::string& directory, const Fault& fault, const std::function<Outcome()>& body) {
  int status = 0, result = -1;
  const pid_t pid = Fork(body, true, &result);
  Ending ending;
  waitpid(pid, &status, 0);
  ptrace(PTRACE_SETOPTIONS, pid, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  Follow(pid, directory, fault, &ending, &status);
  return Ended(status, result, ending);
}

Child::Child(const std::function<Outcome()>& body) { pid_ = Fork(body, false, &result_); }

Ending Child::Wait() {
  int status = 0;
  waitpid(pid_, &status, 0);
  return Ended(status, result_, Ending());
}

}  // namespace faults
