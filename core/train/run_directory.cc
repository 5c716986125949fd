#include "core/train/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "core/checkpoint/entries.h"
#include "core/checkpoint/file.h"
#include "core/format.h"
#include "core/json_fields.h"
#include "core/lines.h"

namespace xh {
namespace {

using nlohmann::json;

constexpr char kPrefix[] = "step-";
constexpr char kSuffix[] = ".xhy";

// The step of a training checkpoint's name, -1 for any other name.
int64_t StepOf(const std::string& name) {
  const size_t prefix = sizeof(kPrefix) - 1, suffix = sizeof(kSuffix) - 1;
  if (name.size() <= prefix + suffix || name.compare(0, prefix, kPrefix) != 0) return -1;
  if (name.compare(name.size() - suffix, suffix, kSuffix) != 0) return -1;
  int64_t step = -1;
  const char* end = name.data() + name.size() - suffix;
  const auto [stop, error] = std::from_chars(name.data() + prefix, end, step);
  return error == std::errc() && stop == end ? step : -1;
}

Status WriteAll(int descriptor, const std::string& text, const std::string& path) {
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t count = ::write(descriptor, text.data() + written, text.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return SystemError("write", path);
    written += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

// Text may hold a path that is not UTF-8: replaced, never thrown at.
std::string Dump(const json& value, int indent) {
  return value.dump(indent, ' ', false, json::error_handler_t::replace);
}

}  // namespace

StatusOr<std::unique_ptr<RunDirectory>> RunDirectory::Open(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return IoError("cannot create ", path, ": ", error.message());
  std::unique_ptr<RunDirectory> directory(new RunDirectory(path));
  XH_RETURN_IF_ERROR(directory->Lock());
  return directory;
}

RunDirectory::~RunDirectory() {
  if (metrics_ >= 0) ::close(metrics_);
  if (lock_ >= 0) ::close(lock_);
}

Status RunDirectory::Lock() {
  const std::string name = path_ + "/.lock";
  lock_ = ::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0) return SystemError("create", name);
  if (::flock(lock_, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  if (errno != EWOULDBLOCK) return SystemError("lock", name);
  return InvalidState(path_, " is in use by another run; wait for it, or choose another \"output\"");
}

std::string RunDirectory::CheckpointPath(int64_t step) const {
  return Format("%s/%s%08d%s", path_, kPrefix, step, kSuffix);
}

std::string RunDirectory::StudentPath() const { return path_ + "/student.xhy"; }

StatusOr<std::vector<int64_t>> RunDirectory::CheckpointSteps() const {
  std::vector<int64_t> steps;
  XH_ASSIGN_OR_RETURN(const std::vector<std::string> entries, EntriesOf(path_));
  for (const std::string& entry : entries) {
    const int64_t step = StepOf(entry);
    if (step >= 0) steps.push_back(step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

Status RunDirectory::RemoveOldCheckpoints(int64_t keep) const {
  XH_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, CheckpointSteps());
  for (size_t i = static_cast<size_t>(keep); i < steps.size(); ++i) {
    XH_RETURN_IF_ERROR(Remove(CheckpointPath(steps[i])));
  }
  return absl::OkStatus();
}

StatusOr<json> RunDirectory::ReadRecipeFile() const {
  StatusOr<json> recipe = ReadJsonFile(path_ + "/recipe.json");
  if (!recipe.ok() && CodeOf(recipe.status()) == XH_NOT_FOUND) return json();
  return recipe;
}

Status RunDirectory::WriteRecipeFile(const json& recipe) const {
  return ReplaceFile("recipe.json", Dump(recipe, 2) + "\n");
}

// The file holds either its old content or all of the new one.
Status RunDirectory::ReplaceFile(const std::string& name, const std::string& content) const {
  const std::string target = path_ + "/" + name;
  const std::string temporary = absl::StrCat(path_, "/.", name, ".tmp");
  const int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) return SystemError("create", temporary);
  Status written = WriteAll(descriptor, content, temporary);
  if (written.ok() && ::fsync(descriptor) != 0) written = SystemError("fsync", temporary);
  ::close(descriptor);
  if (written.ok() && ::rename(temporary.c_str(), target.c_str()) != 0) written = SystemError("rename", temporary);
  if (!written.ok()) ::unlink(temporary.c_str());
  return written;
}

Status RunDirectory::StartMetrics(int64_t total_step) {
  const std::string path = path_ + "/metrics.jsonl";
  std::string kept, line;
  std::ifstream old(path, std::ios::binary);
  for (;;) {
    XH_ASSIGN_OR_RETURN(const bool more, NextLine(old, path, &line));
    if (!more) break;
    const StatusOr<json> parsed = ParseJson(line, path);
    const bool whole = parsed.ok() && parsed->is_object() && !old.eof();
    if (!whole || !parsed->contains("total_step") || (*parsed)["total_step"] > total_step) break;
    kept += line + "\n";
  }
  XH_RETURN_IF_ERROR(ReplaceFile("metrics.jsonl", kept));
  metrics_ = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  return metrics_ >= 0 ? absl::OkStatus() : SystemError("open", path);
}

Status RunDirectory::AppendMetrics(const json& line) {
  return WriteAll(metrics_, Dump(line, -1) + "\n", path_ + "/metrics.jsonl");
}

Status RunDirectory::SyncMetrics() {
  if (metrics_ >= 0 && ::fsync(metrics_) != 0) return SystemError("fsync", path_ + "/metrics.jsonl");
  return absl::OkStatus();
}

}  // namespace xh
