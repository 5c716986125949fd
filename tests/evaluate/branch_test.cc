#include "core/evaluate/branch.h"

#include "core/model/tap.h"
#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

using nlohmann::json;

constexpr char kTeacher[] = "hf_llama";

std::shared_ptr<const Model> Student(const json& options) { return MakeStudent(*LoadTeacher(kTeacher), options); }

std::vector<int32_t> Ids() { return ExpectedIds(kTeacher, "input_ids"); }

// The same tensors in layers of another kind.
Model WithKind(const Model& model, const std::string& kind) {
  Model other = model;
  for (MixerConfig& mixer : other.config.mixers) mixer.kind = kind;
  return other;
}

Model Keep(const Model& model, Branch branch) {
  Model other = model;
  const Status status = KeepBranch(branch, &other);
  EXPECT_TRUE(status.ok()) << status;
  return other;
}

TEST(ParseModelName, TakesTheBranchFromTheEnd) {
  EXPECT_EQ(ParseModelName("runs/a/student.xhy").path, "runs/a/student.xhy");
  EXPECT_EQ(ParseModelName("runs/a/student.xhy").branch, Branch::kBoth);
  EXPECT_EQ(ParseModelName("a.xhy:window").path, "a.xhy");
  EXPECT_EQ(ParseModelName("a.xhy:window").branch, Branch::kWindow);
  EXPECT_EQ(ParseModelName("a:mlstm.xhy:mlstm").path, "a:mlstm.xhy");
  EXPECT_EQ(ParseModelName("a:mlstm.xhy:mlstm").branch, Branch::kMlstm);
}

TEST(KeepBranch, OfTheWindowIsAModelOfWindows) {
  auto student = Student({{"window", 6}});
  const auto kept = Forward(Keep(*student, Branch::kWindow), Ids(), 1).logits;
  EXPECT_LT(RelativeError(kept, Forward(WithKind(*student, "window"), Ids(), 1).logits), 1e-6);
  EXPECT_GT(RelativeError(kept, Forward(*student, Ids(), 1).logits), 1e-3);
}

TEST(KeepBranch, OfTheMlstmIsAModelOfMlstms) {
  auto student = Student({{"window", 6}});
  const auto kept = Forward(Keep(*student, Branch::kMlstm), Ids(), 1).logits;
  EXPECT_LT(RelativeError(kept, Forward(WithKind(*student, "mlstm"), Ids(), 1).logits), 1e-6);
  EXPECT_GT(RelativeError(kept, Forward(*student, Ids(), 1).logits), 1e-3);
}

TEST(KeepBranch, LeavesTheModelItCameFromAlone) {
  auto student = Student({{"window", 6}});
  const auto before = Forward(*student, Ids(), 1).logits;
  Keep(*student, Branch::kMlstm);
  EXPECT_EQ(Forward(*student, Ids(), 1).logits, before);
}

TEST(KeepBranch, NeedsTwoBranches) {
  Model teacher = *LoadTeacher(kTeacher);
  EXPECT_THAT(KeepBranch(Branch::kWindow, &teacher), FailsWith(XH_INVALID_ARGUMENT, "allowed: a model with"));
  EXPECT_TRUE(KeepBranch(Branch::kBoth, &teacher).ok());
}

TEST(GateMeans, AreOfEveryHeadThatMixes) {
  auto student = Student({{"window", 6}, {"layers", {{{"layer", 1}, {"window", {0, 6}}}}}});
  const int64_t heads = student->config.heads, shared = heads / student->config.kv_heads;
  const json gates = GateMeans(*student, {Ids(), {1, 2, 3}}).value();
  ASSERT_EQ(gates.size(), static_cast<size_t>(student->config.layer_count));
  for (int64_t head = 0; head < heads; ++head) {
    EXPECT_GT(gates[0][head].get<double>(), 0);
    EXPECT_LT(gates[0][head].get<double>(), 1);
    EXPECT_EQ(gates[1][head].is_null(), head < shared) << "a kept head mixes nothing";
  }
}

TEST(GateMeans, WeighEveryTokenAlike) {
  auto student = Student({{"window", 6}});
  const std::vector<int32_t> one = {7}, three = {4, 5, 6};
  const double of_one = GateMeans(*student, {one}).value()[0][0], of_three = GateMeans(*student, {three}).value()[0][0];
  EXPECT_NEAR(GateMeans(*student, {one, three}).value()[0][0].get<double>(), (of_one + 3 * of_three) / 4, 1e-12);
}

TEST(GateMeans, FollowTheBranchThatIsKept) {
  auto student = Student({{"window", 6}});
  EXPECT_EQ(GateMeans(Keep(*student, Branch::kMlstm), {Ids()}).value()[0][0], 1.0);
  EXPECT_LT(GateMeans(Keep(*student, Branch::kWindow), {Ids()}).value()[0][0].get<double>(), 1e-40);
}

TEST(GateMeans, OfATeacherAreNone) { EXPECT_TRUE(GateMeans(*LoadTeacher(kTeacher), {Ids()}).value().is_null()); }

TEST(ForwardTap, RefusesTheGateOfALayerThatMixesNothing) {
  const std::vector<int32_t> ids = Ids();
  const auto gate = ForwardTap(*LoadTeacher(kTeacher), ids.data(), 4, "layers.0.mixer.gate");
  EXPECT_THAT(gate, FailsWith(XH_INVALID_ARGUMENT, "layer 0 has no gate"));
}

}  // namespace
}  // namespace xh::test
