#include "progress.h"

#include <unistd.h>

#include <cstdio>

#include "table.h"

using nlohmann::json;

namespace cli {
namespace {

double Number(const json& event, const char* key) {
  const auto found = event.find(key);
  return found != event.end() && found->is_number() ? found->get<double>() : 0;
}

std::string Text(const json& event, const char* key) {
  const auto found = event.find(key);
  if (found == event.end()) return "";
  return found->is_string() ? found->get<std::string>() : found->dump();
}

std::string Count(const json& event, const char* done, const char* total) {
  return Fixed(Number(event, done), 0) + "/" + Fixed(Number(event, total), 0);
}

std::string DescribePlan(const json& event) {
  std::string line = "plan: " + Fixed(Number(event, "tokens_per_step"), 0) + " tokens a step, " +
                     Fixed(Number(event, "total_steps"), 0) + " steps, " + Bytes(Number(event, "memory_bytes")) +
                     " for step and optimiser; " + Fixed(Number(event, "documents"), 0) + " documents, " +
                     Fixed(Number(event, "tokens") / 1e6, 2) + "M tokens";
  for (const json& stage : event.value("stages", json::array())) {
    line += "\n  " + Text(stage, "stage") + ": " + Fixed(Number(stage, "steps"), 0) + " steps, " +
            Fixed(Number(stage, "trained_parameters"), 0) + " parameters train";
  }
  if (Number(event, "total_step") > 0) line += "\n  going on from step " + Fixed(Number(event, "total_step"), 0);
  return line;
}

std::string DescribeStep(const json& event) {
  std::string line =
      Text(event, "stage") + " " + Count(event, "step", "steps") + "  loss " + Fixed(Number(event, "loss"), 4);
  if (event.contains("relative_loss")) line += "  relative " + Fixed(Number(event, "relative_loss"), 5);
  if (event.contains("kl")) {
    line += "  ce " + Fixed(Number(event, "cross_entropy"), 3) + "  kl " + Fixed(Number(event, "kl"), 4);
  }
  return line + "  " + Fixed(Number(event, "tokens_per_second"), 0) + " tokens/s  " +
         Bytes(Number(event, "memory_bytes")) + "  left " + Duration(Number(event, "eta_seconds"));
}

}  // namespace

std::string DescribeEvent(const json& event, bool* milestone) {
  const std::string kind = Text(event, "kind");
  *milestone = true;
  if (kind == "plan") return DescribePlan(event);
  if (kind == "saved" || kind == "done") return "saved " + Text(event, "path");
  if (kind == "stage_done") return "stage " + Text(event, "stage") + " done";
  *milestone = false;
  if (kind == "step") return DescribeStep(event);
  if (kind == "memory") return "planned";
  std::string line = kind;
  for (const char* key : {"model", "task", "tensor", "name", "part"}) {
    if (event.contains(key)) line += " " + Text(event, key);
  }
  if (event.contains("total")) line += "  " + Count(event, "done", "total");
  for (const char* key : {"accuracy", "perplexity"}) {
    if (!event.contains(key)) continue;
    line += std::string("  ") + key + " " + Fixed(Number(event, key), 3);
    *milestone = true;
  }
  if (event.contains("eta_seconds")) line += "  left " + Duration(Number(event, "eta_seconds"));
  return line;
}

Progress::Progress(bool quiet) : quiet_(quiet), terminal_(isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() {
  if (open_line_) std::fputs("\n", stderr);
}

void Progress::Show(const json& event) {
  if (quiet_) return;
  bool milestone = false;
  const std::string line = DescribeEvent(event, &milestone);
  Update(line, milestone);
}

void Progress::Update(const std::string& line, bool milestone) {
  constexpr auto kPlainInterval = std::chrono::seconds(10);
  constexpr auto kTerminalInterval = std::chrono::milliseconds(100);
  const auto now = std::chrono::steady_clock::now();
  if (!milestone && now - last_ < (terminal_ ? kTerminalInterval : kPlainInterval)) return;
  last_ = now;
  if (!terminal_) {
    std::fprintf(stderr, "%s\n", line.c_str());
    return;
  }
  std::fprintf(stderr, "\r\033[K%s%s", line.c_str(), milestone ? "\n" : "");
  open_line_ = !milestone;
  std::fflush(stderr);
}

}  // namespace cli
