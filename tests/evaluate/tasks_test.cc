#include "core/evaluate/tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>
#include <fstream>

namespace xh {
namespace {

using testing::HasSubstr;

class TasksTest : public testing::Test {
 protected:
  ~TasksTest() override { std::remove(path_.c_str()); }

  StatusOr<Task> Read(const std::string& content, int64_t limit = 0) {
    std::ofstream(path_) << content;
    return ReadTask(path_, limit);
  }
  void ExpectError(const std::string& content, const std::string& place, const std::string& what) {
    StatusOr<Task> task = Read(content);
    ASSERT_FALSE(task.ok()) << content;
    EXPECT_EQ(CodeOf(task.status()), XH_INVALID_ARGUMENT) << task.status();
    EXPECT_THAT(std::string(task.status().message()), HasSubstr(place));
    EXPECT_THAT(std::string(task.status().message()), HasSubstr(what));
  }

  std::string path_ = testing::TempDir() + "xhybrid_sums.test.jsonl";
};

constexpr char kQuestion[] =
    R"({"domain": "math", "messages": [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}]})";

TEST_F(TasksTest, WhatMayNeverEndIsNotRead) {
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  for (const std::string& path : {path_, std::string("/dev/zero")}) {
    StatusOr<Task> task = ReadTask(path, 0);
    EXPECT_EQ(CodeOf(task.status()), XH_CORRUPT) << task.status();
    EXPECT_THAT(std::string(task.status().message()), HasSubstr(path + " is not a regular file"));
  }
}

TEST_F(TasksTest, MessagesAreAQuestionAndItsAnswer) {
  StatusOr<Task> task = Read(std::string(kQuestion) + "\n\n" + kQuestion + "\n");
  ASSERT_TRUE(task.ok()) << task.status();
  EXPECT_EQ(task->name, "xhybrid_sums");
  EXPECT_EQ(task->kind, TaskKind::kExactMatch);
  ASSERT_EQ(task->samples.size(), 2u);
  ASSERT_EQ(task->samples[0].prompt.size(), 1u);
  EXPECT_EQ(task->samples[0].prompt[0].role, "user");
  EXPECT_EQ(task->samples[0].prompt[0].content, "2 + 3?");
  EXPECT_EQ(task->samples[0].answer, "5");
}

TEST_F(TasksTest, TextIsToBePredicted) {
  StatusOr<Task> task = Read("{\"text\": \"Once upon a time\"}\n");
  ASSERT_TRUE(task.ok()) << task.status();
  EXPECT_EQ(task->kind, TaskKind::kPerplexity);
  EXPECT_EQ(task->samples[0].text, "Once upon a time");
}

TEST_F(TasksTest, LimitTakesTheFirstRows) {
  StatusOr<Task> task = Read("{\"text\": \"a\"}\n{\"text\": \"b\"}\n{\"text\": \"c\"}\n", 2);
  ASSERT_TRUE(task.ok()) << task.status();
  ASSERT_EQ(task->samples.size(), 2u);
  EXPECT_EQ(task->samples[1].text, "b");
}

TEST_F(TasksTest, ErrorsNameFileAndLine) {
  ExpectError("{\"text\": \"a\"}\n{\"text\": \n", "xhybrid_sums.test.jsonl:2", "");
  ExpectError("{\"body\": \"a\"}\n", ".jsonl:1", "\"messages\" or \"text\"");
  ExpectError("{\"text\": 5}\n", ".jsonl:1", "text");
  ExpectError("{\"messages\": []}\n", ".jsonl:1", "a question and its answer");
  ExpectError("{\"messages\": [{\"role\": \"user\"}, {\"role\": \"assistant\", \"content\": \"5\"}]}\n",
              ".jsonl:1: messages[0]", "\"content\"");
  ExpectError("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"user\", \"content\": \"b\"}]}\n",
              ".jsonl:1", "allowed: assistant");
  ExpectError(std::string(kQuestion) + "\n{\"text\": \"a\"}\n", ".jsonl:2", "one kind");
  ExpectError("\n", "xhybrid_sums.test.jsonl", "has no rows");
}

TEST(Tasks, AMissingFileIsNotFound) {
  StatusOr<Task> task = ReadTask("/nowhere/math.test.jsonl", 0);
  EXPECT_EQ(CodeOf(task.status()), XH_NOT_FOUND);
  EXPECT_THAT(std::string(task.status().message()), HasSubstr("/nowhere/math.test.jsonl"));
}

}  // namespace
}  // namespace xh
