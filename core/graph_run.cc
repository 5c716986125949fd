// A graph's memory, planned before it runs, and its runs.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/checkpoint/dtype.h"
#include "core/graph_parts.h"

namespace xh {
namespace {

constexpr int64_t kAlignment = 256;  // of everything in the arena: a multiple of every backend's wish

int64_t RoundUp(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

// Drops the steps whose results nobody reads: a forward is declared whole and used up to where a stage taps it.
void Graph::DropUnusedSteps() {
  std::vector<bool> used(storages_.size(), false);
  std::vector<bool> keep(steps_.size(), false);
  for (size_t i = steps_.size(); i-- > 0;) {
    const Step& step = steps_[i];
    keep[i] = step.first_output < 0;
    for (size_t arg = std::max(step.first_output, 0); arg < step.args.size() && !keep[i]; ++arg) {
      if (!step.args[arg].valid()) continue;
      const int32_t storage = values_[step.args[arg].id].storage;
      keep[i] = used[storage] || storages_[storage].pinned || storages_[storage].external != nullptr;
    }
    if (!keep[i]) continue;
    for (Value arg : step.args) {
      if (arg.valid()) used[values_[arg.id].storage] = true;
    }
    if (step.saved >= 0) used[step.saved] = true;
  }
  size_t kept = 0;
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (!keep[i]) continue;
    if (kept != i) steps_[kept] = std::move(steps_[i]);
    ++kept;
  }
  steps_.erase(steps_.begin() + static_cast<std::ptrdiff_t>(kept), steps_.end());
}

// Between which steps each storage is alive, and the largest workspace.
void Graph::FindLifetimes() {
  for (size_t i = 0; i < steps_.size(); ++i) {
    const int64_t index = static_cast<int64_t>(i);
    auto use = [&](int32_t storage) {
      storages_[storage].first = std::min(storages_[storage].first, index);
      storages_[storage].last = std::max(storages_[storage].last, index);
    };
    for (Value arg : steps_[i].args) {
      if (arg.valid()) use(values_[arg.id].storage);
    }
    if (steps_[i].saved >= 0) use(steps_[i].saved);
    workspace_bytes_ = std::max(workspace_bytes_, steps_[i].plan->info.workspace_bytes);
  }
}

// Gives every storage an offset such that those alive at the same time do not overlap: largest first, each at the
// lowest free place. Returns the bytes needed.
int64_t Graph::PlanArena() {
  std::vector<int32_t> order;
  for (size_t i = 0; i < storages_.size(); ++i) {
    Storage& storage = storages_[i];
    if (storage.pinned) {
      storage.first = 0;
      storage.last = static_cast<int64_t>(steps_.size());
    }
    if (storage.external == nullptr && storage.last >= 0) order.push_back(static_cast<int32_t>(i));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return storages_[a].bytes > storages_[b].bytes; });
  std::vector<int32_t> placed;  // by offset
  int64_t total = 0;
  for (int32_t id : order) {
    Storage& storage = storages_[id];
    int64_t offset = 0;
    for (int32_t other_id : placed) {
      const Storage& other = storages_[other_id];
      if (other.last < storage.first || storage.last < other.first) continue;
      if (offset + storage.bytes <= other.offset) break;
      offset = std::max(offset, RoundUp(other.offset + other.bytes));
    }
    storage.offset = offset;
    total = std::max(total, RoundUp(offset + storage.bytes));
    auto place = std::upper_bound(placed.begin(), placed.end(), id,
                                  [&](int32_t a, int32_t b) { return storages_[a].offset < storages_[b].offset; });
    placed.insert(place, id);
  }
  return total;
}

void Graph::ResolvePointers() {
  auto base = [&](const Storage& storage) -> char* {
    if (storage.external != nullptr) return static_cast<char*>(storage.external);
    return static_cast<char*>(arena_.data()) + storage.offset;
  };
  for (Step& step : steps_) {
    for (size_t i = 0; i < step.args.size(); ++i) {
      if (!step.args[i].valid()) continue;
      const ValueInfo& info = values_[step.args[i].id];
      step.tensors[i].data = base(storages_[info.storage]) + info.offset * DTypeBytes(info.dtype);
    }
    if (step.saved >= 0) step.saved_data = base(storages_[step.saved]);
  }
}

Status Graph::Compile() {
  if (!status_.ok()) return status_;
  DropUnusedSteps();
  FindLifetimes();
  workspace_offset_ = PlanArena();
  arena_bytes_ = workspace_offset_ + RoundUp(workspace_bytes_);
  XH_ASSIGN_OR_RETURN(arena_, device_->Allocate(std::max(arena_bytes_, kAlignment)));
  ResolvePointers();
  compiled_ = true;
  for (const auto& [value, values] : constants_) {
    XH_RETURN_IF_ERROR(Write(value, values.data(), static_cast<int64_t>(values.size() * sizeof(float))));
  }
  return absl::OkStatus();
}

Status Graph::Run() {
  if (!compiled_) return InvalidState("the graph is not compiled");
  if (profile_ != nullptr) return RunSteps();
  if (++runs_ == 2 && device_->captures()) XH_RETURN_IF_ERROR(RecordSteps());
  return capture_ != nullptr ? device_->Replay(capture_) : RunSteps();
}

// What runs once is not worth recording, and what ran once is warm: backends choose and load on the first run.
Status Graph::RecordSteps() {
  StatusOr<Capture> capture = device_->Record([this] { return RunSteps(); });
  if (capture.ok()) capture_ = *std::move(capture);
  return CodeOf(capture.status()) == XH_UNSUPPORTED ? absl::OkStatus() : capture.status();
}

Status Graph::RunSteps() {
  void* workspace = static_cast<char*>(arena_.data()) + workspace_offset_;
  for (const Step& step : steps_) {
    auto start = profile_ != nullptr ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
    XH_RETURN_IF_ERROR(device_->RunPlan(*step.plan, step.tensors.data(), static_cast<int32_t>(step.tensors.size()),
                                        workspace, step.saved_data));
    if (profile_ == nullptr) continue;
    XH_RETURN_IF_ERROR(device_->Synchronize());
    OpTime& time = (*profile_)[absl::StrCat(FindOpTraits(step.op)->name, ".", kPassNames[step.pass])];
    ++time.calls;
    time.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return absl::OkStatus();
}

Status Graph::Write(Value value, const void* host, int64_t bytes) {
  const ValueInfo& info = values_[value.id];
  if (!compiled_ || bytes != size(value) * DTypeBytes(info.dtype)) {
    return Internal("a graph input of ", size(value) * DTypeBytes(info.dtype), " bytes was given ", bytes);
  }
  const Storage& storage = storages_[info.storage];
  if (storage.last < 0) return absl::OkStatus();  // no op reads it
  char* base = storage.external != nullptr ? static_cast<char*>(storage.external)
                                           : static_cast<char*>(arena_.data()) + storage.offset;
  return device_->Copy(base + info.offset * DTypeBytes(info.dtype), host, bytes);
}

Status Graph::Read(Value value, void* host, int64_t bytes) {
  XH_RETURN_IF_ERROR(Fetch(value, host, bytes));
  return device_->Synchronize();
}

Status Graph::Fetch(Value value, void* to, int64_t bytes) {
  const ValueInfo& info = values_[value.id];
  if (!compiled_ || !IsContiguous(value) || bytes != size(value) * DTypeBytes(info.dtype)) {
    return Internal("a graph value of ", size(value) * DTypeBytes(info.dtype), " contiguous bytes was read as ", bytes);
  }
  const Storage& storage = storages_[info.storage];
  const char* base = storage.external != nullptr ? static_cast<const char*>(storage.external)
                                                 : static_cast<const char*>(arena_.data()) + storage.offset;
  return device_->Copy(to, base + info.offset * DTypeBytes(info.dtype), bytes);
}

}  // namespace xh
