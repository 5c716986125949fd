// Batches: the tokens of every sequence are those of its session, whoever is beside it.
#include "core/generate/batch.h"

#include <algorithm>
#include <cmath>

#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

using nlohmann::json;

constexpr char kTeacher[] = "hf_qwen2";

// No token ends its text.
std::shared_ptr<const Model> Hybrid() {
  static const auto model = [] {
    auto made = std::make_shared<Model>(*MakeStudent(
        *LoadTeacher(kTeacher), json::parse(R"({"window": 6, "layers": [{"layer": 1, "kind": "attention"}]})")));
    made->config.eos_ids.clear();
    return made;
  }();
  return model;
}

// A session that has read `count` tokens from the `first` of the teacher's example on.
std::unique_ptr<Session> Reader(int64_t first, int64_t count, const SamplerOptions& sampler = {},
                                std::shared_ptr<const Model> model = Hybrid(), int64_t capacity = 0) {
  auto session = Session::Open(std::move(model), capacity);
  EXPECT_TRUE(session.ok()) << session.status();
  const std::vector<int32_t> ids = ExpectedIds(kTeacher, "input_ids");
  EXPECT_TRUE((*session)->SetSampler(sampler).ok());
  EXPECT_TRUE((*session)->Feed(ids.data() + first, count).ok());
  return *std::move(session);
}

std::unique_ptr<Batch> OpenBatch(int64_t slots, int64_t capacity = 0, std::shared_ptr<const Model> model = Hybrid()) {
  auto batch = Batch::Open(std::move(model), slots, capacity);
  EXPECT_TRUE(batch.ok()) << batch.status();
  return *std::move(batch);
}

SamplerOptions Sampling(uint64_t seed) {
  SamplerOptions sampler;
  sampler.temperature = 1;
  sampler.seed = seed;
  return sampler;
}

SamplerOptions AtMost(int64_t tokens) {
  SamplerOptions sampler;
  sampler.max_tokens = tokens;
  return sampler;
}

// Tokens of one step, -1 where there is none; the message in their place when it fails.
std::string Step(Batch* batch) {
  auto chosen = batch->Next();
  if (!chosen.ok()) return std::string(chosen.status().message());
  std::string text;
  for (const std::optional<Chosen>& one : *chosen) {
    absl::StrAppend(&text, text.empty() ? "" : " ", one.has_value() ? one->token : -1,
                    one.has_value() && one->finished ? "." : "");
  }
  return text;
}

void Succeed(const Status& status) { EXPECT_TRUE(status.ok()) << status; }

TEST(Batch, WritesWhatEachSessionWouldWrite) {
  auto batch = OpenBatch(4);
  std::vector<std::unique_ptr<Session>> sessions;
  sessions.push_back(Reader(0, 9));
  sessions.push_back(Reader(20, 31));
  sessions.push_back(Reader(3, 1, Sampling(7)));
  sessions.push_back(Reader(40, 14, Sampling(8)));
  for (int64_t slot = 0; slot < 4; ++slot) ASSERT_TRUE(batch->Put(slot, *sessions[slot]).ok());
  for (int t = 0; t < 40; ++t) {
    auto chosen = batch->Next();
    ASSERT_TRUE(chosen.ok()) << chosen.status();
    for (int64_t slot = 0; slot < 4; ++slot) {
      ASSERT_TRUE((*chosen)[slot].has_value());
      EXPECT_EQ((*chosen)[slot]->token, sessions[slot]->Next()->token) << "slot " << slot << " token " << t;
    }
  }
}

