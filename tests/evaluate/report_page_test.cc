#include "core/evaluate/report_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace xh {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

json ModelEntry(const std::string& name, int64_t bytes_per_token) {
  json task = {{"task", "recall"}, {"accuracy", 0.5}, {"cells", json::array()}};
  for (int64_t length : {64, 256}) {
    for (double depth : {0.0, 1.0}) {
      task["cells"].push_back({{"length", length}, {"depth", depth}, {"samples", 2}, {"accuracy", depth}});
    }
  }
  return {{"name", name},
          {"tasks", {task}},
          {"state", {{"bytes_per_token", bytes_per_token}, {"teacher_bytes_per_token", 1024}}}};
}

json Report(int models) {
  json report = {{"models", json::array()}};
  for (int m = 0; m < models; ++m) {
    json model = ModelEntry(m == 0 ? "teacher" : "student " + std::to_string(m), 1536 - 512 * m);
    if (m > 0) {
      model["alpha_star"] = 0.1;
      model["c_alpha"] = std::vector<double>(101, 1.0);
    }
    report["models"].push_back(model);
  }
  return report;
}

TEST(ReportPage, DrawsAccuracyOverLengthForEveryModel) {
  const std::string page = ReportPage(Report(2));
  EXPECT_THAT(page, HasSubstr("recall: accuracy over length"));
  EXPECT_THAT(page, HasSubstr("256 tokens, depth 1: 1.000"));
  EXPECT_THAT(page, HasSubstr("student 1"));
  EXPECT_THAT(page, HasSubstr("Win-and-Tie"));
}

TEST(ReportPage, DrawsWhatMemoryBuysFromThreeSizesOn) {
  EXPECT_THAT(ReportPage(Report(2)), Not(HasSubstr("share of the teacher")));
  EXPECT_THAT(ReportPage(Report(3)), HasSubstr("share of the teacher"));
}

TEST(ReportPage, DrawsGatesAndSaysWhereThereAreNone) {
  json report = Report(2);
  EXPECT_THAT(ReportPage(report), Not(HasSubstr("Mean gate")));
  report["models"][1]["gates"] = json::array({json::array({nullptr, 0.25})});
  const std::string page = ReportPage(report);
  EXPECT_THAT(page, HasSubstr("layer 0 head 1: 0.250"));
  EXPECT_THAT(page, HasSubstr("no mLSTM"));
}

TEST(ReportPage, NamesAreNoMarkup) {
  json report = Report(2);
  report["models"][1]["name"] = "<script>";
  EXPECT_THAT(ReportPage(report), Not(HasSubstr("<script>")));
}

TEST(ReportPage, APageThatCannotBeWrittenIsNamed) {
  const Status status = WriteReportPage("/nowhere/report.html", Report(2));
  EXPECT_EQ(CodeOf(status), XH_IO);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/report.html"));
}

}  // namespace
}  // namespace xh
