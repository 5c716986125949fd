// What a run leaves to look at: an HTML page of curves, and TensorBoard events.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "core/checkpoint/digest.h"
#include "core/train/html_report.h"
#include "core/train/tensorboard.h"

namespace xh {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

std::vector<json> TwoStages() {
  return {{{"stage", "align"}, {"step", 1}, {"loss", 4.0}, {"relative_loss", 0.5}},
          {{"stage", "align"},
           {"step", 2},
           {"loss", 2.0},
           {"relative_loss", 0.25},
           {"layers", {{{"layer", 0}, {"relative_loss", 0.125}}}}},
          {{"stage", "distill"}, {"step", 1}, {"loss", 1.5}, {"kl", nullptr}}};
}

int64_t Count(const std::string& text, const std::string& part) {
  int64_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(HtmlReport, DrawsEveryMetricOfEveryStage) {
  const std::string page = HtmlReport("run", TwoStages());
  EXPECT_THAT(page, HasSubstr("<h2>align</h2>"));
  EXPECT_THAT(page, HasSubstr("<h2>distill</h2>"));
  EXPECT_EQ(Count(page, "<polyline"), 3);  // loss twice, relative_loss once; a missing kl is no curve
  EXPECT_THAT(page, HasSubstr("0.12500"));
}

TEST(HtmlReport, TextFromOutsideIsNoMarkup) {
  EXPECT_THAT(HtmlReport("<script>", TwoStages()), Not(HasSubstr("<script>")));
}

TEST(HtmlReport, ADirectoryThatCannotBeWrittenIsNamed) {
  const Status status = WriteHtmlReport("/nonexistent/run");
  EXPECT_EQ(CodeOf(status), XH_NOT_FOUND);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nonexistent/run"));
}

uint32_t Masked(const std::string& bytes) {
  const uint32_t crc = Crc32c(bytes.data(), bytes.size());
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

template <typename T>
T ReadAt(const std::string& bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

TEST(EventWriter, WritesFramedRecordsWithRightChecksums) {
  const std::string directory = testing::TempDir() + "xhybrid_events_" + std::to_string(getpid());
  {
    auto writer = EventWriter::Open(directory);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->Append(7, {{"align/loss", 2.5}}).ok());
  }
  const auto file = std::filesystem::directory_iterator(directory)->path();
  std::ifstream stream(file, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(stream), {});
  std::vector<std::string> events;
  for (size_t at = 0; at < bytes.size();) {
    const auto length = ReadAt<uint64_t>(bytes, at);
    ASSERT_LE(at + 16 + length, bytes.size());
    EXPECT_EQ(ReadAt<uint32_t>(bytes, at + 8), Masked(bytes.substr(at, 8)));
    events.push_back(bytes.substr(at + 12, length));
    EXPECT_EQ(ReadAt<uint32_t>(bytes, at + 12 + length), Masked(events.back()));
    at += 16 + length;
  }
  ASSERT_EQ(events.size(), 2u);
  EXPECT_THAT(events[0], HasSubstr("brain.Event:2"));
  EXPECT_THAT(events[1], HasSubstr("align/loss"));
  EXPECT_EQ(events[1][10], 7);  // the step, behind its tag and the wall time
  EXPECT_EQ(ReadAt<float>(events[1], events[1].size() - 4), 2.5f);
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace xh
