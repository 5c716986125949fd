// SIGINT to `xhybrid distill`: the step in hand is finished and saved, and the same command goes on to the same
// student.
#include <gtest/gtest.h>
#include <signal.h>

#include "place.h"
#include "tests/cli/program.h"

namespace {

using cli_test::Outcome;

TEST(InterruptTest, AnInterruptedRunGoesOnAsIfItHadNeverStopped) {
  const faults::Place place;
  faults::WriteRows(place / "data.jsonl");
  const auto distill = [&](const std::string& output) {
    return cli_test::Words{"distill",
                           "--teacher",
                           faults::SmallTeacher(),
                           "--output",
                           place / output,
                           "--stage",
                           "align",
                           "--data",
                           place / "data.jsonl",
                           "--steps",
                           "400",
                           "--context",
                           "16",
                           "--batch",
                           "2",
                           "--window",
                           "4",
                           "--sinks",
                           "1",
                           "--save-every",
                           "0",
                           "--threads",
                           "1",
                           "--json"};
  };
  const Outcome undisturbed = cli_test::RunProgram(distill("undisturbed"));
  ASSERT_EQ(undisturbed.status, 0) << undisturbed.err;
  const Outcome interrupted = cli_test::RunInterrupted(distill("out"), "\"kind\":\"step\"");
  ASSERT_EQ(interrupted.status, 130) << interrupted.err;
  // Nothing was saved on the way: the step of the checkpoint is the one that was in hand.
  const size_t said = interrupted.err.find("cancelled after step ");
  ASSERT_NE(said, std::string::npos) << interrupted.err;
  const int step = std::stoi(interrupted.err.substr(said + 21));
  EXPECT_GT(step, 0);
  EXPECT_LT(step, 400) << "the run was too short to be interrupted";
  char name[64];
  std::snprintf(name, sizeof(name), "out/step-%08d.xhy/manifest.xhy", step);
  EXPECT_NE(faults::ReadText(place / name), "") << name;
  const Outcome resumed = cli_test::RunProgram(distill("out"));
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_EQ(resumed.err.find("\"step\":" + std::to_string(step) + ","), std::string::npos) << "a step was made again";
  EXPECT_TRUE(faults::ReadTree(place / "out/student.xhy") == faults::ReadTree(place / "undisturbed/student.xhy"));
}

}  // namespace
