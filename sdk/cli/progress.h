// What a long job shows while it runs: one updating line on a terminal, a plain line now and then elsewhere.
#ifndef XHYBRID_SDK_CLI_PROGRESS_H_
#define XHYBRID_SDK_CLI_PROGRESS_H_

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

namespace cli {

class Progress {
 public:
  explicit Progress(bool quiet);
  ~Progress();
  void Show(const nlohmann::json& event);

 private:
  void Update(const std::string& line, bool milestone);

  bool quiet_;
  bool terminal_;
  bool open_line_ = false;
  std::chrono::steady_clock::time_point last_{};
};

// One line for an event of any job kind; *milestone: worth a line of its own.
std::string DescribeEvent(const nlohmann::json& event, bool* milestone);

}  // namespace cli

#endif  // XHYBRID_SDK_CLI_PROGRESS_H_
