// What a plugin gets from its host, for tests: errors are counted, log lines are dropped. No part of the core is
// involved.
#ifndef XHYBRID_TESTS_CONFORMANCE_HOST_H_
#define XHYBRID_TESTS_CONFORMANCE_HOST_H_

#include <string>

#include "xhybrid_plugin.h"

namespace xh::test {

const xh_host& TestHost();
// Errors that plugins made and nobody has freed.
int64_t LiveErrors();
void ForgetLiveErrors();

// An error of a plugin; code 0 is success.
struct Outcome {
  xh_code code = 0;
  std::string message;
};

// Takes an error apart and frees it. An error that breaks the rules for errors is a GoogleTest failure.
Outcome TakeError(xh_error* error);

// Whether every character of a text is whole UTF-8.
bool IsUtf8(const std::string& text);

// Whether an error message says what is wrong: every one of `words` is in it.
bool Names(const std::string& message, std::initializer_list<const char*> words);

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_HOST_H_
