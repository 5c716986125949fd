#include "tests/fuzz/support.h"

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "core/checkpoint/names.h"
#include "tests/fuzz/memory.h"

namespace xh::fuzz {
namespace {

constexpr char kMark[] = "==== ";
constexpr size_t kLongestMessage = 4096;

std::string MakeDirectory() {
  std::string pattern = ::access("/dev/shm", W_OK) == 0 ? "/dev/shm/" : "/tmp/";
  pattern += "xhybrid-fuzz-XXXXXX";
  Require(::mkdtemp(pattern.data()) != nullptr, "cannot make a directory");
  return pattern;
}

// Removed when the process ends as it should.
struct Directory {
  const std::string path = MakeDirectory();
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

}  // namespace

std::map<std::string, std::string> SplitFiles(const uint8_t* data, size_t size, const std::string& single) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::map<std::string, std::string> files;
  if (text.rfind(kMark, 0) != 0) {
    files[single] = text;
    return files;
  }
  const std::string between = std::string("\n") + kMark;
  for (size_t at = sizeof(kMark) - 1; at < text.size();) {
    const size_t next = std::min(text.find(between, at), text.size());
    const size_t line = std::min(text.find('\n', at), next);
    const std::string name = text.substr(at, line - at);
    if (CheckBareFileName(name).ok()) files[name] = line < next ? text.substr(line + 1, next - line - 1) : "";
    at = next + between.size();
  }
  return files;
}

std::string FreshDirectory() {
  static const Directory directory;
  for (const auto& entry : std::filesystem::directory_iterator(directory.path)) std::filesystem::remove_all(entry);
  Require(::chdir(directory.path.c_str()) == 0, "cannot enter " + directory.path);
  return directory.path;
}

void Put(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  Require(out.good(), "cannot write " + path);
}

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  Require(in.is_open(), "cannot read " + path);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

const std::shared_ptr<Runtime>& Plugins() {
  static const std::shared_ptr<Runtime> runtime = [] {
    RuntimeOptions options;
    options.plugin_path = XH_FUZZ_PLUGINS;
    options.threads = 1;
    return *Runtime::Open(options);
  }();
  return runtime;
}

void Require(bool kept, const std::string& what) {
  if (kept) return;
  std::fprintf(stderr, "broken rule: %s\n", what.c_str());
  std::abort();
}

void CheckMessage(const Status& status) {
  if (status.ok()) return;
  const std::string message(status.message());
  static const bool shown = std::getenv("XH_FUZZ_SHOW") != nullptr;
  if (shown) std::fprintf(stderr, "%s\n", message.c_str());
  Require(!message.empty(), "an error says nothing");
  Require(message.size() <= kLongestMessage,
          "a message of " + std::to_string(message.size()) + " bytes: " + message.substr(0, kLongestMessage));
  const bool one_line = std::none_of(message.begin(), message.end(), [](unsigned char c) { return c < 0x20; });
  Require(one_line, "a message of several lines, or with control characters: " + message);
}

MemoryBound::MemoryBound(size_t fixed, size_t factor, size_t input) : most_(fixed + factor * input) { ResetPeak(); }

MemoryBound::~MemoryBound() {
  const size_t held = PeakBytes();
  Require(held <= most_, std::to_string(held) + " bytes were held, at most " + std::to_string(most_) + " are allowed");
}

}  // namespace xh::fuzz
