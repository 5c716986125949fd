// What training reads: schedules, documents, rows and their order.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "core/train/batches.h"
#include "core/train/dataset.h"
#include "core/train/schedule.h"
#include "tests/train/tiny.h"

namespace xh {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using tiny::TempDir;

std::string Message(const Status& status) { return std::string(status.message()); }

// ---- schedule ----

TEST(Schedule, RisesToThePeakAndEndsAtTheLastRate) {
  const Schedule cosine{Decay::kCosine, 1.0, 0.1, 4, 14};
  EXPECT_DOUBLE_EQ(LearningRate(cosine, 0), 0.25);
  EXPECT_DOUBLE_EQ(LearningRate(cosine, 3), 1.0);
  EXPECT_DOUBLE_EQ(LearningRate(cosine, 4), 1.0);
  EXPECT_NEAR(LearningRate(cosine, 13), 0.1, 1e-12);
  const Schedule linear{Decay::kLinear, 1.0, 0.0, 0, 11};
  EXPECT_DOUBLE_EQ(LearningRate(linear, 5), 0.5);
  EXPECT_DOUBLE_EQ(LearningRate(linear, 10), 0.0);
  const Schedule constant{Decay::kConstant, 0.5, 0.0, 2, 100};
  EXPECT_DOUBLE_EQ(LearningRate(constant, 0), 0.25);
  EXPECT_DOUBLE_EQ(LearningRate(constant, 99), 0.5);
}

TEST(Schedule, AWarmupLongerThanTheStageStillReachesThePeak) {
  const Schedule schedule{Decay::kCosine, 1.0, 0.1, 100, 10};
  EXPECT_DOUBLE_EQ(LearningRate(schedule, 9), 1.0);
}

// ---- documents ----

class DocumentsTest : public ::testing::Test {
 protected:
  DocumentsTest() : config_(tiny::Config()) {
    options_.config = &config_;
    options_.tokenizer_problem = "there are no tokenizer files";
    options_.warn = [this](const std::string& text) { warnings_.push_back(text); };
  }
  StatusOr<Documents> Read(const std::string& text, const std::string& kind = "auto") {
    tiny::WriteText(dir_ / "rows.jsonl", text);
    return ReadDocuments({dir_ / "rows.jsonl", 1, kind}, options_);
  }

  TempDir dir_;
  ModelConfig config_;
  DocumentOptions options_;
  std::vector<std::string> warnings_;
};

TEST_F(DocumentsTest, ReadsRowsWithBlankLinesCarriageReturnsAndAByteOrderMark) {
  auto read = Read("\xEF\xBB\xBF{\"ids\": [1, 5]}\r\n\n  \n{\"ids\": [6]}");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_THAT(read->tokens, ElementsAre(1, 5, 6));
  EXPECT_THAT(read->starts, ElementsAre(0, 2, 3));
  EXPECT_EQ(read->sha256.size(), 64u);
}

TEST_F(DocumentsTest, AMalformedRowIsAnErrorThatNamesFileAndLine) {
  struct Case {
    const char* row;
    const char* why;
  };
  const Case cases[] = {{"{\"ids\": [1,", "JSON"},
                        {"[1, 2]", "not a JSON object"},
                        {"{\"ids\": [1, 64]}", "token id 64"},
                        {"{\"ids\": [-1]}", "token id -1"},
                        {"{\"ids\": [99999999999]}", "token id -1"},
                        {"{\"ids\": [1.5]}", "integers"},
                        {"{\"ids\": []}", "empty"},
                        {"{\"ids\": 7}", "list"},
                        {"{\"messages\": []}", "no tokenizer"},
                        {"{\"text\": \"a\"}", "no tokenizer"},
                        {"{\"words\": \"a\"}", "\"text\" is missing"},
                        {"{\"text\": \"\xFF\"}", "JSON"}};
  for (const Case& c : cases) {
    auto read = Read(std::string("{\"ids\": [3]}\n") + c.row + "\n");
    ASSERT_FALSE(read.ok()) << c.row;
    EXPECT_THAT(Message(read.status()), HasSubstr("rows.jsonl:2: ")) << c.row;
    EXPECT_THAT(Message(read.status()), HasSubstr(c.why)) << c.row;
  }
}

TEST_F(DocumentsTest, AFewMalformedRowsAreSkippedWithAWarningEach) {
  options_.max_bad_rows = 2;
  auto read = Read("{\"ids\": [3]}\nnonsense\n{\"ids\": [99]}\n{\"ids\": [4]}\n");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->count(), 2);
  EXPECT_EQ(read->skipped_rows, 2);
  ASSERT_EQ(warnings_.size(), 2u);
  EXPECT_THAT(warnings_[1], HasSubstr("rows.jsonl:3: "));
  EXPECT_FALSE(Read("x\nx\nx\n{\"ids\": [3]}\n").ok());
}

