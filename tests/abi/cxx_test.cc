// xhybrid.hpp at work, on the teacher of the examples and on the plugins of this build.
#include <filesystem>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "xhybrid.hpp"

namespace {

using ::testing::ElementsAreArray;
using ::testing::FloatNear;
using ::testing::HasSubstr;
using ::testing::Pointwise;
using ::testing::StartsWith;

constexpr char kTeacher[] = XH_EXAMPLES "/teacher-llama-3m";

class CxxTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    runtime_ = new xh::Runtime();
    model_ = new xh::Model(runtime_->load(kTeacher, {{"dtype", "f32"}}));
  }
  static void TearDownTestSuite() {
    delete model_;
    delete runtime_;
  }
  static std::vector<int32_t> Question() {
    return model_->encode(model_->chat({{"user", "What is 7 times 5?"}}), /*add_special=*/true);
  }

  static xh::Runtime* runtime_;
  static xh::Model* model_;
};
xh::Runtime* CxxTest::runtime_ = nullptr;
xh::Model* CxxTest::model_ = nullptr;

TEST_F(CxxTest, AnErrorCarriesCodeOriginAndMessage) {
  try {
    runtime_->load("/nowhere/at-all");
    FAIL() << "a missing model was loaded";
  } catch (const xh::Error& error) {
    EXPECT_EQ(error.code(), XH_NOT_FOUND);
    EXPECT_EQ(error.origin(), "core");
    EXPECT_THAT(error.what(), HasSubstr("/nowhere/at-all"));
  }
}

TEST_F(CxxTest, OptionsKeepTheirKinds) {
  EXPECT_EQ(xh::Option("a", "text").view().kind, XH_OPTION_TEXT);
  EXPECT_EQ(xh::Option("a", 3).view().kind, XH_OPTION_INT);
  EXPECT_EQ(xh::Option("a", 3).view().integer, 3);
  EXPECT_EQ(xh::Option("a", 0.5f).view().real, 0.5);
  EXPECT_EQ(xh::Option("a", true).view().kind, XH_OPTION_BOOL);
  EXPECT_EQ(xh::Option("a", true).view().integer, 1);
}

TEST_F(CxxTest, AnOptionOfTheWrongKindIsRefusedByName) {
  try {
    model_->session({{"capacity", "many"}});
    FAIL() << "text was taken for a number";
  } catch (const xh::Error& error) {
    EXPECT_EQ(error.code(), XH_INVALID_ARGUMENT);
    EXPECT_THAT(error.what(), HasSubstr("capacity"));
  }
}

TEST_F(CxxTest, ADtypeThatIsNoneIsRefusedByName) {
  try {
    runtime_->load(kTeacher, {{"dtype", "f12"}});
    FAIL() << "a model was loaded as f12";
  } catch (const xh::Error& error) {
    EXPECT_EQ(error.code(), XH_INVALID_ARGUMENT);
    EXPECT_THAT(error.what(), HasSubstr("f12"));
  }
}

TEST_F(CxxTest, AnIdOutsideTheVocabularyIsRefused) {
  const auto vocab = static_cast<int32_t>(model_->vocab_size());
  EXPECT_THROW(model_->forward({vocab}), xh::Error);
  xh::Session session = model_->session();
  EXPECT_THROW(session.feed({1, vocab}), xh::Error);
  EXPECT_EQ(session.position(), 0);
}

TEST_F(CxxTest, AModelOutlivesItsRuntime) {
  std::string first;
  {
    xh::Runtime runtime;
    xh::Model model = runtime.load(kTeacher, {{"dtype", "f32"}});
    xh::Session session = model.session();
    { const xh::Runtime closed = std::move(runtime); }
    session.feed(Question());
    first = session.next().piece;
    EXPECT_THROW(runtime.load(kTeacher), xh::Error);  // NOLINT(bugprone-use-after-move): that is what is tested
  }
  xh::Session session = model_->session();
  session.feed(Question());
  EXPECT_EQ(first, session.next().piece);
}

TEST_F(CxxTest, TheRuntimeListsItsPlugins) {
  std::vector<std::string> names;
  for (const xh_plugin_info& info : runtime_->plugins()) names.emplace_back(info.name);
  EXPECT_THAT(names, ::testing::IsSupersetOf({"cpu", "sentencepiece"}));
  EXPECT_THAT(runtime_->report(), StartsWith("{"));
  EXPECT_THAT(runtime_->job_schema("distill"), HasSubstr("teacher"));
}

TEST_F(CxxTest, TextSurvivesEncodingAndDecoding) {
  const std::string text = "Tom has 12 apples.";
  EXPECT_EQ(model_->decode(model_->encode(text)), text);
  EXPECT_THAT(model_->encode(""), ElementsAreArray(std::vector<int32_t>()));
}

