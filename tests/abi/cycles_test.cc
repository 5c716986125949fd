// Load, generate, free, again and again: memory stays flat, in C and in C++. XHYBRID_LEAK_CYCLES: how many cycles
// (default 60; the long form is 10000).
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "gtest/gtest.h"
#include "tests/conformance/heap.h"
#include "xhybrid.hpp"

namespace {

constexpr char kTeacher[] = XH_EXAMPLES "/teacher-llama-3m";
constexpr char kText[] = "Once upon a time";  // goes on for more than kTokens
constexpr int kTokens = 2;
constexpr int64_t kMostHeap = int64_t{64} << 10, kMostResident = int64_t{16} << 20;

int Cycles() {
  const char* const text = std::getenv("XHYBRID_LEAK_CYCLES");
  return text == nullptr ? 60 : std::atoi(text);
}

// How much is resident depends on how the allocator cuts its memory, too, and settles after some hundred cycles.
int64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  int64_t all = 0, resident = 0;
  file >> all >> resident;
  return resident * 4096;
}

void Must(xh_error* error) {
  if (error == nullptr) return;
  ADD_FAILURE() << xh_error_message(error);
  xh_error_free(error);
}

void CycleOfC() {
  xh_runtime_config config = {XH_SIZED(xh_runtime_config), 0, nullptr, nullptr, 0, nullptr, nullptr};
  xh_runtime* runtime = nullptr;
  xh_model* model = nullptr;
  xh_session* session = nullptr;
  Must(xh_runtime_open(&config, &runtime));
  Must(xh_model_load(runtime, kTeacher, nullptr, 0, &model));
  Must(xh_session_open(model, nullptr, 0, &session));
  int32_t ids[64];
  int64_t count = 0;
  Must(xh_model_encode(model, kText, sizeof(kText) - 1, 1, ids, 64, &count));
  Must(xh_session_feed(session, ids, count));
  for (int i = 0; i < kTokens; ++i) {
    const char* piece = nullptr;
    int64_t size = 0;
    int32_t id = 0, finished = 0;
    Must(xh_session_next(session, &id, &piece, &size, &finished));
  }
  xh_session_free(session);
  xh_model_free(model);
  xh_runtime_close(runtime);
}

void CycleOfCxx() {
  xh::Runtime runtime;
  xh::Model model = runtime.load(kTeacher);
  xh::Session session = model.session();
  session.feed(model.encode(kText, /*add_special=*/true));
  for (int i = 0; i < kTokens; ++i) session.next();
  EXPECT_THROW(runtime.load("/nowhere"), xh::Error);
}

void ExpectFlat(void (*cycle)()) {
  const int cycles = Cycles();
  for (int i = 0; i < 20 + cycles / 10; ++i) cycle();
  const int64_t heap = xh::test::HeapInUse(), resident = ResidentBytes();
  for (int i = 0; i < cycles; ++i) cycle();
  const int64_t heap_after = xh::test::HeapInUse(), resident_after = ResidentBytes();
  std::printf("%d cycles: heap %lld, then %lld bytes; resident %lld, then %lld\n", cycles, static_cast<long long>(heap),
              static_cast<long long>(heap_after), static_cast<long long>(resident),
              static_cast<long long>(resident_after));
  EXPECT_LE(heap_after, heap + kMostHeap);
  EXPECT_LE(resident_after, resident + kMostResident);
}

TEST(Cycles, OfCHoldMemoryFlat) { ExpectFlat(CycleOfC); }
TEST(Cycles, OfCxxHoldMemoryFlat) { ExpectFlat(CycleOfCxx); }

}  // namespace
