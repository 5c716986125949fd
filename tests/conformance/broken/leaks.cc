// Closing a plan leaves some of it behind.
#include "tests/conformance/broken/cpu_wrapper.h"

namespace xh::broken {
namespace {

int* volatile kept = nullptr;

}  // namespace

void Spoil(Wrapper* wrapper) {
  wrapper->after_close = [] { kept = new int[8]; };
}

}  // namespace xh::broken
