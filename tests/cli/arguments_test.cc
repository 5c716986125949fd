// Help, mistakes in the arguments and their exit statuses.
#include <gmock/gmock.h>

#include <map>

#include "program.h"

namespace {

using cli_test::Lines;
using cli_test::Outcome;
using cli_test::RunProgram;
using cli_test::Words;
using testing::HasSubstr;

TEST(Arguments, HelpOfEveryCommandEndsWellAndNamesItsFlags) {
  const std::map<std::string, Words> flags = {
      {"import", {"--dtype", "--replace", "--dry-run", "--options"}},
      {"distill", {"--recipe", "--teacher",   "--student", "--output",      "--stage",        "--steps",
                   "--data",   "--context",   "--batch",   "--micro-batch", "--seed",         "--dtype",
                   "--window", "--sinks",     "--mixer",   "--feature-map", "--features",     "--save-every",
                   "--set",    "--no-resume", "--dry-run", "--options",     "--learning-rate"}},
      {"plan", {"--recipe", "--micro-batch", "--checkpoint-blocks", "--options"}},
      {"merge", {"--method", "--weights", "--base", "--option", "--output", "--dtype", "--replace", "--options"}},
      {"generate",
       {"--raw", "--system", "--max-tokens", "--temperature", "--top-k", "--top-p", "--seed", "--stop", "--stats"}},
      {"evaluate", {"--task", "--names", "--limit", "--max-tokens", "--output", "--csv", "--options"}},
      {"inspect", {"--tensors", "--verify"}},
      {"bench", {"--window", "--context", "--micro-batch", "--decode-tokens", "--repeats", "--options"}},
      {"plugins", {"--options"}},
      {"doctor", {}},
      {"completion", {"bash,zsh,fish"}}};
  for (const auto& [command, names] : flags) {
    const Outcome outcome = RunProgram({command, "--help"});
    EXPECT_EQ(outcome.status, 0) << command;
    EXPECT_EQ(outcome.err, "") << command;
    EXPECT_THAT(outcome.out, HasSubstr("Example: ")) << command;
    for (const std::string& name : names) EXPECT_THAT(outcome.out, HasSubstr(name)) << command;
  }
}

TEST(Arguments, HelpOfTheProgramNamesCommandsAndGlobalFlags) {
  const Outcome outcome = RunProgram({"--help"});
  EXPECT_EQ(outcome.status, 0);
  for (const char* name : {"import", "distill", "merge", "generate", "evaluate", "inspect", "bench", "plugins",
                           "doctor", "completion", "--plugins", "--threads", "--device", "--quiet", "--json"}) {
    EXPECT_THAT(outcome.out, HasSubstr(name));
  }
}

TEST(Arguments, HelpShowsDefaults) {
  EXPECT_THAT(RunProgram({"generate", "--help"}).out, HasSubstr("--max-tokens INT:>=1=256"));
  EXPECT_THAT(RunProgram({"merge", "--help"}).out, HasSubstr("--method TEXT=linear"));
}

TEST(Arguments, AMistakeIsOneLineAndStatusTwo) {
  struct Mistake {
    Words arguments;
    std::string names;  // what the line has to name
  };
  const std::vector<Mistake> mistakes = {
      {{}, "subcommand"},
      {{"destill"}, "destill"},
      {{"import"}, "model"},
      {{"import", "in", "out.xhy", "--dtype", "f64"}, "f64"},
      {{"import", "in", "out.xhy", "--dytpe", "f32"}, "--dytpe"},
      {{"distill", "--context", "many"}, "--context"},
      {{"distill", "--set", "batch"}, "batch"},
      {{"distill", "--steps", "5"}, "--steps"},
      {{"distill", "--stage", "align", "--steps", "5", "--steps", "6"}, "--steps"},
      {{"distill", "--student", "a.xhy", "--window", "64"}, "--window"},
      {{"generate", "model.xhy", "Hello", "--temperature", "-1"}, "--temperature: is -1; allowed: numbers from 0"},
      {{"evaluate", "model.xhy"}, "--task"},
      {{"doctor", "--threads", "-3"}, "--threads"},
      {{"completion", "tcsh"}, "tcsh"},
  };
  for (const Mistake& mistake : mistakes) {
    const Outcome outcome = RunProgram(mistake.arguments);
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(Lines(outcome.err), 1u) << outcome.err;
    EXPECT_THAT(outcome.err, testing::StartsWith("xhybrid: "));
    EXPECT_THAT(outcome.err, HasSubstr(mistake.names));
  }
}

TEST(Arguments, WhatDoesNotExistIsOneLineAndStatusOne) {
  const std::vector<Words> commands = {{"inspect", "/nowhere/model.xhy"},
                                       {"import", "/nowhere/model", "/nowhere/model.xhy"},
                                       {"generate", "/nowhere/model.xhy", "Hello"},
                                       {"merge", "/nowhere/a.xhy", "/nowhere/b.xhy", "--output", "/nowhere/c.xhy"},
                                       {"evaluate", "/nowhere/a.xhy", "--task", "/nowhere/task.jsonl"},
                                       {"distill", "--recipe", "/nowhere/recipe.json"}};
  for (const Words& command : commands) {
    const Outcome outcome = RunProgram(command);
    EXPECT_EQ(outcome.status, 1) << command[0];
    EXPECT_EQ(Lines(outcome.err), 1u) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("/nowhere/")) << command[0];
  }
}