TEST_F(CxxTest, ChatKeepsEveryCharacterOfAMessage) {
  EXPECT_THAT(model_->chat({{"user", "a \"quoted\"\\ line\nand\ta tab"}}),
              HasSubstr("a \"quoted\"\\ line\nand\ta tab"));
}

TEST_F(CxxTest, ForwardGivesAVocabularyForEachTokenAndTheSessionTheLastOfThem) {
  const std::vector<int32_t> ids = Question();
  const std::vector<float> all = model_->forward(ids);
  const auto vocab = static_cast<size_t>(model_->vocab_size());
  ASSERT_EQ(all.size(), ids.size() * vocab);
  xh::Session session = model_->session();
  session.feed(ids);
  EXPECT_EQ(session.position(), static_cast<int64_t>(ids.size()));
  EXPECT_THAT(session.logits(), Pointwise(FloatNear(1e-3f), std::vector<float>(all.end() - vocab, all.end())));
}

TEST_F(CxxTest, ScoreHasOneEntryForEachTokenButTheFirst) {
  const std::vector<int32_t> ids = Question();
  const std::vector<float> scores = model_->score(ids);
  ASSERT_EQ(scores.size(), ids.size() - 1);
  for (const float score : scores) EXPECT_LE(score, 0.0f);
}

TEST_F(CxxTest, TheTeacherMultiplies) {
  xh::Session session = model_->session();
  session.feed(Question());
  std::string heard;
  const std::string answer = session.generate([&](const std::string& piece) { heard += piece; });
  EXPECT_THAT(answer, HasSubstr("35"));
  EXPECT_EQ(heard, answer);
}

TEST_F(CxxTest, AForkAndARestoredSnapshotGoOnAsTheOriginal) {
  xh::Session session = model_->session();
  session.feed(Question());
  xh::Session fork = session.fork();
  xh::Session restored = model_->session();
  restored.restore(session.snapshot());
  const std::string answer = session.generate();
  EXPECT_EQ(fork.generate(), answer);
  EXPECT_EQ(restored.generate(), answer);
  session.reset();
  EXPECT_EQ(session.position(), 0);
}

TEST_F(CxxTest, ABatchWritesWhatTheSessionWould) {
  xh::Session session = model_->session();
  session.feed(Question());
  xh::Batch batch = model_->batch(2, {{"capacity", int64_t{256}}});
  batch.put(1, session);
  std::string answer;
  for (bool finished = false; !finished;) {
    const std::vector<xh::Token> tokens = batch.next();
    ASSERT_EQ(tokens.size(), 2u);
    EXPECT_EQ(tokens[0].id, -1);
    answer += tokens[1].piece;
    finished = tokens[1].finished;
  }
  EXPECT_EQ(answer, session.generate());
  EXPECT_EQ(batch.next()[1].id, -1);  // it left its slot
}

TEST_F(CxxTest, ACancelledJobSaysSoAndLeavesNothing) {
  const std::string output = ::testing::TempDir() + "cancelled.xhy";
  xh::Job job =
      runtime_->job("import", R"({"model": ")" + std::string(kTeacher) + R"(", "output": ")" + output + R"("})");
  std::string event;
  EXPECT_TRUE(job.next(&event));
  job.cancel();
  try {
    job.run();
    FAIL() << "a cancelled job went on";
  } catch (const xh::Error& error) {
    EXPECT_EQ(error.code(), XH_CANCELLED);
  }
  EXPECT_FALSE(std::filesystem::exists(output));
}

TEST_F(CxxTest, EightThreadsWithASessionEachHearTheSame) {
  const std::vector<int32_t> question = Question();
  std::vector<std::string> answers(8);
  std::vector<std::thread> threads;
  for (std::string& answer : answers) {
    threads.emplace_back([&] {
      xh::Session session = model_->session();
      session.feed(question);
      answer = session.generate();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(answers, ::testing::Each(answers[0]));
  EXPECT_THAT(answers[0], HasSubstr("35"));
}

TEST_F(CxxTest, AJobOfAnUnknownKindIsRefused) { EXPECT_THROW(runtime_->job("dance", "{}"), xh::Error); }

TEST_F(CxxTest, AMovedFromHandleThrowsInsteadOfCrashing) {
  xh::Session session = model_->session();
  const xh::Session taken = std::move(session);
  EXPECT_THROW(session.feed({1}), xh::Error);  // NOLINT(bugprone-use-after-move): that is what is tested
  EXPECT_EQ(taken.position(), 0);
}

}  // namespace
