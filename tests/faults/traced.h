// A body of work in a child process, of whose system calls that change storage one is refused or is its last.
#ifndef XHYBRID_TESTS_FAULTS_TRACED_H_
#define XHYBRID_TESTS_FAULTS_TRACED_H_

#include <functional>
#include <string>

#include "place.h"

namespace faults {

struct Fault {
  int64_t call = 0;    // which one, from 1; 0: none
  int reason = 0;      // errno that it gives without being made; 0: the process is killed
  bool after = false;  // killed after the call was made rather than before
};

struct Ending {
  bool killed = false;
  bool reached = false;  // the call that the fault is for
  int64_t calls = 0;     // seen
  std::string call;      // name of the one that the fault met
  Outcome outcome;       // what the body returned, unless killed
};

// Runs `body` in a fork of this process. Calls count that write to, create, rename, remove or synchronise something
// below `directory`. The body must not use threads.
Ending RunWithFault(const std::string& directory, const Fault& fault, const std::function<Outcome()>& body);

// Runs `body` in a fork of this process as it is, started with Start and awaited with Wait.
class Child {
 public:
  explicit Child(const std::function<Outcome()>& body);
  Ending Wait();
  int pid() const { return pid_; }

 private:
  int pid_ = -1;
  int result_ = -1;  // read end of a pipe
};

}  // namespace faults

#endif  // XHYBRID_TESTS_FAULTS_TRACED_H_
