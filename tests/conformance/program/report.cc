#include "tests/conformance/program/report.h"

#include <cstdio>
#include <utility>

#include "tests/conformance/program/settings.h"

namespace xh::test {
namespace {

constexpr const char* kPasses[] = {"INFER", "FORWARD", "BACKWARD"};

std::pair<std::string, std::string> Cut(const std::string& line) {
  const size_t tab = line.find('\t');
  return {line.substr(0, tab), tab == std::string::npos ? "" : line.substr(tab + 1)};
}

std::string Shown(const std::map<Coverage::Key, Coverage::Worst>& worst, const Coverage::Key& key) {
  const auto found = worst.find(key);
  if (found == worst.end()) return "-";
  char text[48];
  std::snprintf(text, sizeof(text), "%.1e of %.0e", found->second.error, found->second.tolerance);
  return text;
}

}  // namespace

void Report::Read(const std::string& line) {
  const auto [word, text] = Cut(line);
  if (word == "start") {
    running_ = text;
    started_ = std::chrono::steady_clock::now();
  }
  if (word == "done") finished_ = true;
  if (word == "coverage") coverage_.Add(Coverage::FromLine(text));
  if (word == "test") std::printf("%s\n", text.c_str());
  if (word != "pass" && word != "skip" && word != "fail") return;
  const auto [test, why] = Cut(text);
  done_.insert(test);
  if (TheSettings().times) PrintTime(test);
  if (word == "fail") Fail(test, why);
  if (word == "pass") ++passed_;
  if (word == "skip") {
    ++skipped_;
    std::printf("UNSUPPORTED %s: %s\n", test.c_str(), why.c_str());
  }
}

bool Report::Ended(const std::string& how) {
  if (how.empty() && finished_) return true;
  done_.insert(running_);
  Fail(running_, "the plugin " + (how.empty() ? "ended the process (status 0)" : how));
  return false;
}

void Report::PrintTime(const std::string& test) const {
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started_;
  std::printf("ended %s %.2f s\n", test.c_str(), seconds.count());
  std::fflush(stdout);  // whoever ends the program has what was done
}

void Report::Fail(const std::string& test, const std::string& why) {
  ++failed_;
  std::printf("FAIL %s: %s\n", test.c_str(), why.c_str());
  std::fflush(stdout);
}

void Report::PrintOps() const {
  std::printf("\nsupported/asked for, and the worst relative error against double precision of its tolerance\n");
  std::printf("%-13s %-8s %9s %9s %9s   %-20s %-20s\n", "op", "dtype", kPasses[0], kPasses[1], kPasses[2], "values",
              "gradients");
  for (xh_op op : AllOps()) {
    for (const char* dtype : {"f32", "bf16", "integer"}) {
      const Coverage::Key key = {OpName(op), dtype};
      std::string cells;
      bool asked = false;
      for (const auto& calls : coverage_.calls) {
        const auto found = calls.find(key);
        asked = asked || found != calls.end();
        char cell[48] = "-";
        if (found != calls.end()) {
          std::snprintf(cell, sizeof(cell), "%lld/%lld", static_cast<long long>(found->second.supported),
                        static_cast<long long>(found->second.made));
        }
        std::snprintf(cell, sizeof(cell), "%9s ", std::string(cell).c_str());
        cells += cell;
      }
      if (!asked) continue;
      std::printf("%-13s %-8s %s  %-20s %-20s\n", OpName(op), dtype, cells.c_str(),
                  Shown(coverage_.values, key).c_str(), Shown(coverage_.gradients, key).c_str());
    }
  }
}

// Prints what is not supported; gives the number of gaps that are not allowed.
int64_t Report::Gaps() const {
  int64_t made = 0, supported = 0, gaps = 0;
  for (size_t pass = 0; pass < 3; ++pass) {
    for (const auto& [key, call] : coverage_.calls[pass]) {
      made += call.made;
      supported += call.supported;
      if (call.supported == call.made) continue;
      const bool allowed = TheSettings().Allows(key.first) || MayBeLeftOut(key.first);
      gaps += allowed ? 0 : 1;
      std::printf("%s %s %s %s: %lld of %lld calls are unsupported: %s\n", allowed ? "allowed gap" : "GAP",
                  key.first.c_str(), key.second.c_str(), kPasses[pass],
                  static_cast<long long>(call.made - call.supported), static_cast<long long>(call.made),
                  call.reason.c_str());
    }
  }
  std::printf("calls supported: %lld/%lld\n", static_cast<long long>(supported), static_cast<long long>(made));
  return gaps;
}

bool Report::Conclude(bool backend) const {
  if (backend) PrintOps();
  const int64_t gaps = backend ? Gaps() : 0;
  std::printf("tests: %d passed, %d failed, %d unsupported\n", passed_, failed_, skipped_);
  return failed_ == 0 && gaps == 0;
}

}  // namespace xh::test