TEST(Arguments, AnUnknownDeviceNamesTheOnesThatThereAre) {
  const Outcome outcome = RunProgram({"generate", cli_test::TinyTeacher(), "Hello", "--device", "abacus"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.err, HasSubstr("abacus"));
  EXPECT_THAT(outcome.err, HasSubstr("cpu"));
}

TEST(Arguments, ADeviceThatCannotRunSaysWhyInItsOwnWordsWithEveryCommand) {
  const std::string teacher = cli_test::TinyTeacher();
  const std::vector<Words> commands = {
      {"generate", teacher, "Hello"},
      {"evaluate", teacher, "--task", "/nowhere/task.jsonl"},
      {"distill", "--teacher", teacher, "--stage", "align", "--data", "/nowhere/a.jsonl", "--output", "/nowhere/run"},
      {"plan", "--teacher", teacher, "--stage", "align", "--steps", "1"},
      {"probe", teacher, "--output", "/nowhere/probe"},
      {"tokenize", teacher, "--data", "/nowhere/a.jsonl", "--output", "/nowhere/rows"},
      {"import", teacher, "/nowhere/teacher.xhy"},
      {"export", teacher, "/nowhere/export"},
      {"merge", teacher, teacher, "--output", "/nowhere/merged.xhy"},
      {"bench", teacher},
      {"doctor"}};
  for (Words command : commands) {
    command.insert(command.end(), {"--plugins", XH_CANNOT_RUN, "--device", "absent"});
    const Outcome outcome = RunProgram(command);
    EXPECT_EQ(outcome.status, 1) << command[0];
    EXPECT_EQ(Lines(outcome.err), 1u) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("\"absent\" cannot run here: the driver finds no device")) << command[0];
  }
}

TEST(Arguments, OptionsListsARecipeWithoutAskingForTheRest) {
  const std::map<std::string, Words> fields = {{"import", {"model", "dtype"}},
                                               {"distill", {"teacher", "save_every", "loss_on"}},
                                               {"merge", {"models", "method"}},
                                               {"evaluate", {"tasks", "max_tokens"}},
                                               {"bench", {"decode_tokens", "repeats"}}};
  for (const auto& [command, names] : fields) {
    const Outcome outcome = RunProgram({command, "--options"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    for (const std::string& name : names) EXPECT_THAT(outcome.out, HasSubstr("\n" + name + " ")) << command;
    EXPECT_THAT(outcome.out, HasSubstr("(required)")) << command;
  }
}

TEST(Arguments, CompletionOfEveryShellNamesCommandsAndFlags) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const Outcome outcome = RunProgram({"completion", shell});
    EXPECT_EQ(outcome.status, 0) << shell;
    EXPECT_THAT(outcome.out, HasSubstr("evaluate")) << shell;
    EXPECT_THAT(outcome.out, HasSubstr("micro-batch")) << shell;
  }
}

}  // namespace