TEST_F(DocumentsTest, AFileWithoutADocumentAndAMissingFileAreErrors) {
  EXPECT_THAT(Message(Read("\n\n").status()), HasSubstr("holds no document"));
  EXPECT_EQ(CodeOf(ReadDocuments({dir_ / "absent.jsonl", 1, "auto"}, options_).status()), XH_NOT_FOUND);
}

class ChatTest : public DocumentsTest {
 protected:
  void SetUp() override {
    auto runtime = tiny::OpenRuntime();
    ASSERT_TRUE(runtime.ok()) << runtime.status();
    runtime_ = *runtime;
    std::map<std::string, std::string> files;
    for (const char* name : {"tokenizer.model", "tokenizer_config.json"}) {
      files[name] = tiny::ReadText(std::string(XH_TEST_DATA) + "/text/" + name);
    }
    auto tokenizer = Tokenizer::Open(runtime_->registry(), files);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *tokenizer;
    config_ = tiny::Config(4096);
    options_.tokenizer = tokenizer_.get();
  }
  // Text of the tokens that count as targets.
  std::string TargetsOf(const Documents& documents) {
    std::vector<int32_t> targets;
    for (int32_t token : documents.tokens) {
      if (token >= 0) targets.push_back(token);
    }
    return *tokenizer_->Decode(targets);
  }

  std::shared_ptr<Runtime> runtime_;
  std::shared_ptr<Tokenizer> tokenizer_;
};

constexpr char kChat[] =
    R"({"messages": [{"role": "user", "content": "What is 2 + 3?"}, {"role": "assistant", "content": "It is 5."},
                    {"role": "user", "content": "And 4 + 4?"}, {"role": "assistant", "content": "It is 8."}]})";

TEST_F(ChatTest, ChatRowsAreRenderedAndOpenWithTheBeginToken) {
  std::string row = kChat;
  row.erase(std::remove(row.begin(), row.end(), '\n'), row.end());
  auto read = Read(row);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->tokens.front(), 1);
  EXPECT_THAT(*tokenizer_->Decode(read->tokens), HasSubstr("What is 2 + 3?"));
  EXPECT_TRUE(std::all_of(read->tokens.begin(), read->tokens.end(), [](int32_t id) { return id >= 0; }));
}

TEST_F(ChatTest, LossOnAssistantCountsTheRepliesAlone) {
  std::string row = kChat;
  row.erase(std::remove(row.begin(), row.end(), '\n'), row.end());
  auto all = Read(row);
  options_.loss_on_assistant = true;
  auto read = Read(row);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->tokens.size(), all->tokens.size());
  for (size_t i = 0; i < read->tokens.size(); ++i) {
    EXPECT_EQ(read->tokens[i] < 0 ? ~read->tokens[i] : read->tokens[i], all->tokens[i]);
  }
  const std::string targets = TargetsOf(*read);
  EXPECT_THAT(targets, HasSubstr("It is 5."));
  EXPECT_THAT(targets, HasSubstr("It is 8."));
  EXPECT_EQ(targets.find("What"), std::string::npos);
  EXPECT_EQ(targets.find("And"), std::string::npos);
}

TEST_F(ChatTest, ATextRowCountsWholeAndIsClosedWhereTheTokenizerDoesNotMarkIt) {
  options_.loss_on_assistant = true;
  auto read = Read("{\"text\": \"Once upon a time.\"}");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->tokens.front(), 1);
  config_.bos_id = -1;
  auto closed = Read("{\"text\": \"Once upon a time.\"}");
  EXPECT_EQ(closed->tokens.back(), 2);
  EXPECT_EQ(closed->tokens.size(), read->tokens.size() + 1);
}

// ---- batches ----

// `count` documents of `length` tokens; token values tell source, document and place apart.
Documents Numbered(int32_t first, int64_t count, int64_t length) {
  Documents documents;
  documents.path = absl::StrCat("source", first);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t t = 0; t < length; ++t) documents.tokens.push_back(static_cast<int32_t>(first + i * 100 + t));
    documents.starts.push_back(static_cast<int64_t>(documents.tokens.size()));
  }
  return documents;
}

BatchStream TwoSources(uint64_t seed) {
  std::vector<Documents> sources = {Numbered(100000, 20, 7), Numbered(200000, 30, 13)};
  return *BatchStream::Open(std::move(sources), {3, 1}, 16, seed);
}

