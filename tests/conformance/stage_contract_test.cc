// What every stage has to do, whatever it trains: its options, a declaration that is complete and always the same, and
// a state that survives a restart.
#include <gtest/gtest.h>

#include <memory>

#include "tests/conformance/heap.h"
#include "tests/conformance/option_checks.h"
#include "tests/conformance/program/settings.h"
#include "tests/conformance/stage_recorder.h"

namespace xh::test {
namespace {

struct Close {
  void operator()(xh_stage* stage) const { StageTable().close(stage); }
};
using Stage = std::unique_ptr<xh_stage, Close>;

Outcome OpenStage(const xh_option* options, int64_t count, Stage* out) {
  xh_stage* stage = nullptr;
  const Outcome outcome = TakeError(StageTable().open(options, count, &stage));
  if (outcome.code == 0) out->reset(stage);
  return outcome;
}

Stage Opened() {
  const OptionValues options(OptionsOf(StageTable().options_schema));
  Stage stage;
  EXPECT_EQ(OpenStage(options.data(), options.size(), &stage).message, "");
  return stage;
}

// One step as the stage declares it, which must work.
xh_step Declared(xh_stage* stage) {
  xh_step step;
  EXPECT_EQ(TakeError(StageTable().declare(stage, &RecordingHost(), &step)).message, "");
  return step;
}

void ExpectComplete(const xh_step& step) {
  for (const std::string& wrong : step.wrong) ADD_FAILURE() << "the stage asks for " << wrong;
  EXPECT_EQ(step.minimized, 1) << "minimize is called " << step.minimized << " times; once a step is allowed";
  EXPECT_GT(step.trainable, 0) << "nothing is trainable";
}

xh_error* Append(void* sink, const void* bytes, int64_t size) {
  EXPECT_GE(size, 0);
  static_cast<std::string*>(sink)->append(static_cast<const char*>(bytes), static_cast<size_t>(size));
  return nullptr;
}
xh_error* Refuse(void*, const void*, int64_t) { return TestHost().error_new(XH_IO, "core", "the disk is full"); }

std::string Saved(xh_stage* stage) {
  std::string bytes;
  EXPECT_EQ(TakeError(StageTable().save(stage, &bytes, Append)).message, "");
  return bytes;
}

Outcome Restore(xh_stage* stage, const std::string& bytes) {
  return TakeError(StageTable().restore(stage, bytes.data(), static_cast<int64_t>(bytes.size())));
}

bool HasState() { return StageTable().save != nullptr; }

TEST(StageOptions, AllowedValuesOpenAndDeclare) {
  CheckAllowedOptions(OptionsOf(StageTable().options_schema), [](const xh_option* options, int64_t count) {
    Stage stage;
    const Outcome outcome = OpenStage(options, count, &stage);
    if (outcome.code == 0) ExpectComplete(Declared(stage.get()));
    return outcome;
  });
}

TEST(StageOptions, HostileValuesAreTakenOrNamed) {
  CheckHostileOptions(OptionsOf(StageTable().options_schema), [](const xh_option* options, int64_t count) {
    Stage stage;
    const Outcome outcome = OpenStage(options, count, &stage);
    xh_step step;
    if (outcome.code == 0) TakeError(StageTable().declare(stage.get(), &RecordingHost(), &step));
    return outcome;
  });
}

TEST(StageDeclaration, IsComplete) { ExpectComplete(Declared(Opened().get())); }

TEST(StageDeclaration, IsAlwaysTheSame) {
  const Stage stage = Opened(), other = Opened();
  const std::vector<std::string> first = Declared(stage.get()).calls;
  EXPECT_EQ(Declared(stage.get()).calls, first) << "the second declaration of a stage differs from its first";
  EXPECT_EQ(Declared(other.get()).calls, first) << "another stage with the same options declares something else";
}

TEST(StageDeclaration, ErrorsOfTheHostArePassedOn) {
  const int calls = static_cast<int>(Declared(Opened().get()).calls.size());
  for (int at = 0; at < calls; ++at) {
    const Stage stage = Opened();
    xh_step step;
    step.fail_at = at;
    xh_error* error = StageTable().declare(stage.get(), &RecordingHost(), &step);
    EXPECT_EQ(error, step.failed) << "the host's error in call " << at << " (" << step.calls.back()
                                  << ") is not what declare returns";
    TakeError(error);
    EXPECT_EQ(static_cast<int>(step.calls.size()), at + 1) << "the stage goes on after an error of the host";
  }
}

TEST(StageState, SurvivesARestart) {
  if (!HasState()) return;
  const Stage stage = Opened();
  for (int steps = 0; steps < 3; ++steps) {
    const std::string bytes = Saved(stage.get());
    EXPECT_TRUE(Saved(stage.get()) == bytes) << "saving twice gives different bytes";
    const Stage restored = Opened();
    ASSERT_EQ(Restore(restored.get(), bytes).message, "");
    EXPECT_TRUE(Saved(restored.get()) == bytes) << "the state that was restored is not what was saved";
    EXPECT_EQ(Declared(restored.get()).calls, Declared(stage.get()).calls) << "a restored stage declares another step";
    EXPECT_TRUE(Saved(restored.get()) == Saved(stage.get())) << "a restored stage goes on otherwise";
  }
}

TEST(StageState, DamageIsRefusedAndWriteErrorsArePassedOn) {
  if (!HasState()) return;
  const Stage stage = Opened();
  Declared(stage.get());
  const std::string bytes = Saved(stage.get());
  if (!bytes.empty()) {
    EXPECT_EQ(TakeError(StageTable().save(stage.get(), nullptr, Refuse)).code, XH_IO) << "an error of write is lost";
    EXPECT_NE(Restore(Opened().get(), bytes.substr(0, bytes.size() - 1)).code, 0) << "a state cut short is taken";
    EXPECT_NE(Restore(Opened().get(), "").code, 0) << "an empty state is taken";
  }
  for (const std::string& hostile : {std::string(1, '\0'), std::string(4096, '\xff'), bytes + "x"}) {
    Restore(Opened().get(), hostile);  // taken or refused, without a crash
  }
}

TEST(StageMemory, OpenAndCloseGiveItBack) {
  ExpectNoLeak("open, declare and close", [] { Declared(Opened().get()); });
}

}  // namespace
}  // namespace xh::test