TEST(Batch, SequencesComeAndGoWithoutTouchingOthers) {
  auto batch = OpenBatch(3);
  auto stays = Reader(0, 9);
  ASSERT_TRUE(batch->Put(1, *stays).ok());
  for (int t = 0; t < 24; ++t) {
    if (t == 4) Succeed(batch->Put(0, *Reader(20, 31)));
    if (t == 9) Succeed(batch->Put(2, *Reader(5, 60)));
    if (t == 12) Succeed(batch->Drop(0));
    if (t == 14) Succeed(batch->Put(2, *Reader(50, 3)));  // in place of what was there
    if (t == 16) Succeed(batch->Put(0, *Reader(30, 12)));
    auto chosen = batch->Next();
    ASSERT_TRUE(chosen.ok()) << chosen.status();
    EXPECT_EQ((*chosen)[0].has_value(), (t >= 4 && t < 12) || t >= 16);
    EXPECT_EQ((*chosen)[2].has_value(), t >= 9);
    EXPECT_EQ((*chosen)[1]->token, stays->Next()->token) << t;
  }
}

TEST(Batch, ASessionThatWasPutStaysAsItWas) {
  auto session = Reader(0, 9, Sampling(3));
  const std::string before = *session->Snapshot();
  auto batch = OpenBatch(2);
  ASSERT_TRUE(batch->Put(0, *session).ok());
  const std::string first = Step(batch.get());
  EXPECT_EQ(*session->Snapshot(), before);
  ASSERT_TRUE(batch->Put(1, *session).ok());  // and the copy in slot 0 has a sampler of its own
  EXPECT_EQ(absl::StrCat(session->Next()->token, " -1"), first);
}

TEST(Batch, AFinishedSequenceLeavesItsSlot) {
  auto batch = OpenBatch(2);
  auto longer = Reader(20, 10, AtMost(5));
  ASSERT_TRUE(batch->Put(0, *Reader(0, 9, AtMost(2))).ok());
  ASSERT_TRUE(batch->Put(1, *longer).ok());
  EXPECT_THAT(Step(batch.get()), testing::MatchesRegex("[0-9]+ [0-9]+"));
  EXPECT_THAT(Step(batch.get()), testing::MatchesRegex("[0-9]+\\. [0-9]+"));
  EXPECT_THAT(Step(batch.get()), testing::MatchesRegex("-1 [0-9]+"));
  EXPECT_THAT(Step(batch.get()), testing::MatchesRegex("-1 [0-9]+"));
  EXPECT_THAT(Step(batch.get()), testing::MatchesRegex("-1 [0-9]+\\."));
  EXPECT_EQ(Step(batch.get()), "-1 -1");
}

TEST(Batch, ASequenceWithoutRoomIsNamedAndNothingChanges) {
  auto batch = OpenBatch(2, 12);
  auto other = Reader(20, 5);
  ASSERT_TRUE(batch->Put(0, *other).ok());
  ASSERT_TRUE(batch->Put(1, *Reader(0, 11)).ok());
  ASSERT_TRUE(batch->Next().ok());
  ASSERT_TRUE(other->Next().ok());
  EXPECT_EQ(Step(batch.get()), "slot 1: position 13 exceeds capacity 12");
  EXPECT_EQ(Step(batch.get()), "slot 1: position 13 exceeds capacity 12");
  ASSERT_TRUE(batch->Drop(1).ok());
  EXPECT_EQ(Step(batch.get()), absl::StrCat(other->Next()->token, " -1"));
}

TEST(Batch, LogitsThatAreNotFiniteLoseTheirSequenceAlone) {
  // What reads token 7 is bad; embeddings and head are apart in this teacher.
  auto model = std::make_shared<Model>(*MakeStudent(*LoadTeacher("hf_llama"), {{"window", 6}}));
  model->config.eos_ids.clear();
  auto good = Reader(0, 9, {}, model);
  const int32_t next = good->Next()->token;
  std::vector<float> table = ReadWeight(*model, "model.embed_tokens.weight");
  const std::vector<int32_t> ids = ExpectedIds(kTeacher, "input_ids");
  ASSERT_EQ(std::count(ids.begin(), ids.begin() + 25, next), 0);
  for (int64_t c = 0; c < 64; ++c) table[next * 64 + c] = NAN;
  model->weights["model.embed_tokens.weight"] = NewWeight(*model, {160, 64}, table);
  auto batch = OpenBatch(2, 0, model);
  auto other = Reader(20, 5, {}, model);
  ASSERT_TRUE(batch->Put(0, *Reader(0, 9, {}, model)).ok());
  ASSERT_TRUE(batch->Put(1, *other).ok());
  ASSERT_TRUE(batch->Next().ok());
  ASSERT_TRUE(other->Next().ok());
  EXPECT_EQ(Step(batch.get()), "slot 0 is lost: the logits at position 9 are not finite; drop it");
  ASSERT_TRUE(batch->Drop(0).ok());
  EXPECT_EQ(Step(batch.get()), absl::StrCat("-1 ", other->Next()->token));
}