std::vector<int32_t> Stream(BatchStream& stream, int64_t rows) {
  std::vector<int32_t> ids(static_cast<size_t>(rows * 16)), targets(ids.size());
  for (int64_t i = 0; i < rows; ++i) stream.NextRow(ids.data() + i * 16, targets.data() + i * 16);
  for (size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(targets[i], ids[i + 1]);
  return ids;
}

TEST(Batches, TheSameSeedGivesTheSameRowsAndAnotherSeedOthers) {
  BatchStream a = TwoSources(1), b = TwoSources(1), c = TwoSources(2);
  const std::vector<int32_t> rows = Stream(a, 50);
  EXPECT_EQ(rows, Stream(b, 50));
  EXPECT_NE(rows, Stream(c, 50));
}

TEST(Batches, DocumentsFollowOneAnotherWholeAndTakeTurnsByWeight) {
  BatchStream stream = TwoSources(5);
  const std::vector<int32_t> ids = Stream(stream, 200);
  int64_t first_source = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    first_source += ids[i] < 200000 ? 1 : 0;
    const bool ends = ids[i] % 100 == (ids[i] < 200000 ? 6 : 12);
    const bool last = i + 1 == ids.size();
    EXPECT_TRUE(last || ids[i + 1] % 100 == (ends ? 0 : ids[i] % 100 + 1)) << i;
  }
  EXPECT_NEAR(static_cast<double>(first_source) / static_cast<double>(ids.size()), 0.75, 0.01);
}

TEST(Batches, EveryPassHoldsEveryDocumentOnceInAnotherOrder) {
  BatchStream stream = *BatchStream::Open({Numbered(0, 16, 4)}, {1}, 16, 9);
  std::vector<int32_t> first, second;
  for (int32_t id : Stream(stream, 4)) first.push_back(id);
  for (int32_t id : Stream(stream, 4)) second.push_back(id);
  EXPECT_NE(first, second);
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  EXPECT_EQ(first, second);
  EXPECT_EQ(std::set<int32_t>(first.begin(), first.end()).size(), 64u);
}

TEST(Batches, APositionGivesTheRestOfTheStreamExactly) {
  for (int64_t rows : {0, 1, 7, 23, 60}) {
    BatchStream whole = TwoSources(4);
    Stream(whole, rows);
    const json position = json::parse(whole.Position().dump());
    BatchStream resumed = TwoSources(4);
    ASSERT_TRUE(resumed.Restore(position).ok());
    EXPECT_EQ(Stream(resumed, 40), Stream(whole, 40)) << rows;
  }
}

TEST(Batches, AForeignPositionIsRefused) {
  BatchStream stream = TwoSources(4);
  json position = stream.Position();
  position["sources"].erase(1);
  EXPECT_FALSE(stream.Restore(position).ok());
  position = stream.Position();
  position["end"] = 1000000;
  EXPECT_FALSE(stream.Restore(position).ok());
  EXPECT_FALSE(stream.Restore(json()).ok());
}

TEST(Batches, TokensThatDoNotCountAreInputsAndIgnoredTargets) {
  Documents documents;
  documents.tokens = {~5, ~6, 7, 8, ~9};
  documents.starts = {0, 5};
  BatchStream stream = *BatchStream::Open({documents}, {1}, 4, 0);
  int32_t ids[4], targets[4];
  stream.NextRow(ids, targets);
  EXPECT_THAT(ids, ElementsAre(5, 6, 7, 8));
  EXPECT_THAT(targets, ElementsAre(kIgnoredTarget, 7, 8, kIgnoredTarget));
}

TEST(Batches, StartsAreWhereDocumentsBeginInTheRow) {
  Documents documents;
  documents.tokens = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  documents.starts = {0, 1, 3, 9};
  BatchStream stream = *BatchStream::Open({documents}, {1}, 4, 0);
  const auto document = [&](int32_t id) {
    return std::upper_bound(documents.starts.begin(), documents.starts.end(), id - 1) - documents.starts.begin();
  };
  for (int row = 0; row < 9; ++row) {
    int32_t ids[4], targets[4], starts[4];
    stream.NextRow(ids, targets, starts);
    EXPECT_EQ(starts[0], 0);
    for (int t = 1; t < 4; ++t) {
      const bool begins = document(ids[t]) != document(ids[t - 1]) || ids[t] != ids[t - 1] + 1;
      EXPECT_EQ(starts[t], begins ? t : starts[t - 1]) << "row " << row << ", token " << t;
    }
  }
}

TEST(Batches, DataThatDoesNotFillARowIsRefused) {
  auto stream = BatchStream::Open({Numbered(0, 4, 4)}, {1}, 16, 0);
  EXPECT_THAT(Message(stream.status()), HasSubstr("holds 16 tokens; allowed: at least 17"));
}

}  // namespace
}  // namespace xh
