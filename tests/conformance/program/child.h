// Runs work in a child process and reads what it tells. A crash, a hang or an exit ends the child alone.
#ifndef XHYBRID_TESTS_CONFORMANCE_PROGRAM_CHILD_H_
#define XHYBRID_TESTS_CONFORMANCE_PROGRAM_CHILD_H_

#include <functional>
#include <string>

namespace xh::test {

// Calls `work` with a file to write lines to, in a child, and `read` with each line. Gives how the child ended: empty
// when it ended by itself with status 0, else "crashed (Segmentation fault)", "ended the process (status 3)" or "says
// nothing for 300 s".
std::string InChild(const std::function<void(int file)>& work, const std::function<void(const std::string&)>& read);

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_PROGRAM_CHILD_H_