TEST(Batch, RefusesWhatItCannotGoOnFrom) {
  EXPECT_THAT(Batch::Open(Hybrid(), 0), FailsWith(XH_INVALID_ARGUMENT, "\"slots\" is 0; allowed: 1 to 1024"));
  EXPECT_THAT(Batch::Open(Hybrid(), 1025), FailsWith(XH_INVALID_ARGUMENT, "\"slots\" is 1025"));
  auto batch = OpenBatch(2, 12);
  EXPECT_THAT(batch->Put(2, *Reader(0, 3)), FailsWith(XH_INVALID_ARGUMENT, "slot 2; allowed: 0 to 1"));
  EXPECT_THAT(batch->Put(-1, *Reader(0, 3)), FailsWith(XH_INVALID_ARGUMENT, "slot -1; allowed: 0 to 1"));
  EXPECT_THAT(batch->Drop(2), FailsWith(XH_INVALID_ARGUMENT, "slot 2; allowed: 0 to 1"));
  EXPECT_THAT(batch->Put(0, *Reader(0, 0)), FailsWith(XH_INVALID_STATE, "slot 0: the session has read no token yet"));
  EXPECT_THAT(batch->Put(0, *Reader(0, 13)),
              FailsWith(XH_INVALID_ARGUMENT, "slot 0: position 13 of the session exceeds capacity 12"));
  EXPECT_THAT(batch->Put(0, *Reader(0, 3, {}, LoadTeacher(kTeacher))),
              FailsWith(XH_INVALID_ARGUMENT, "slot 0: the session is of another model"));
  auto ended = Reader(0, 3, AtMost(1));
  ASSERT_TRUE(ended->Next()->finished);
  EXPECT_THAT(batch->Put(0, *ended), FailsWith(XH_INVALID_STATE, "slot 0: the session's text has ended"));
  EXPECT_EQ(Step(batch.get()), "-1 -1");
}

TEST(Batch, HoldsAStateForEverySlot) {
  const int64_t one = Reader(0, 1, {}, Hybrid(), 40)->state_bytes();
  EXPECT_EQ(OpenBatch(5, 40)->state_bytes(), 5 * one);
}

// The cpu backend, whose synchronize fails when told to.
struct Failing {
  xh_backend real{}, table{};
  bool fails = false;
} failing;

TEST(Batch, WhenTheDeviceFailsEverySequenceIsLost) {
  failing = Failing{};
  failing.real = failing.table = **CpuRuntime()->registry().FindBackend("cpu");
  failing.table.synchronize = [](xh_stream* stream) -> xh_error* {
    if (failing.fails) return failing.real.copy(stream, nullptr, nullptr, -1);  // any error of the backend's own
    return failing.real.synchronize(stream);
  };
  auto model = std::make_shared<Model>(*Hybrid());
  model->device = *Device::Open(&failing.table, "cpu", 0, nullptr, 0);
  auto batch = OpenBatch(2, 40, model);
  ASSERT_TRUE(batch->Put(1, *Reader(0, 9, {}, model, 40)).ok());
  failing.fails = true;
  EXPECT_FALSE(batch->Next().ok());
  failing.fails = false;
  EXPECT_EQ(Step(batch.get()), "slot 1 is lost: a step did not finish; drop it");
  ASSERT_TRUE(batch->Drop(1).ok());
  auto anew = Reader(0, 9, {}, model, 40);
  ASSERT_TRUE(batch->Put(1, *anew).ok());
  EXPECT_EQ(Step(batch.get()), absl::StrCat("-1 ", anew->Next()->token));
}

}  // namespace
}  // namespace xh::test
