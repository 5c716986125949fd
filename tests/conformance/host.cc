#include "tests/conformance/host.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>

struct xh_error {
  xh_code code;
  std::string origin, text;
};

namespace xh::test {
namespace {

std::atomic<int64_t> live_errors = 0;

xh_error* NewError(xh_code code, const char* origin, const char* text) {
  ++live_errors;
  return new xh_error{code, origin == nullptr ? "" : origin, text == nullptr ? "" : text};
}
void Log(xh_log_level, const char*, const char*) {}

constexpr xh_host kHost = {XH_SIZED(xh_host), XH_ABI_VERSION, NewError, Log};

}  // namespace

const xh_host& TestHost() { return kHost; }
int64_t LiveErrors() { return live_errors; }
void ForgetLiveErrors() { live_errors = 0; }

Outcome TakeError(xh_error* error) {
  if (error == nullptr) return {};
  Outcome outcome = {error->code, error->text};
  EXPECT_TRUE(error->code >= XH_INVALID_ARGUMENT && error->code <= XH_INTERNAL)
      << "the code of an error is " << error->code;
  EXPECT_FALSE(error->text.empty()) << "an error without a message";
  EXPECT_FALSE(error->origin.empty()) << "an error without its origin: " << outcome.message;
  EXPECT_EQ(outcome.message.find('\n'), std::string::npos) << "an error message is one line: " << outcome.message;
  EXPECT_TRUE(IsUtf8(outcome.message)) << "an error message is UTF-8";
  delete error;
  --live_errors;
  return outcome;
}

bool IsUtf8(const std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const unsigned char c = static_cast<unsigned char>(text[i]);
    const size_t length = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc2 ? 2 : 0;
    if (length == 0 || i + length > text.size()) return false;
    for (size_t j = 1; j < length; ++j) {
      if ((static_cast<unsigned char>(text[i + j]) & 0xc0) != 0x80) return false;
    }
    i += length;
  }
  return true;
}

bool Names(const std::string& message, std::initializer_list<const char*> words) {
  return std::all_of(words.begin(), words.end(),
                     [&](const char* word) { return message.find(word) != std::string::npos; });
}

}  // namespace xh::test
